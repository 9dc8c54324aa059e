"""Runs of equal rows that are no text: padding at the ends of sequences, and stale rows anywhere.

Over six layers of the embedded model, rows of prose and of mathematics (470,000 tokens) equal the one before them at 2
in 10,000 places and never twice in a row; in LaTeX and code (35,000 tokens) the longest run is 20 rows, of one repeated
symbol. Prompts of one repeated token give runs of any length, and so do routers that collapsed: a run is weighed by how
often its row occurs, and repeats, elsewhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...routing.record import Mask
from ._rows import Hashes, runs_of
from ._shared import CERTAIN

LONG = 24
"""Equal rows, one after the other, that are no text where their row is rare: the longest run of text had 20."""

ENDING = 4
"""Equal rows at an end that are no text where many sequences have them; `STALE` where each has rows of its own."""

STALE = 8

MANY = 3
"""Sequences that are many, if they are also a quarter of all."""

UNLIKELY = 1e-3
"""Chance of a run, by how common its row is elsewhere, below which it is none."""

LIKE = 13.0
"""Bits of a last row that is like padding by chance, 1 in 8,000; `RUN` of them if it is one of a run."""

RUN = 6.0

INSIDE, START_OF, END, LONG_INSIDE, LONG_AT_END = range(5)
"""Where a run stands in its sequence."""

TOLD = 8
"""Equal rows that are told, even though they are counted."""


@dataclass
class Seen:
    """What is kept of a sequence: rows that have ids, by their hashes, and which are left out.

    cluster: domain, file and sequence. tokens: T. there: positions of the rows. like: of each, whether it is like
    padding. blank: positions of rows of one number. out: [T], what is not counted. dropped: nothing of it is.
    """

    where: str
    cluster: tuple[str, int, int]
    tokens: int
    hashes: Hashes
    there: npt.NDArray[np.int64]
    like: Mask
    blank: npt.NDArray[np.int64]
    out: Mask | None = None
    dropped: bool = False
    ordered: bool = True


class Stretch(NamedTuple):
    """Rows ``start`` to ``stop`` of those of a sequence that have ids, all equal; at: end, start, middle or all."""

    seen: Seen
    start: int
    stop: int
    at: str
    padding: bool

    @property
    def length(self) -> int:
        return self.stop - self.start

    def left_out(self) -> npt.NDArray[np.int64]:
        """Positions: all of padding; of a row that is real somewhere, all but the one next to the text."""
        stretch = self.seen.there[self.start : self.stop]
        return stretch if self.padding else stretch[:-1] if self.at == "start" else stretch[1:]


class Shape(NamedTuple):
    """Of rows: L layers, K of E experts."""

    layers: int
    top_k: int
    experts: int

    def bits(self) -> float:
        """Of a row, if all selections were equally likely."""
        return float(self.layers * math.log2(math.comb(max(self.experts, self.top_k), self.top_k)))

    def like_bits(self) -> float:
        """Of a row being like padding."""
        return float(max(self.layers - 1, 1) * math.log2(math.perm(max(self.experts, self.top_k), self.top_k)))


def stretches(seen: Sequence[Seen], shape: Shape) -> tuple[list[Stretch], Stretch | None]:
    """Runs of equal rows that are no text; and the longest one that may be, if it is to be told."""
    ordered = [s for s in seen if s.ordered and len(s.hashes)]
    common = Common(ordered)
    runs = [stretch for s in ordered for stretch in _runs(s, TOLD)]
    every = [s for s in runs if s.length >= LONG]
    by_chance = sum({_row(s): common.chance(s, LONG) for s in every}.values())
    together = len(every) >= MANY and _at_least(len(every), by_chance) < UNLIKELY
    long = [s for s in every if together or common.chance(s, LONG) < UNLIKELY]
    certain = [e for at in ("end", "start") for e in _ending(at, ordered, common, long, shape)] + long
    once = {(id(s.seen), s.start): s for s in reversed(certain)}  # what is padding at an end may be long, too
    rest = [s for s in runs if (id(s.seen), s.start) not in once]
    return list(once.values())[::-1], max(rest, key=lambda s: s.length, default=None)


def _ending(at: str, ordered: Sequence[Seen], common: Common, long: Sequence[Stretch], shape: Shape) -> list[Stretch]:
    """Runs at one end of the sequences that are no text because many sequences have them, or of what they hold."""
    ends = [_end(s, at) for s in ordered]
    many = max(MANY, math.ceil(len(ends) / 4))
    least = ENDING if shape.bits() >= CERTAIN else STALE
    same = Counter(_row(e) for e in ends if e.length >= least)
    first = {_row(e): e._replace(at=at) for e in ends}
    padding = {r for r, n in same.items() if n >= many and common.chance(first[r], least) ** n < UNLIKELY}
    twice = Counter(_row(e) for e in ends if e.length > 1)
    padding |= {_row(s) for s in long if s.at in (at, "all") and twice[_row(s)] > 1}
    for row, n in Counter(_row(e) for e in ends if e.seen.like[e.start]).items():
        told = RUN if max(e.length for e in ends if _row(e) == row) >= ENDING else 0.0
        if n * (shape.like_bits() + told - math.log2(len(ends) * max(1.0, common.expected(row)))) > LIKE:
            padding.add(row)
    found = [e._replace(padding=True) for e in ends if _row(e) in padding]
    own = [e for e in ends if e.length >= STALE and _row(e) not in padding]
    by_chance = sum({_row(e): common.chance(e._replace(at=at), STALE) for e in own}.values())
    stale = len(own) >= many and _at_least(len(own), by_chance * len(ends) / max(common.rows, 1)) < UNLIKELY
    return found + (own if stale else [])


def _row(stretch: Stretch) -> int:
    return int(stretch.seen.hashes[stretch.start])


def _head(hashes: Hashes) -> int:
    """Length of the run at the start."""
    other = np.flatnonzero(hashes != hashes[0])
    return int(other[0]) if len(other) else len(hashes)


def _end(seen: Seen, at: str) -> Stretch:
    """The run at the end, or at the start."""
    n = len(seen.hashes)
    length = _head(seen.hashes[::-1] if at == "end" else seen.hashes)
    start = n - length if at == "end" else 0
    return Stretch(seen, start, start + length, "all" if length == n else at, False)


def _runs(seen: Seen, least: int) -> Iterator[Stretch]:
    """Runs of at least so many rows."""
    runs = runs_of(seen.hashes)
    n = len(seen.hashes)
    for number in np.flatnonzero(runs.length >= least).tolist():
        start, length = int(runs.start[number]), int(runs.length[number])
        at = "all" if length == n else "start" if start == 0 else "end" if start + length == n else "middle"
        yield Stretch(seen, start, start + length, at, bool(seen.like[start]))


def _at_least(number: int, expected: float) -> float:
    """A bound of the chance of so many, or more, where so many are expected (Chernoff's, of a Poisson distribution)."""
    return (
        1.0 if number <= expected else math.exp(number - expected - number * math.log(number / max(expected, 1e-300)))
    )


class Common:
    """How often rows occur, and repeat, away from where a run of them stands."""

    def __init__(self, sequences: Sequence[Seen]) -> None:
        self.sequences = len(sequences)
        runs = [runs_of(s.hashes) for s in sequences]
        length = np.concatenate([r.length for r in runs] or [np.zeros(0, np.int64)])
        row = np.concatenate(
            [s.hashes[r.start] for s, r in zip(sequences, runs, strict=True)] or [np.zeros(0, np.uint64)]
        )
        each = np.array([len(r.start) for r in runs], dtype=np.int64)
        ends = np.cumsum(each)
        starts = ends - each
        place = np.full(len(length), INSIDE)
        place[ends - 1], place[starts] = END, START_OF  # of one run alone: the start
        alone = np.zeros(len(length), dtype=bool)
        alone[starts] = each == 1
        long = length >= LONG
        place[long] = np.where(place[long] == INSIDE, LONG_INSIDE, LONG_AT_END)
        counted = ~(long & alone)
        self.rows = int(length.sum())
        self._known, at = np.unique(row[counted], return_inverse=True)
        self._rows, self._runs = (np.zeros((5, len(self._known)), dtype=np.int64) for _ in range(2))
        np.add.at(self._rows, (place[counted], at), length[counted])
        np.add.at(self._runs, (place[counted], at), 1)

    def chance(self, stretch: Stretch, length: int) -> float:
        """How many runs of ``length`` such rows there would be by chance, given those elsewhere.

        A router that collapsed has long runs of its row, and short ones of it, too.
        """
        rows, runs = self._elsewhere(_row(stretch), stretch.at)
        share, again = (rows + 0.5) / (self.rows + 1), (rows - runs + 0.5) / (rows + 1)
        return float(self.rows * share * again ** (length - 1))

    def expected(self, row: int) -> float:
        """How many there are elsewhere than at the end."""
        return float(self._elsewhere(row, "end")[0])

    def _elsewhere(self, row: int, at: str) -> tuple[int, int]:
        """(rows, runs) of such rows but at that end: in runs below `LONG`, and where no padding stands, any."""
        place = int(np.searchsorted(self._known, np.uint64(row)))
        if place == len(self._known) or int(self._known[place]) != row:
            return 0, 0
        parts = {
            "end": [INSIDE, LONG_INSIDE, START_OF],
            "start": [INSIDE, LONG_INSIDE, END],
            "middle": [INSIDE, START_OF, END],
            "all": [INSIDE, LONG_INSIDE, START_OF, END, LONG_AT_END],
        }[at]
        return int(self._rows[parts, place].sum()), int(self._runs[parts, place].sum())
