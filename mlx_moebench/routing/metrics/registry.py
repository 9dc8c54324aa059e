"""How a metric is declared, found by name, and computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...errors import MoebenchError, did_you_mean
from ..sums import Floats, Sums

Group = Literal["entropy", "load", "margin", "structure"]
IntervalKind = Literal["mean", "maximum", "plugin", "distance", "none"]
"""Which interval a metric gets (see `routing.intervals.bootstrap`).

``mean``: a ratio of sums over tokens. ``maximum``: the largest of R shares. ``plugin``: a smooth function of the
shares, biased in finite samples. ``distance``: how far the shares are from even. ``none``: resampling says nothing
about it.
"""
Limit = Callable[[int, int], float]
"""A bound as a function of (E, K)."""


class Even(NamedTuple):
    """What a metric is compared with where it is drawn: its value when routing is even, or by chance, in words."""

    words: str
    value: Limit


@dataclass(frozen=True)
class Metric:
    """A number that describes one router.

    function: Sums -> [...], or [..., R] when interval is ``maximum`` (the metric is then the maximum over R).
    low, high: its bounds as functions of (E, K). label: its name for people, in tables, figures and exports. even: what
    it is drawn against, layer by layer; metrics without it are not drawn. integer: it counts something.
    """

    name: str
    group: Group
    unit: str
    interval: IntervalKind
    low: Limit
    high: Limit
    function: Callable[[Sums], Floats]
    label: str
    even: Even | None = None
    integer: bool = False

    def values(self, sums: Sums) -> Floats:
        """The metric for every leading index of ``sums``, shape [...]."""
        result = self.function(sums)
        return result.max(axis=-1) if self.interval == "maximum" else result


METRICS: dict[str, Metric] = {}


def metric(
    group: Group,
    unit: str,
    interval: IntervalKind,
    low: Limit = lambda e, k: 0.0,
    high: Limit = lambda e, k: math.inf,
    *,
    label: str,
    even: Even | None = None,
    integer: bool = False,
) -> Callable[[Callable[[Sums], Floats]], Callable[[Sums], Floats]]:
    """Register a function of `Sums` as a metric under its own name.

    Its docstring gives Formula, Unit, Range, Null (when it is undefined, or what chance gives) and Source.
    """

    def register(function: Callable[[Sums], Floats]) -> Callable[[Sums], Floats]:
        name = function.__name__
        METRICS[name] = Metric(name, group, unit, interval, low, high, function, label, even, integer)
        return function

    return register


def get_metric(name: str) -> Metric:
    """The metric of that name; a wrong name raises `MoebenchError` with the nearest right one."""
    if name not in METRICS:
        raise MoebenchError(f"Unknown metric {name!r}.{did_you_mean(name, sorted(METRICS))}")
    return METRICS[name]


def compute(sums: Sums) -> dict[str, Floats]:
    """Every metric of ``sums`` by name, each of shape [...]; undefined values are NaN."""
    return {name: m.values(sums) for name, m in METRICS.items()}
