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
`n90`
    A count jumps, so its interval is that of where the loads pass nine tenths, between whole experts, rounded outwards
    (`lattice`). Averaged over R routers, what rounding adds nearly cancels, and the interval is that of the mean of
    these crossings, longer by what rounding was seen to add and rounded outwards to steps of 1/R.

All are widened as in `bootstrap`, by the side that needs it more. Sequences count as `effective` says, and equal ones
once: below ten on a side there are values alone.

A p-value is 1 minus the highest level at which the interval leaves out 0: it answers the question that the interval
answers, whether this metric differs, and the two never disagree. Permuting sequences between the sides would test
something else, whether the sides route alike altogether. Where other experts are busy at B than at A, permuted sides
are mixtures, more even and less variable than either: for layer 2 of the embedded model on maths against code, a load
entropy that differs by -0.025 [-0.049, -0.001] gets p = 0.0005 that way, and 0.04 this way. Distances between the loads
have a test and an interval of their own (`distances`).

Beside p stands what the comparison could have found: ``detectable``, the smallest true difference that gets p <= 1 -
level in 4 of 5 such comparisons. Where p is large and this is, too, nothing is known rather than nothing there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.stats import false_discovery_control

from ...options import Plan
from ..intervals.bootstrap import Interval, basic, clipped, limits, metrics_of, resampled_interval, widening
from ..intervals.corrected import Drawn as Halved
from ..intervals.routers import crossing
from ..metrics.registry import IntervalKind, Metric
from ..sums import Floats, Numbers, Sums
from .distances import LoadDistance, Loads, load_tests
from .effects import OTHER_EXPERTS, Differences, Distance, Effect, LoadChange, Point, finite, point_differences
from .lattice import count_difference, crossing_ends, detectable, p_value
from .maxima import Maxima, MeanOfMaxima, peak
from .resampling import LOADS, Drawn, Samples, share_change

CROSSINGS = {"n90": crossing}
"""Counts of experts that have an interval: what each is the next whole number of."""

ROUNDING = 1e-6
"""Differences up to this times max(1, |a|, |b|) are rounding: routers compute in float32. They get p = 1."""


def differences(
    a: Sequence[Sums], b: Sequence[Sums], samples: Samples, plan: Plan, names: Sequence[str] | None = None
) -> Differences:
    """Effects of every metric (or of ``names``) on routers of one kind, a[i] against b[i].

    Every router shares the same draws, so what holds jointly is joint. plan.method: ``bca`` or ``percentile``.
    """
    metrics = metrics_of(names)
    reason = samples.too_few(a[0].n_tokens, b[0].n_tokens)
    if reason is not None:
        return point_differences(_points(a, metrics), _points(b, metrics), reason=reason)
    draws, strata = samples.draws(plan), (len(set(samples.strata_a)), len(set(samples.strata_b)))
    halves = samples.halves(plan)
    every, changes = [], []
    for x, y in zip(a, b, strict=True):
        wider = _Widening([x.n_tokens, y.n_tokens], strata)
        loads = Loads(x, y, halves, paired=samples.paired)
        drawn = Drawn(x, y, draws, metrics, wider(plan.level), plan.level)
        counts = {
            m.name: _Crossings(loads.apart(CROSSINGS[m.name]), loads.free) for m in metrics if m.name in CROSSINGS
        }
        every.append(_Router(drawn, wider, counts))
        changes.append(
            _load_change(every[-1].drawn, load_tests(x, y, samples, plan, loads) if _alike(x, y) else None, plan)
        )
    rows = [{m.name: _effect(one, m, plan) for m in metrics} for one in every]
    mean = {m.name: _mean(every, m, plan) for m in metrics}
    highest = {m.name: _peak(every, m, samples.paired, plan) for m in metrics if m.interval == "maximum"}
    return Differences(_adjusted(rows), _adjusted_loads(changes), _present(mean), _present(highest))


def _points(side: Sequence[Sums], metrics: Sequence[Metric]) -> list[Point]:
    totals = [s.total() for s in side]
    return [Point({m.name: float(m.values(t)) for m in metrics}, t.load, t.top_k) for t in totals]


class _Widening:
    """`bootstrap.widening` of the side that needs it more, for any level."""

    def __init__(self, n_tokens: Sequence[Numbers], strata: Sequence[int]) -> None:
        self._sides = list(zip(n_tokens, strata, strict=True))

    def __call__(self, level: float) -> float:
        return max(widening(tokens, strata, level) for tokens, strata in self._sides)


class _Crossings(NamedTuple):
    """Of a count of experts: the difference of what it is the next whole number of, and its degrees of freedom."""

    apart: Halved
    free: float


class _Router(NamedTuple):
    """What a router's effects are made of. crossings: of counts of experts."""

    drawn: Drawn
    wider: _Widening
    crossings: Mapping[str, _Crossings]


def _effect(one: _Router, m: Metric, plan: Plan) -> Effect:
    """One metric of one router."""
    a, b = one.drawn.point[m.name]
    if not (math.isfinite(a) and math.isfinite(b)):
        why = "the metric is not defined on " + ("both sides" if math.isnan(a) and math.isnan(b) else "one side")
        return Effect(a, b, Interval(reason=why))
    if m.interval == "maximum":
        return _of_maxima(m, (a, b), one.drawn.maxima[m.name], one.wider, plan, [one.drawn])
    if m.interval == "none":
        return _without(m, (a, b))
    if m.name in one.crossings:
        return _of_counts((a, b), [one.crossings[m.name]], plan)
    return _of_draws(m, (a, b), [one.drawn], one.wider, plan)


