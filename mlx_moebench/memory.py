"""What memory is free, and what limits (``ulimit -v``, control groups) leave of it, asked before it is needed."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from .errors import MoebenchError

ROOM = 512 * 2**20
"""Bytes that must be left: MLX and OpenBLAS, which take 128 MiB at a time, crash or wait for ever when refused."""


def check_room() -> None:
    """Raise `MoebenchError` where the limit is so near that a library would end the process, or hang in it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux
        return
    left, whole, least = (size // 2**20 for size in (limit - used, limit, ROOM))
    if left < least:
        raise MoebenchError(
            f"There is too little memory: the limit on the address space (ulimit -v) leaves {left:,} of {whole:,} MiB, "
            f"and {least} are the least that can be computed with; raise the limit."
        )


PART = 0.75
"""Of the memory of a machine that does not say how much is free: what macOS lets a GPU work in, by default."""

_CGROUPS = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has free, within the limits of its control groups and of
    ``ulimit``. Where the machine does not say, as macOS, `PART` of all of it."""
    return max(0, min(_free_on_machine(), *_left_in_groups(), *_left_by_ulimit()))


def _free_on_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    except (OSError, StopIteration):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * PART)


def _left_in_groups() -> Iterator[int]:
    """What each control group that this process is in, and each around it, leaves; the page cache can be taken back."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds == "memory":
            root, names = _CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        elif not kinds:
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if (left := _left_in(folder, *names)) is not None:
                yield left
            if folder == root:
                break


def _left_in(folder: Path, limit: str, used: str, cached: str) -> int | None:
    """What one control group leaves; None where it has no limit."""
    try:
        most = int((folder / limit).read_text())
        taken = int((folder / used).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return most - taken + int(statistics.get(cached, 0))
    except (OSError, ValueError):  # no such file, or the word max
        return None


def _left_by_ulimit() -> Iterator[int]:
    """What the limits on the address space and on data leave, without `ROOM`."""
    for kind, field in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        limit, _ = resource.getrlimit(kind)
        if limit == resource.RLIM_INFINITY:
            continue
        try:
            used = int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()
        except OSError:  # no Linux
            continue
        yield limit - used - ROOM
