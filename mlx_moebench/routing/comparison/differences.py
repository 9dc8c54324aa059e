"""How the routing of two sides differs, B minus A: intervals and p-values from the bootstrap over sequences.

Two designs. Paired: both sides ran the same sequences, and one draw of sequences serves both, so that what two runs
have in common cancels. Unpaired: each side's sequences are drawn apart, inside its own data sets. Every metric is
recomputed on the sums of each draw, side by side. An interval is made by the kind of the metric (see `uncertainty`):

``mean``, ``plugin``
    BCa, and the basic interval, of the difference; with leave-one-outs of either side where they are not paired.
``distance``
    The basic interval of the difference. The bias of a distance depends on how even routing is; where one side is more
    even than the other, the interval is longer by the bias that the two do not share.
``maximum``
    See `maxima`: only experts that may be the busiest count, each pair of them held at once.

All are widened as in `uncertainty`, by the side that needs it more.

A p-value is 1 minus the highest level at which the interval leaves out 0: it answers the question that the interval
answers, whether this metric differs, and the two never disagree. Permuting sequences between the sides would test
something else, whether the sides route alike altogether. Where other experts are busy at B than at A, permuted sides
are mixtures, more even and less variable than either: for layer 2 of the embedded model on maths against code, a load
entropy that differs by -0.025 [-0.049, -0.001] gets p = 0.0005 that way, and 0.04 this way. Where routing alike is the
question, for distances between two loads, it is the permutation that answers it, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import false_discovery_control

from ...options import Plan
from ..intervals.bootstrap import Interval, basic, clipped, limits, metrics_of, resampled_interval, widening
from ..metrics.registry import METRICS, IntervalKind, Metric
from ..sums import Floats, Numbers, Sums
from .maxima import Maxima, MeanOfMaxima, peak
from .resampling import LOADS, Drawn, Samples, load_distances, share_change

ROUNDING = 1e-6
"""Differences up to this times max(1, |a|, |b|) are rounding: routers compute in float32. They get p = 1."""


@dataclass(frozen=True)
class Effect:
    """One metric on both sides. Without an interval, for the reason that it gives, there are no p and q either.

    q: p adjusted over the routers of one kind (Benjamini and Hochberg 1995).
    """

    a: float
    b: float
    interval: Interval
    p: float | None = None
    q: float | None = None

    @property
    def effect(self) -> float:
        """b - a, in the unit of the metric; NaN where either is."""
        return self.b - self.a

    def to_dict(self) -> dict[str, object]:
        """For JSON: null where a number is undefined, and the reason."""
        numbers = {name: _finite(getattr(self, name)) for name in ("a", "b", "effect")}
        return {**numbers, **self.interval.to_dict(), "p": self.p} | ({} if self.q is None else {"q": self.q})


@dataclass(frozen=True)
class Distance:
    """How far the two loads of a router lie apart, and how far permuted ones do: their mean and 95% quantile."""

    value: float
    null_mean: float | None = None
    null_high: float | None = None
    p: float | None = None
    q: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        extra = {"q": self.q, "reason": self.reason}
        known = {"value": _finite(self.value), "null_mean": self.null_mean, "null_high": self.null_high, "p": self.p}
        return known | {k: v for k, v in extra.items() if v is not None}


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


def differences(
    a: Sequence[Sums], b: Sequence[Sums], samples: Samples, plan: Plan, names: Sequence[str] | None = None
) -> Differences:
    """Effects of every metric (or of ``names``) on routers of one kind, a[i] against b[i].

    Every router shares the same draws, so what holds jointly is joint. plan.method: ``bca`` or ``percentile``.
    """
    metrics = metrics_of(names)
    if samples.too_few:
        return point_differences(_points(a, metrics), _points(b, metrics), reason=samples.too_few)
    draws, strata = samples.draws(plan), (len(set(samples.strata_a)), len(set(samples.strata_b)))
    drawn, wider = [], []
    for x, y in zip(a, b, strict=True):
        wider.append(_Widening([x.n_tokens, y.n_tokens], strata))
        drawn.append(Drawn(x, y, draws, metrics, wider[-1](plan.level), plan.level))
    every = list(zip(drawn, wider, strict=True))
    rows = [{m.name: _effect(d, w, m, plan) for m in metrics} for d, w in every]
    mean = {m.name: _mean(every, m, plan) for m in metrics}
    highest = {m.name: _peak(every, m, samples.paired, plan) for m in metrics if m.interval == "maximum"}
    changes = [_load_change(d, plan) for d in drawn]
    return Differences(_adjusted(rows), _adjusted_loads(changes), _present(mean), _present(highest))


@dataclass(frozen=True)
class Point:
    """What is known of a router without its sequences: metrics by name, load [R], K."""

    values: Mapping[str, float]
    load: Floats
    top_k: int


def _points(side: Sequence[Sums], metrics: Sequence[Metric]) -> list[Point]:
    totals = [s.total() for s in side]
    return [Point({m.name: float(m.values(t)) for m in metrics}, t.load, t.top_k) for t in totals]


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
    apart = {name: Distance(float(value), reason=reason) for name, value in distances.items()}
    return LoadChange(apart, b.load * b.top_k - a.load * a.top_k if alike else None, reason=reason)


class _Widening:
    """`uncertainty.widening` of the side that needs it more, for any level."""

    def __init__(self, n_tokens: Sequence[Numbers], strata: Sequence[int]) -> None:
        self._sides = list(zip(n_tokens, strata, strict=True))

    def __call__(self, level: float) -> float:
        return max(widening(tokens, strata, level) for tokens, strata in self._sides)


def _effect(d: Drawn, wider: _Widening, m: Metric, plan: Plan) -> Effect:
    """One metric of one router."""
    a, b = d.point[m.name]
    if not (math.isfinite(a) and math.isfinite(b)):
        why = "the metric is null on " + ("both sides" if math.isnan(a) and math.isnan(b) else "one side")
        return Effect(a, b, Interval(reason=why))
    if m.interval == "maximum":
        return _of_maxima(m, (a, b), d.maxima[m.name], wider, plan, [d])
    if m.interval == "none":
        return _without(m, (a, b))
    return _of_draws(m, (a, b), [d], wider, plan)


def _mean(every: Sequence[tuple[Drawn, _Widening]], m: Metric, plan: Plan) -> Effect | None:
    """A metric averaged over the routers that have it on both sides; None where none has."""
    have = [(d, w) for d, w in every if all(map(math.isfinite, d.point[m.name]))]
    if not have:
        return None
    drawn, wider = [d for d, _ in have], _widest(have, plan)
    a, b = np.mean([d.point[m.name] for d in drawn], axis=0).tolist()
    if m.interval == "maximum":
        return _of_maxima(m, (a, b), MeanOfMaxima([d.maxima[m.name] for d in drawn]), wider, plan, drawn)
    if m.interval == "none":
        return _without(m, (a, b))
    return _of_draws(m, (a, b), drawn, wider, plan)


def _widest(have: Sequence[tuple[Drawn, _Widening]], plan: Plan) -> _Widening:
    return max((w for _, w in have), key=lambda w: w(plan.level))


def _peak(every: Sequence[tuple[Drawn, _Widening]], m: Metric, paired: bool, plan: Plan) -> Effect | None:
    """The largest value of a maximum over the routers, which may be another router's at B than at A."""
    have = [(d, w) for d, w in every if m.name in d.maxima]
    if not have:
        return None
    highest = peak([d.maxima[m.name] for d, _ in have], paired)
    wider = _widest(have, plan)
    sides = float(highest.a.max()), float(highest.b.max())
    return _of_maxima(m, sides, highest, wider, plan, [d for d, _ in have])


