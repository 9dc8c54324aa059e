"""Rows of expert ids by their hashes: which repeat, which are no selection, and which sequence goes on with another.

A row is a token's ids in all layers. Everything here is one pass over [T, L, K] and what follows from 8 bytes a token,
in a time near to linear in T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...routing.record import Mask
from ...types import HostArray

Hashes = npt.NDArray[np.uint64]

CHUNK = 8192  # rows hashed at a time, which are 8 bytes an id meanwhile


class Runs(NamedTuple):
    """Runs of equal rows: where each starts, and how many rows it has."""

    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]


def mixed(x: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of x (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(n: int) -> Hashes:
    """n odd numbers, always the same."""
    steps = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mixed(steps) | np.uint64(1)


def row_hashes(ids: HostArray) -> Hashes:
    """[T] of ids [T, L, K]: equal for equal rows, whatever integers hold them; else alike by chance, 1 in 2^64."""
    flat = ids.reshape(len(ids), ids.shape[1] * ids.shape[2])
    weights = keys(flat.shape[1])
    parts = [flat[at : at + CHUNK].astype(np.uint64) @ weights for at in range(0, len(flat), CHUNK)]
    return mixed(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)


def prefix_hashes(hashes: Hashes) -> Hashes:
    """[T]: at t, the hash of the rows 0 to t in their order."""
    positions = keys(len(hashes))
    return mixed(np.cumsum(hashes * positions, dtype=np.uint64) ^ positions)


def runs_of(hashes: Hashes) -> Runs:
    """The runs of equal rows, of one row upwards, in their order."""
    if not len(hashes):
        return Runs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    start = np.concatenate([[0], np.flatnonzero(hashes[1:] != hashes[:-1]) + 1])
    return Runs(start, np.diff(np.append(start, len(hashes))))


def blank_rows(ids: HostArray, experts: int) -> Mask:
    """[T]: rows of one number, which no router selects: K experts are different ones, and below E."""
    first = ids[:, 0, 0]
    same = (ids == first[:, None, None]).all(axis=(1, 2))
    if ids.shape[2] > 1:
        return np.asarray(same, dtype=bool)
    return np.asarray(same & ((first < 0) | (first >= experts)), dtype=bool)


def like_padding(row: HostArray) -> bool:
    """Whether a row [L, K] has the same ids in the same order in every layer, or, of one layer, 0 to K - 1."""
    if len(row) > 1:
        return bool((row == row[0]).all())
    return bool((row[0] == np.arange(row.shape[1])).all())


def continued(sequences: Sequence[Hashes]) -> npt.NDArray[np.int64]:
    """For each sequence of row hashes another that begins with all of it, or -1.

    Of equal ones the first counts, and the others name it. A sequence without rows is nobody's beginning. The time is
    that of sorting, and of one look-up for each length that occurs in each sequence.
    """
    into = np.full(len(sequences), -1)
    lengths = np.array([len(hashes) for hashes in sequences], dtype=np.int64)
    prefixes = [prefix_hashes(hashes) for hashes in sequences]
    whole = np.array([prefix[-1] if len(prefix) else 0 for prefix in prefixes], dtype=np.uint64)
    known, first, group = np.unique(whole, return_index=True, return_inverse=True)
    first_of = first[group]
    twice = first_of != np.arange(len(sequences))
    into[twice] = first_of[twice]
    distinct = np.unique(lengths[lengths > 0])
    for number, prefix in enumerate(prefixes):
        shorter = distinct[distinct < len(prefix)]
        found = prefix[shorter - 1]
        at = np.minimum(np.searchsorted(known, found), len(known) - 1)
        into[first[at[known[at] == found]]] = number
    into[lengths == 0] = -1
    return into


def common_start(sequences: Sequence[Hashes]) -> int:
    """How many first rows all of the sequences have in common."""
    shared = sequences[0]
    for hashes in sequences[1:]:
        n = min(len(shared), len(hashes))
        other = np.flatnonzero(shared[:n] != hashes[:n])
        shared = shared[: other[0] if len(other) else n]
    return len(shared)