def _mean(every: Sequence[_Router], m: Metric, plan: Plan) -> Effect | None:
    """A metric averaged over the routers that have it on both sides; None where none has."""
    have = [one for one in every if all(map(math.isfinite, one.drawn.point[m.name]))]
    if not have:
        return None
    drawn, wider = [one.drawn for one in have], _widest(have, plan)
    a, b = np.mean([d.point[m.name] for d in drawn], axis=0).tolist()
    if m.interval == "maximum":
        return _of_maxima(m, (a, b), MeanOfMaxima([d.maxima[m.name] for d in drawn]), wider, plan, drawn)
    if m.interval == "none":
        return _without(m, (a, b))
    if m.name in have[0].crossings:
        return _of_counts((a, b), [one.crossings[m.name] for one in have], plan)
    return _of_draws(m, (a, b), drawn, wider, plan)


def _widest(have: Sequence[_Router], plan: Plan) -> _Widening:
    return max((one.wider for one in have), key=lambda wider: wider(plan.level))


def _peak(every: Sequence[_Router], m: Metric, paired: bool, plan: Plan) -> Effect | None:
    """The largest value of a maximum over the routers, which may be another router's at B than at A."""
    have = [one for one in every if m.name in one.drawn.maxima]
    if not have:
        return None
    highest = peak([one.drawn.maxima[m.name] for one in have], paired)
    sides = float(highest.a.max()), float(highest.b.max())
    return _of_maxima(m, sides, highest, _widest(have, plan), plan, [one.drawn for one in have])


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

    low, high = ends(plan.level)
    interval = Interval(low, high, "simultaneous bands over the experts that may be the busiest")
    smallest = detectable(low, high, plan.level)
    return Effect(*sides, _clipped(interval, m, drawn), p=_p_value(*sides, ends, plan), detectable=smallest)


def _of_counts(sides: tuple[float, float], crossings: Sequence[_Crossings], plan: Plan) -> Effect:
    """A count of experts, or its mean over the routers of these crossings."""
    parts = [one.apart for one in crossings]
    apart = Halved(
        float(np.mean([x.whole for x in parts])),
        np.mean([x.halves for x in parts], axis=0),
        np.mean([x.quarters for x in parts], axis=0),
    )
    free, routers = min(one.free for one in crossings), len(crossings)
    interval, p = count_difference(sides[1] - sides[0], apart, free, plan, routers=routers)
    if interval.low is None:
        return Effect(*sides, interval)
    smallest = detectable(*crossing_ends(apart, free, plan.level), plan.level)
    if smallest > 0:  # an end that is rounded outwards leaves out 0 from the next step on
        smallest += 1 / routers
    return Effect(*sides, interval, p=p, detectable=smallest)


def _of_draws(m: Metric, sides: tuple[float, float], drawn: Sequence[Drawn], wider: _Widening, plan: Plan) -> Effect:
    """A metric averaged over these routers, whose values on both sides are given."""
    boot = np.mean([d.boot(m.name) for d in drawn], axis=0)
    jack = np.mean([d.jack[m.name] for d in drawn], axis=0)
    both = np.mean([d.sides[m.name] for d in drawn], axis=0) if m.interval == "distance" else None
    kind: IntervalKind = "plugin" if m.interval == "distance" else m.interval

    def at(level: float) -> Interval:
        widen = wider(level)
        interval = resampled_interval(kind, sides[1] - sides[0], boot, jack, widen, plan, level)
        interval = interval if both is None else _with_own_bias(interval, sides, both, widen, level)
        if interval.low is None or interval.high is None:
            return interval
        # Where the sides differ in size, so do their biases, and the interval may lie beside what was measured.
        effect = sides[1] - sides[0]
        return replace(interval, low=min(interval.low, effect), high=max(interval.high, effect))

    def ends(level: float) -> tuple[float, float]:
        interval = at(level)
        assert interval.low is not None
        assert interval.high is not None
        return interval.low, interval.high

    interval = at(plan.level)
    if interval.low is None:
        return Effect(*sides, interval)
    smallest = detectable(*ends(plan.level), plan.level)
    return Effect(*sides, _clipped(interval, m, drawn), p=_p_value(*sides, ends, plan), detectable=smallest)


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
    """`p_value`; 1 where the sides differ by no more than rounding."""
    if abs(b - a) <= ROUNDING * max(1.0, abs(a), abs(b)):
        return 1.0
    return p_value(ends, plan)


def _clipped(interval: Interval, m: Metric, drawn: Sequence[Drawn]) -> Interval:
    """Inside what the metric's ranges on both sides allow."""
    (low_a, high_a), (low_b, high_b) = (
        limits(m, [(d.total[side].n_experts, d.total[side].top_k) for d in drawn]) for side in (0, 1)
    )
    return clipped(interval, (low_b - high_a, high_b - low_a))


def _alike(a: Sums, b: Sums) -> bool:
    """Whether an expert of one side is one of the other."""
    return a.n_experts == b.n_experts


def _load_change(d: Drawn, tests: Mapping[str, LoadDistance] | None, plan: Plan) -> LoadChange:
    if tests is None or d.share_change is None:
        return LoadChange(dict.fromkeys(LOADS, Distance.plain(math.nan, OTHER_EXPERTS)), None, reason=OTHER_EXPERTS)
    u, v = (d.widen * float(np.quantile(side, (1 + plan.level) / 2)) for side in d.share_change)
    return LoadChange({name: _distance(one) for name, one in tests.items()}, share_change(*d.total), (u, v))


def _distance(one: LoadDistance) -> Distance:
    value, interval, plugin = one.distance
    return Distance(value, interval, plugin, p=finite(one.p), detectable=finite(one.detectable))


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