def _without(m: Metric, sides: tuple[float, float]) -> Effect:
    return Effect(*sides, Interval(reason="resampling sequences says nothing about this metric"))


def _of_maxima(
    m: Metric,
    sides: tuple[float, float],
    of: Maxima | MeanOfMaxima,
    wider: _Widening,
    plan: Plan,
    drawn: Sequence[Drawn],
) -> Effect:
    def ends(level: float) -> tuple[float, float]:
        return of.ends(wider(level), level)

    interval = Interval(*ends(plan.level), "simultaneous bands over the experts that may be the busiest")
    return Effect(*sides, _clipped(interval, m, drawn), p=_p_value(*sides, ends, plan))


def _of_draws(m: Metric, sides: tuple[float, float], drawn: Sequence[Drawn], wider: _Widening, plan: Plan) -> Effect:
    """A metric averaged over these routers, whose values on both sides are given."""
    boot = np.mean([d.boot(m.name) for d in drawn], axis=0)
    jack = np.mean([d.jack[m.name] for d in drawn], axis=0)
    both = np.mean([d.sides[m.name] for d in drawn], axis=0) if m.interval == "distance" else None
    kind: IntervalKind = "plugin" if m.interval == "distance" else m.interval

    def at(level: float) -> Interval:
        widen = wider(level)
        interval = resampled_interval(kind, sides[1] - sides[0], boot, jack, widen, replace(plan, level=level))
        return interval if both is None else _with_own_bias(interval, sides, both, widen, level)

    def ends(level: float) -> tuple[float, float]:
        interval = at(level)
        assert interval.low is not None
        assert interval.high is not None
        return interval.low, interval.high

    interval = _clipped(at(plan.level), m, drawn)
    return Effect(*sides, interval, p=None if interval.low is None else _p_value(*sides, ends, plan))


