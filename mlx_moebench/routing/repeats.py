"""Sequences that hold the same tokens are one: a second copy says nothing that the first did not.

Every interval takes sequences to be drawn independently. A text that occurs c times would count as c of them, and
narrow the intervals by the root of c. Texts are known by a hash of their token ids, as the model was given them; in two
domains the same text is drawn twice, once for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..types import HostArray
from .stats import RoutingSums
from .sums import Floats, Sums


@dataclass(frozen=True)
class Units:
    """What is drawn independently: N sequences in G <= N units.

    labels [N]: the unit of each sequence, numbered in the order of their first ones. first [G]: that first sequence.
    """

    labels: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]

    @property
    def repeated(self) -> int:
        """Sequences that repeat an earlier one."""
        return len(self.labels) - len(self.first)

    def sums(self, sums: Sums) -> Sums:
        """Of each unit, from those of each sequence."""
        return sums.grouped(self.labels) if self.repeated else sums

    def lengths(self, n_tokens: npt.ArrayLike) -> Floats:
        """Tokens of one copy of each unit [G], from those of each sequence [N]."""
        return np.asarray(n_tokens, dtype=np.float64)[self.first]

    def strata(self, strata: Sequence[str]) -> list[str]:
        """The domain of each unit."""
        return [strata[row] for row in self.first]


def units_of(keys: Iterable[Hashable]) -> Units:
    """Units of sequences with these keys, in order: equal keys are one.

    >>> units_of(["a", "b", "a"]).labels
    array([0, 1, 0])
    """
    numbers: dict[Hashable, int] = {}
    first: list[int] = []
    labels = []
    for row, key in enumerate(keys):
        if key not in numbers:
            numbers[key] = len(numbers)
            first.append(row)
        labels.append(numbers[key])
    return Units(np.array(labels, dtype=np.intp), np.array(first, dtype=np.intp))


def text_units(*sides: RoutingSums, rows: Sequence[Sequence[int]] | None = None) -> Units:
    """Units of the sequences of one measurement, or of those that two measurements share.

    rows: of each side the rows of its `clusters` that are meant, in the same order; all, by default. Sequences whose
    tokens are not known, on either side, are units of their own.
    """
    keys: list[list[Hashable]] = []
    for number, side in enumerate(sides):
        clusters, strata = side.clusters, side.strata
        wanted = range(len(clusters)) if rows is None else rows[number]
        keys.append([(strata[row], side.texts.get(clusters[row], clusters[row])) for row in wanted])
    return units_of(zip(*keys, strict=True))


def text_hash(windows: Iterable[HostArray]) -> int:
    """64 bits of the token ids of a sequence, one array for each of its windows; never 0."""
    digest = hashlib.blake2b(digest_size=8)
    for ids in windows:
        digest.update(len(ids).to_bytes(8, "little") + np.ascontiguousarray(ids, dtype="<i4").tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True) or 1


def repeated_openings(texts: Sequence[HostArray]) -> npt.NDArray[np.int64]:
    """[N] tokens at the beginning of each text that another begins with as well, of every such group all but one.

    A causal model routes a token by what stands before it: those of a shared opening are one observation, and so are
    all of a text that occurs twice.

    >>> repeated_openings([np.array([1, 2, 3]), np.array([1, 2, 4, 5]), np.array([2, 2])])
    array([0, 2, 0])
    """
    # Of texts in order of their tokens, each shares with the one before it the most that it shares with any before it.
    order = sorted(range(len(texts)), key=lambda number: texts[number].astype(">i4").tobytes())
    shared = np.zeros(len(texts), dtype=np.int64)
    for before, number in pairwise(order):
        size = min(len(texts[before]), len(texts[number]))
        differs = texts[before][:size] != texts[number][:size]
        shared[number] = differs.argmax() if differs.any() else size
    return shared
