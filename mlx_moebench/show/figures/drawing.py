"""A figure, described once for whatever draws it: numbers, axes, units and words, and neither colours nor sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ...routing.sums import Floats
from ...types import HostArray
from ..colours import DOMAINS
from .base import RouterId, Value, labels

ALL = ""
"""In place of the name of a domain: all of them together."""

HUES, DASHES = len(DOMAINS), 4
"""How many colours and dashes there are; of markers as many as of colours."""

CLEAR = 0.05
"""Effects with a smaller q are marked."""


@dataclass(frozen=True)
class Points:
    """Where the points of a line stand. names: each in words, ``layer 3``. cells: what a table says of each."""

    x: tuple[float, ...]
    names: tuple[str, ...]
    cells: tuple[tuple[Any, ...], ...]


def points_of(routers: tuple[RouterId, ...], kind: str) -> tuple[Points, list[int]]:
    """Layers as points, those of one ``kind`` of router, and their numbers among all ``routers``."""
    names = labels(routers)
    places = [place for place, router in enumerate(routers) if router.router == kind]
    points = Points(
        tuple(routers[place].layer for place in places),
        tuple(f"layer {names[place]}" for place in places),
        tuple((routers[place].layer, routers[place].router) for place in places),
    )
    return points, places


def kinds_of(routers: tuple[RouterId, ...]) -> list[str]:
    """The kinds of router, in the order in which they come."""
    return list(dict.fromkeys(router.router for router in routers))


@dataclass(frozen=True)
class Line:
    """One line of a chart. facts: further numbers of each point by name. note: of how much data. hidden: at first.

    domain: the domain that it is of, which gives it its colour; ``ALL`` of all domains together, None where lines are
    told apart by something else.
    """

    name: str
    points: Points
    values: tuple[Value, ...]
    facts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    note: str = ""
    hidden: bool = False
    domain: str | None = None


class Style(NamedTuple):
    """How a line looks: the number of its colour, None for the grey of all domains, of its dash and of its marker."""

    hue: int | None
    dash: int
    marker: int


def styles_of(lines: Sequence[Line], domains: Iterable[str] = (), first: int = 0) -> list[Style]:
    """The look of every line of a chart, no two the same while there are colours and dashes.

    A line of a domain has its colour, by the place among all ``domains`` of the page or picture, then among those of
    the lines; a second line of a domain has another dash. Other lines take colours in turn, from the one of number
    ``first``; where those begin anew, each meets another dash.
    """
    named = dict.fromkeys((*domains, *(line.domain for line in lines if line.domain)))
    place_of = {name: place for place, name in enumerate(named)}
    turns = -(-len(named) // HUES)
    styles, seen = [], Counter[str | None]()
    for number, line in enumerate(lines):
        again = seen[line.domain]
        seen[line.domain] += 1
        if line.domain is None:
            turn = number // HUES
            styles.append(Style((first + number) % HUES, turn % DASHES, (number + turn) % HUES))
        elif line.domain == ALL:
            styles.append(Style(None, again % DASHES, again % HUES))
        else:
            turn, hue = divmod(place_of[line.domain], HUES)
            styles.append(Style(hue, (again * turns + turn) % DASHES, (hue + again + turn + 1) % HUES))
    return styles


@dataclass(frozen=True)
class Reference:
    """What lines are held against: its name, and its value at each x. line: number of the only line that it is of."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    line: int | None = None


@dataclass(frozen=True)
class Chart:
    """Lines over layers, steps or scores.

    title; label: what it shows, for those who do not see it. x, y: names of the axes; that of y is the unit. value:
    what a value is called in a table, and ``ends`` what its low and high are, ``line_head`` and ``point_heads`` what
    tells lines and points apart. tip: what is said of a point, line by line, ``{value}`` and ``{fact}`` filled in.
    caption: definition, unit, intervals, sizes. layers: x are whole numbers. zero: 0 is in sight. tested: values have a
    q, and those below `CLEAR` are marked. signed: a value is written with its sign. bars: an interval may be drawn as
    one. legend: there is room for one. first_hue: number of the first colour, where others mean something else.
    whole: values are whole numbers.
    """

    title: str
    label: str
    x: str
    y: str
    value: str
    tip: tuple[str, ...]
    caption: str
    lines: tuple[Line, ...]
    references: tuple[Reference, ...] = ()
    line_head: str = ""
    point_heads: tuple[str, ...] = ("layer", "router")
    ends: tuple[str, str] = ("low", "high")
    layers: bool = True
    zero: bool = True
    joined: bool = True
    tested: bool = False
    signed: bool = False
    bars: bool = True
    legend: bool = True
    first_hue: int = 0
    whole: bool = False

    @property
    def whole_x(self) -> bool:
        """Whether x are whole numbers: layers, steps, checkpoints."""
        places = {x for line in self.lines for x in line.points.x}
        return self.layers or (len(places) > 1 and all(float(x).is_integer() for x in places))

    def styles(self, domains: Iterable[str] = ()) -> list[Style]:
        """The look of its lines, see `styles_of`."""
        return styles_of(self.lines, domains, self.first_hue)