def _with_own_bias(
    interval: Interval, sides: tuple[float, float], both: Floats, widen: float, level: float
) -> Interval:
    """Longer by the bias that one side's distance may have beyond that of the other's."""
    if interval.low is None or interval.high is None:
        return interval
    bias_a, bias_b = (_bias_left(x, boot, widen, level) for x, boot in zip(sides, both, strict=True))
    return replace(
        interval, low=interval.low - max(0.0, bias_b - bias_a), high=interval.high + max(0.0, bias_a - bias_b)
    )


def _bias_left(distance: float, boot: Floats, widen: float, level: float) -> float:
    """What subtracting its bootstrap bias may leave of a distance's bias, at most.

    Noise adds v to the square of a distance g, so sqrt(g^2 + v) is measured, sqrt(g^2 + 2 v) is resampled, and their
    difference is less than the bias. g is taken as small as the distance's own interval allows.
    """
    v = max(0.0, float(np.mean(boot**2)) - distance**2)
    g2 = max(0.0, basic(distance**2, boot**2, widen, level)[0])
    return 2 * math.sqrt(g2 + v) - math.sqrt(g2 + 2 * v) - math.sqrt(g2)


def _p_value(a: float, b: float, ends: Callable[[float], tuple[float, float]], plan: Plan) -> float:
    """1 minus the highest level at which the interval leaves out 0; at least 2 / (B + 1), which B resamples resolve."""
    if abs(b - a) <= ROUNDING * max(1.0, abs(a), abs(b)):
        return 1.0

    def leaves_out(p: float) -> bool:
        low, high = ends(1 - p)
        return low > 0 or high < 0

    least, most = 2 / (plan.resamples + 1), 1.0
    if leaves_out(least):
        return least
    while most - least > 1 / plan.resamples:
        middle = (least + most) / 2
        least, most = (least, middle) if leaves_out(middle) else (middle, most)
    return most


def _clipped(interval: Interval, m: Metric, drawn: Sequence[Drawn]) -> Interval:
    """Inside what the metric's ranges on both sides allow."""
    (low_a, high_a), (low_b, high_b) = (
        limits(m, [(d.total[side].n_experts, d.total[side].top_k) for d in drawn]) for side in (0, 1)
    )
    return clipped(interval, (low_b - high_a, high_b - low_a), m.integer and len(drawn) == 1)


def _share(extreme: npt.NDArray[np.bool_]) -> float:
    """(1 + #) / (1 + B): the measured assignment is one of those that the null allows."""
    return (1 + int(extreme.sum())) / (1 + len(extreme))


def _load_change(d: Drawn, plan: Plan) -> LoadChange:
    a, b = d.total
    if d.share_change is None:
        why = "the sides have other numbers of experts"
        return LoadChange({name: Distance(math.nan, reason=why) for name in LOADS}, None, reason=why)
    distances = {}
    for name, value in load_distances(a.load, b.load).items():
        if d.null is None:
            distances[name] = Distance(float(value), reason="sequences cannot be exchanged between routers of other K")
        else:
            null = d.null[name]
            p = _share(null >= value - ROUNDING)
            distances[name] = Distance(float(value), float(null.mean()), float(np.quantile(null, 0.95)), p)
    u, v = (d.widen * float(np.quantile(side, (1 + plan.level) / 2)) for side in d.share_change)
    return LoadChange(distances, share_change(a, b), (u, v))


def _adjusted(rows: list[dict[str, Effect]]) -> list[dict[str, Effect]]:
    """With q-values: of each metric, over the routers that have a p-value."""
    adjusted: list[dict[str, Effect]] = [dict(row) for row in rows]
    for name in rows[0]:
        for row, q in zip(adjusted, benjamini_hochberg([row[name].p for row in rows]), strict=True):
            row[name] = replace(row[name], q=q)
    return adjusted


def _adjusted_loads(loads: list[LoadChange]) -> list[LoadChange]:
    adjusted = [dict(load.distances) for load in loads]
    for name in LOADS:
        for row, q in zip(adjusted, benjamini_hochberg([load.distances[name].p for load in loads]), strict=True):
            row[name] = replace(row[name], q=q)
    return [replace(load, distances=row) for load, row in zip(loads, adjusted, strict=True)]


def benjamini_hochberg(p: Sequence[float | None]) -> list[float | None]:
    """The p-values adjusted so that of those below q at most a share q is expected to be false (q-values).

    None and NaN stay as they are and count as no test. Source: Benjamini and Hochberg 1995.
    """
    tests = {n: x for n, x in enumerate(p) if x is not None and not math.isnan(x)}
    q = dict(zip(tests, false_discovery_control(list(tests.values())).tolist(), strict=True))
    return [q.get(n, x) for n, x in enumerate(p)]


def _present(effects: dict[str, Effect | None]) -> dict[str, Effect]:
    return {name: effect for name, effect in effects.items() if effect is not None}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
