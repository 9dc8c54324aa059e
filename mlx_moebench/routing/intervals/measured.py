"""The numbers of a measurement as they are shown: every metric with its interval, of routers, means and peaks.

Means over tokens have a bootstrap interval (`bootstrap`). What is biased in finite samples is shown corrected, with the
plug-in value beside it (`routers`, `corrected`). The largest of many shares has the studentised band of those experts
that may be the largest (`bands`). No value lies outside its own interval.

All of it rests on the effective number of sequences (`effective`); where that is below `MIN_CLUSTERS` values are
plug-in ones, without an interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...options import Plan
from ..metrics.registry import Metric, get_metric
from ..sums import Floats, Sums
from .bands import Estimates, maximum, share_bands, together
from .bootstrap import Interval, layer_intervals, limits, mean_intervals, metrics_of
from .corrected import Corrected
from .effective import Clusters, pooled
from .halves import Halves, random_halves, ratios_of_function
from .routers import RouterMetrics, over_routers

CORRECTED = ("plugin", "distance")
BAND = "simultaneous studentised band over experts"


@dataclass(frozen=True)
class ShareBand:
    """low, high [E]: ends that hold the true token shares of all experts of a router at once; or why there are none."""

    low: Floats | None = None
    high: Floats | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Measured:
    """routers: {metric: value and interval} of each. mean: of the metric averaged over the routers that have it.

    peak: of the largest value over the routers. shares: the band of each router. maxima: {metric: its estimates} of
    each router, for `flagged_fraction`. clusters: how many sequences all of it rests on.
    """

    routers: list[dict[str, Corrected]]
    mean: dict[str, Corrected]
    peak: dict[str, Corrected]
    shares: list[ShareBand]
    maxima: list[dict[str, Estimates]]
    clusters: Clusters


def measured(
    routers: Sequence[Sums],
    strata: npt.ArrayLike,
    plan: Plan | None = None,
    names: Sequence[str] | None = None,
    copies: npt.ArrayLike | None = None,
) -> Measured:
    """Every metric (or those of ``names``) of ``routers``, whose first axes are the same N sequences in one order.

    strata: [N] names of their data sets, inside each of which they are drawn. All routers share the draws.
    copies: [N] how many sequences each is the sum of, for the reason why there are no intervals.
    """
    plan = plan or Plan()
    metrics = metrics_of(names)
    counted = pooled(routers[0].n_tokens, strata, copies)
    reason = "a layer bootstrap gives one router no interval" if plan.method == "layer" else counted.reason
    if reason is not None:
        return _without(routers, metrics, reason, counted, plan)
    return _resampled(routers, strata, plan, metrics, counted)


def _resampled(
    routers: Sequence[Sums],
    strata: npt.ArrayLike,
    plan: Plan,
    metrics: Sequence[Metric],
    counted: Clusters,
) -> Measured:
    of_means = mean_intervals(routers, strata, plan, [m for m in metrics if m.interval == "mean"])
    halves = random_halves(strata, plan.resamples, plan.seed)
    every = [_Router(sums, halves, metrics, plan.level) for sums in routers]
    means = [_means(s, row) for s, row in zip(routers, of_means.rows, strict=True)]
    rows = [{**_plain(s, metrics), **row, **one.shown} for s, row, one in zip(routers, means, every, strict=True)]
    mean = {name: _over(means, name, interval) for name, interval in of_means.over.items()}
    mean |= _corrected_means(metrics, [one.corrected for one in every])
    peak = {m.name: _peak(m, every, plan.level) for m in metrics if m.interval == "maximum"}
    return Measured(rows, mean, peak, [one.band for one in every], [one.maxima for one in every], counted)


def _corrected_means(metrics: Sequence[Metric], routers: Sequence[RouterMetrics]) -> dict[str, Corrected]:
    """The corrected metrics that any router has, over those routers."""
    over = {m.name: over_routers(routers, m.name) for m in metrics if m.interval in CORRECTED}
    return {name: made for name, made in over.items() if made is not None}


def _plain(sums: Sums, metrics: Sequence[Metric]) -> dict[str, Corrected]:
    """Values that resampling says nothing about."""
    total = sums.total()
    none = Interval(reason="resampling sequences says nothing about this metric")
    values = {m.name: float(m.values(total)) for m in metrics if m.interval == "none"}
    return {name: Corrected(value, none, value) for name, value in values.items()}


def _means(sums: Sums, intervals: Mapping[str, Interval]) -> dict[str, Corrected]:
    total = sums.total()
    values = {name: float(get_metric(name).values(total)) for name in intervals}
    return {name: Corrected(value, intervals[name], value) for name, value in values.items()}


def _over(rows: Sequence[Mapping[str, Corrected]], name: str, interval: Interval) -> Corrected:
    """The mean over the routers that have the metric."""
    value = float(np.mean([row[name].value for row in rows if math.isfinite(row[name].value)]))
    return Corrected(value, interval, value)


class _Router:
    """One router: corrected metrics, and its maxima with what they are the largest of."""

    def __init__(self, sums: Sums, halves: Halves, metrics: Sequence[Metric], level: float) -> None:
        self.form = (sums.n_experts, sums.top_k)
        names = [m.name for m in metrics if m.interval in CORRECTED]
        self.corrected = RouterMetrics(sums, halves, level, names)
        self.shown = self.corrected.metrics()
        self.maxima: dict[str, Estimates] = {}
        for m in metrics:
            if m.interval == "maximum":
                self.maxima[m.name] = Estimates.of(ratios_of_function(m.function, sums, halves))
                self.shown[m.name] = _maximum(self.maxima[m.name], level, limits(m, [self.form]))
        self.band = _share_band(Estimates.of(ratios_of_function(_token_shares, sums, halves)), level)


def _token_shares(s: Sums) -> Floats:
    return s.load * s.top_k


def _share_band(shares: Estimates, level: float) -> ShareBand:
    if not np.isfinite(shares.value).all():
        return ShareBand(reason="no token was counted")
    return ShareBand(*share_bands(shares, level))


def _maximum(of: Estimates, level: float, bounds: tuple[float, float]) -> Corrected:
    largest = maximum(of, level)
    low, high = largest.interval.low, largest.interval.high
    if low is None or high is None:
        return Corrected(largest.value, largest.interval, largest.value)
    low, high = (min(max(end, bounds[0]), bounds[1]) for end in (low, high))
    interval = replace(largest.interval, low=low, high=high, candidates=len(largest.candidates))
    return Corrected(largest.value, interval, largest.value)


def _peak(m: Metric, every: Sequence[_Router], level: float) -> Corrected:
    """Of the largest value over the routers that have the metric."""
    parts = [one.maxima[m.name] for one in every if np.isfinite(one.maxima[m.name].value).all()]
    if not parts:
        return Corrected(math.nan, Interval(reason="the metric is not defined here"), math.nan)
    return _maximum(together(parts), level, limits(m, [one.form for one in every]))


def _without(
    routers: Sequence[Sums], metrics: Sequence[Metric], reason: str, counted: Clusters, plan: Plan
) -> Measured:
    """Plug-in values, and why they have no intervals; with the method ``layer`` means over layers have one."""
    none = Interval(reason=reason)
    rows = [_plugin(sums, metrics, none) | _plain(sums, metrics) for sums in routers]
    over = layer_intervals(routers, metrics, plan) if plan.method == "layer" else {}
    mean, peak = {}, {}
    for m in metrics:
        values_of = [row[m.name].value for row in rows if math.isfinite(row[m.name].value)]
        if m.interval == "maximum":
            largest = max(values_of, default=math.nan)
            peak[m.name] = Corrected(largest, none, largest)
        elif m.interval != "none" and values_of:
            value = float(np.mean(values_of))
            mean[m.name] = Corrected(value, over.get(m.name, none), value)
    return Measured(rows, mean, peak, [ShareBand(reason=reason) for _ in routers], [{} for _ in routers], counted)


def _plugin(sums: Sums, metrics: Sequence[Metric], none: Interval) -> dict[str, Corrected]:
    total = sums.total()
    values = {m.name: float(m.values(total)) for m in metrics}
    return {name: Corrected(value, none, value) for name, value in values.items()}


def flagged_fraction(
    shares: Mapping[str, tuple[float, Estimates | None]], tau: float, level: float
) -> tuple[float | None, Interval]:
    """Share of routers whose busiest share exceeds tau, and the shares of those that surely and possibly do.

    shares: {router: (busiest share, what it is the largest of)} of the routers whose flag is not null. Each router's
    interval is made at a level that all R of them hold at once (Bonferroni).
    """
    if not shares:
        return None, Interval(reason="no router has a flag: K/E >= tau in all of them")
    values = np.array([value for value, _ in shares.values()])
    point = float(np.mean(values > tau))
    estimates = [of for _, of in shares.values() if of is not None]
    if len(estimates) < len(shares):
        return point, Interval(reason="no interval of the shares it counts")
    joint = 1 - (1 - level) / len(shares)
    ends = [maximum(of, joint).interval for of in estimates]
    surely = np.mean([end.low is not None and end.low > tau for end in ends])
    possibly = np.mean([end.high is None or end.high > tau for end in ends])
    return point, Interval(float(surely), float(possibly), "intervals that hold for all routers at once")