@dataclass(frozen=True)
class Scale:
    """How values become colours, the same for all that are compared.

    even: from 0 over 1, the middle, to ``most``. log: ``most`` times the middle and its inverse are the ends. linear:
    from -most over 0 to most.
    """

    kind: Literal["even", "log", "linear"]
    most: float
    label: str
    middle: float = 1.0

    def place(self, values: HostArray) -> Floats:
        """Where values stand on the map, from -1 over 0, the middle, to 1: of even, below 1 in proportion, above it on
        a logarithmic scale."""
        v = np.asarray(values, dtype=np.float64)
        if self.kind == "linear":
            return np.asarray(v / self.most)
        if self.kind == "log":
            return np.asarray(np.log2(v / self.middle) / np.log2(self.most))
        return np.where(v < 1, v - 1, np.log(np.maximum(v, 1)) / np.log(self.most))

    def value(self, places: HostArray) -> Floats:
        """The inverse of `place`."""
        p = np.asarray(places, dtype=np.float64)
        if self.kind == "linear":
            return np.asarray(p * self.most)
        if self.kind == "log":
            return np.asarray(self.middle * self.most**p)
        return np.where(p < 0, 1 + p, self.most ** np.maximum(p, 0))


@dataclass(frozen=True)
class Measure:
    """One number of every cell of a heatmap.

    cells: whole or measured numbers, [columns] of each row; times: what all are multiplied by; over, across: what they
    are divided by, a number for each row and one for each column, none where by nothing. So counts are kept once,
    exactly, for all that is made of them.
    low, high: ends of the interval, as ``cells``. scale: of the colours; None where it is never shown as such.
    mirrored: what the value of (column, row) is called in a table of pairs, where that is another.
    """

    words: str
    unit: str
    cells: tuple[HostArray, ...]
    over: tuple[float, ...] = ()
    across: tuple[float, ...] = ()
    times: float = 1.0
    low: tuple[Floats, ...] = ()
    high: tuple[Floats, ...] = ()
    scale: Scale | None = None
    mirrored: str = ""

    @property
    def values(self) -> list[Floats]:
        """[columns] of each row; NaN where a divisor is 0."""
        rows = []
        for place, row in enumerate(self.cells):
            divisor = np.ones(len(row)) * (self.over[place] if self.over else 1.0)
            divisor = divisor * (np.array(self.across[: len(row)]) if self.across else 1.0)
            rows.append(np.divide(self.times * row, divisor, out=np.full(len(row), np.nan), where=divisor != 0))
        return rows


@dataclass(frozen=True)
class Heat:
    """Rows of cells in colour: routers or domains by experts, or experts by experts.

    rows: names. measures: numbers of every cell by name; ``shown`` is the one in colour unless another is chosen. tip:
    what is said of a cell, line by line: ``{row}``, ``{column}``, measures and ``facts`` of the row are filled in, and
    for ``{band}`` what its interval is, or the reason of the row why it has none. diagonal: the same of an expert with
    itself, in a square of pairs. beside: words right of each row, under ``beside_head``. row_heads, row_cells: what a
    table says of a row, or in a square of all. x_ordered: name of the x axis where each row has an order of its own.
    neutral: what the measure with an interval is under even routing, or without a change, row by row: cells whose
    interval holds it are faded. flags: of each row the finding that it is marked for, empty for none, and
    ``flag_words`` what the marks mean. groups: the number of the domain that each cell is most of, and
    their names. order: that of the columns, one of `ORDERS`.
    """

    title: str
    label: str
    x: str
    y: str
    rows: tuple[str, ...]
    measures: Mapping[str, Measure]
    shown: str
    tip: tuple[str, ...]
    caption: str
    row_heads: tuple[str, ...]
    row_cells: tuple[tuple[Any, ...], ...]
    facts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    band: str = ""
    reasons: tuple[str | None, ...] = ()
    beside: tuple[str, ...] = ()
    beside_head: str = ""
    x_ordered: str = ""
    diagonal: tuple[str, ...] = ()
    neutral: tuple[float, ...] = ()
    flags: tuple[str, ...] = ()
    flag_words: str = ""
    groups: tuple[HostArray, ...] = ()
    group_names: tuple[str, ...] = ()
    order: str = "number"

    @property
    def uncertain(self) -> list[npt.NDArray[np.bool_]]:
        """[columns] of each row: whether the interval of a cell holds `neutral`; False where it has none."""
        banded = next((one for one in self.measures.values() if one.low), None)
        if banded is None or not self.neutral:
            return [np.zeros(len(row), dtype=bool) for row in self.measures[self.shown].cells]
        ends = zip(banded.low, banded.high, self.neutral, strict=True)
        return [np.asarray((low <= even) & (even <= high)) for low, high, even in ends]  # False for NaN

    @property
    def square(self) -> bool:
        """Whether rows and columns are the same experts."""
        return bool(self.diagonal)
