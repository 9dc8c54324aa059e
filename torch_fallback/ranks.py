"""Several processes that share one measurement, as torchrun starts them."""

from __future__ import annotations

import os


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
