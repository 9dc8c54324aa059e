"""What a comparison finds: effects on metrics, distances of loads; as values alone where sequences are not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..intervals.bootstrap import Interval
from ..metrics.registry import METRICS
from ..sums import Floats
from .resampling import LOADS, load_distances

OTHER_EXPERTS = "the sides have other numbers of experts"


@dataclass(frozen=True)
class Effect:
    """One metric on both sides. Without an interval, for the reason that it gives, there are no p and q either.

    q: p adjusted over the routers of one kind (Benjamini and Hochberg 1995). detectable: see `differences`.
    """

    a: float
    b: float
    interval: Interval
    p: float | None = None
    q: float | None = None
    detectable: float | None = None

    @property
    def effect(self) -> float:
        """b - a, in the unit of the metric; NaN where either is."""
        return self.b - self.a

    def to_dict(self) -> dict[str, object]:
        """For JSON: null where a number is undefined, and the reason."""
        numbers = {name: finite(getattr(self, name)) for name in ("a", "b", "effect")}
        return {**numbers, **self.interval.to_dict(), **tests(self)}


@dataclass(frozen=True)
class Distance:
    """How far the two loads of a router lie apart, without what chance adds; plugin: with it. Else as `Effect`."""

    value: float
    interval: Interval
    plugin: float
    p: float | None = None
    q: float | None = None
    detectable: float | None = None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        values = {"value": finite(self.value), **self.interval.to_dict(), "plugin": finite(self.plugin)}
        return {**values, **tests(self)}

    @classmethod
    def plain(cls, value: float, reason: str) -> Distance:
        """The distance as it was measured, and why there is no more."""
        return cls(value, Interval(reason=reason), value)


def tests(of: Effect | Distance) -> dict[str, float | None]:
    """For JSON: what was tested; q only where there are several routers."""
    return {"p": of.p, "detectable": of.detectable} | ({} if of.q is None else {"q": of.q})


@dataclass(frozen=True)
class LoadChange:
    """What became of every expert of a router.

    change [R]: token share at B minus at A; None where the sides have other numbers of experts.
    band: (u, v), the true changes of all experts lie in [change - u, change + v] together; None with ``reason``.
    """

    distances: dict[str, Distance]
    change: Floats | None
    band: tuple[float, float] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Differences:
    """Of the routers of one kind. mean: effects on the mean over them; peak: on the largest value over them."""

    routers: list[dict[str, Effect]]
    loads: list[LoadChange]
    mean: dict[str, Effect]
    peak: dict[str, Effect]


@dataclass(frozen=True)
class Point:
    """What is known of a router without its sequences: metrics by name, load [R], K."""

    values: Mapping[str, float]
    load: Floats
    top_k: int


def point_differences(a: Sequence[Point], b: Sequence[Point], *, reason: str) -> Differences:
    """Effects without intervals or p-values; ``reason`` says why."""
    nothing = Interval(reason=reason)
    rows: list[dict[str, Effect]] = []
    for x, y in zip(a, b, strict=True):
        names = [name for name in METRICS if name in x.values and name in y.values]
        rows.append({name: Effect(x.values[name], y.values[name], nothing) for name in names})
    loads = [_point_load_change(x, y, reason) for x, y in zip(a, b, strict=True)]
    mean, highest = _point_overall(rows, nothing)
    return Differences(rows, loads, mean, highest)


def _point_overall(
    rows: Sequence[Mapping[str, Effect]], nothing: Interval
) -> tuple[dict[str, Effect], dict[str, Effect]]:
    """Of every metric that a router has on both sides: of the mean over the routers, of the largest value."""
    mean, highest = {}, {}
    for name, metric in METRICS.items():
        values = [(e.a, e.b) for row in rows if (e := row.get(name)) is not None and math.isfinite(e.effect)]
        if values:
            of_a, of_b = zip(*values, strict=True)
            mean[name] = Effect(float(np.mean(of_a)), float(np.mean(of_b)), nothing)
            if metric.interval == "maximum":
                highest[name] = Effect(max(of_a), max(of_b), nothing)
    return mean, highest


def _point_load_change(a: Point, b: Point, reason: str) -> LoadChange:
    alike = len(a.load) == len(b.load)
    distances = load_distances(a.load, b.load) if alike else dict.fromkeys(LOADS, np.array(math.nan))
    reasons = reason if alike else OTHER_EXPERTS
    apart = {name: Distance.plain(float(value), reasons) for name, value in distances.items()}
    return LoadChange(apart, b.load * b.top_k - a.load * a.top_k if alike else None, reason=reason)


def finite(value: float) -> float | None:
    """None for NaN, as JSON has it."""
    return value if math.isfinite(value) else None
