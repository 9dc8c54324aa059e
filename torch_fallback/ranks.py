"""Several processes that share one measurement, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
import torch.distributed as dist

from mlx_moebench.routing.record import Phase
from mlx_moebench.routing.stats import RoutingStats
from mlx_moebench.routing.storage import stats_of_blob, sums_blob


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


def gather(found: Mapping[Phase, RoutingStats]) -> dict[Phase, RoutingStats]:
    """The statistics of all ranks together, on every rank. They travel as stats pairs do, never pickled."""
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo")  # on the CPU: what travels is small, and NCCL would need one GPU a rank
    try:
        return {phase: RoutingStats.merge(_exchanged(stats)) for phase, stats in found.items()}
    finally:
        if ours:
            dist.destroy_process_group()


def _exchanged(stats: RoutingStats) -> list[RoutingStats]:
    blob = torch.frombuffer(bytearray(sums_blob(stats)), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(blob)]))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(blob)] = blob
    blobs = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(blobs, padded)
    parts = [bytes(b[: int(size)].numpy()) for b, size in zip(blobs, sizes, strict=True)]
    return [stats_of_blob(part, f"the statistics of rank {rank}") for rank, part in enumerate(parts)]
