"""Several processes that share one measurement, as torchrun starts them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist

from mlx_moebench.errors import MoebenchError
from mlx_moebench.pair.stats import RoutingStats
from mlx_moebench.pair.storage import stats_of_blob, sums_blob
from mlx_moebench.routing.record import Phase

PATIENCE = timedelta(days=30)
"""How long a rank that is ready waits for one that still measures; torchrun ends it where that one failed."""


def of_this_process() -> tuple[int, int] | None:
    """(rank, how many) that torchrun says in the environment; None without it, or where there is one rank."""
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if not (rank.isdecimal() and size.isdecimal()) or int(size) < 2:
        return None
    return int(rank), int(size)


def local_rank() -> int:
    """The rank among the processes of this machine; 0 without torchrun."""
    text = os.environ.get("LOCAL_RANK", "")
    return int(text) if text.isdecimal() else 0


@cache
def group() -> dist.ProcessGroup:
    """What the ranks talk through, made once a process: gloo, since what travels is small and NCCL needs a GPU a rank.

    Raises MoebenchError where they do not find each other; ask before hours of measuring.
    """
    try:
        if not dist.is_initialized():
            dist.init_process_group("gloo")
            atexit.register(dist.destroy_process_group)
        return dist.new_group(backend="gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise MoebenchError(
            f"RANK and WORLD_SIZE say that {os.environ['WORLD_SIZE']} processes share the work, but they do not find "
            f"each other ({error}): start them with torchrun, or unset WORLD_SIZE."
        ) from error


def gather(statistics: Mapping[Phase, RoutingStats]) -> dict[Phase, RoutingStats]:
    """The statistics of all ranks together, on every rank. They travel as stats pairs do, never pickled."""
    return {phase: RoutingStats.merge(_exchanged(stats)) for phase, stats in statistics.items()}


def _exchanged(stats: RoutingStats) -> list[RoutingStats]:
    blob = torch.frombuffer(bytearray(sums_blob(stats)), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    try:
        dist.all_gather(sizes, torch.tensor([len(blob)]), group=group())
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(blob)] = blob
        blobs = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
        dist.all_gather(blobs, padded, group=group())
    except RuntimeError as error:
        raise MoebenchError("Another process ended before its part was measured; its own message says why.") from error
    parts = [bytes(b[: int(size)].numpy()) for b, size in zip(blobs, sizes, strict=True)]
    return [stats_of_blob(RoutingStats, part, f"the statistics of rank {rank}") for rank, part in enumerate(parts)]
