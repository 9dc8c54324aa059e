"""Counts that each rank of one run wrote by itself, which only their sum tells of."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...errors import DataError
from . import NamedFile

Layers = Mapping[int, Mapping[int, int]]
"""{layer: {expert: count}}; an expert that is left out has none."""

RANK = re.compile(r"(?<![a-z])rank[_-]?(\d+)", re.IGNORECASE)
TIME = re.compile(r"(?<![a-z])timestamp[_-]?[\d.]*\d", re.IGNORECASE)
SHORT = re.compile(r"(?<![a-z])r[_-]?(\d+)", re.IGNORECASE)


def rank_of(path: Path) -> int | None:
    """The rank in a file's name, as in ``expert_distribution_rank0_timestamp17.5.csv`` or ``r0.csv``; else None."""
    match = RANK.search(path.stem) or SHORT.fullmatch(path.stem)
    return int(match[1]) if match else None


def run_of(path: Path) -> str:
    """What files of the ranks of one run are called alike: ranks write at slightly different times."""
    return TIME.sub("timestamp", RANK.sub("rank", path.name))


def check_no_ranks(files: Sequence[NamedFile]) -> None:
    """Raise `DataError` for files that are named as ranks of one run, where each would be a domain."""
    runs: dict[str, list[Path]] = {}
    for file in files:
        if RANK.search(file.path.stem):
            runs.setdefault(run_of(file.path), []).append(file.path)
    for paths in runs.values():
        if len(paths) > 1:
            raise DataError(
                f"{paths[0]} and {paths[1]} are named as ranks of one run, whose counts are no domains of their own: "
                "add them with --ranks add, or, if they are of several runs, rename the files."
            )


def added(files: Sequence[NamedFile], read: Callable[[Path], Layers]) -> tuple[Layers, list[str]]:
    """The sum of the counts of the ranks of one run, and what is to be said of it.

    Raises `DataError` where a rank is there twice, or ranks have other layers or the same counts.
    """
    numbers = {file.path: rank_of(file.path) for file in files}
    known = sorted(rank for rank in numbers.values() if rank is not None)
    if len(files) < 2:
        raise DataError(f"--ranks add needs the files of several ranks, and {files[0].path} is one: leave it out.")
    if twice := [rank for rank in known if known.count(rank) > 1]:
        raise DataError(
            f"Rank {twice[0]} is there twice, as where there are several runs: import each run by itself with --ranks "
            "add, then merge them."
        )
    counts = [(file.path, read(file.path)) for file in files]
    for path, layers in counts:
        if negative := [layer for layer, experts in layers.items() if min(experts.values(), default=0) < 0]:
            raise DataError(f"Layer {negative[0]} of {path} has a negative count.")
    first, layers = counts[0]
    total = {layer: dict(experts) for layer, experts in layers.items()}
    for path, other in counts[1:]:
        if sorted(other) != sorted(layers):
            raise DataError(
                f"{path} has layers {_listed(other)}, but {first} has {_listed(layers)}: the ranks of one run have "
                "the same."
            )
        if all(_present(other[layer]) == _present(layers[layer]) for layer in layers):
            raise DataError(
                f"{path} has the same counts as {first}, as with tensor parallelism, where every rank counts every "
                "token: import the file of one rank, without --ranks."
            )
        for layer, experts in other.items():
            for expert, count in experts.items():
                total[layer][expert] = total[layer].get(expert, 0) + count
    notes = [f"counts of {len(files)} ranks added"]
    if known and (missing := sorted(set(range(known[-1] + 1)) - set(known))):
        notes.append(f"no file of rank {', '.join(map(str, missing))}")
        warnings.warn(
            f"There are files of rank {', '.join(map(str, known))}, but none of {', '.join(map(str, missing))}: the "
            "sum "
            "lacks what it counted.",
            stacklevel=2,
        )
    return total, notes


def _present(experts: Mapping[int, int]) -> dict[int, int]:
    return {expert: count for expert, count in experts.items() if count}


def _listed(layers: Layers) -> str:
    return ", ".join(map(str, sorted(layers)))
