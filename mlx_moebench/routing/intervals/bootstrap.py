"""Intervals for routing metrics: whole sequences are resampled, because tokens inside one are not independent.

Resampling N clusters is one matrix product, weights [B, N] @ sums [N, columns]; every metric is then
recomputed on the resampled sums. Four kinds of statistic need four kinds of interval:

``mean`` (ratios of sums)
    BCa (Efron 1987), widened (see below).
``maximum`` (the busiest of R experts)
    A resampled maximum is biased upwards twice, and its percentiles miss the truth always under even
    routing. Instead a simultaneous band over all experts (for a peak: all experts of all layers):
    [m - u, m + v], u and v the upper quantiles over resamples of max_i(theta*_i - theta_i) and
    max_i(theta_i - theta*_i).
``plugin`` (entropies of shares, ...)
    The basic interval, which moves by the bootstrap bias instead of doubling it; the bias is reported beside it.
``distance`` (Gini and other distances from even routing)
    The basic interval of the square: near even routing noise adds to the square of a distance, so it is there that
    subtracting the bias removes it. On the plain scale Gini's interval missed the truth in half of the samples.

All of them (but the plain ``percentile`` method) are widened, because N resampled clusters vary less than N clusters
do and N is small (Hesterberg 2015, "expanded percentile"): from the normal to Student's t with G - D degrees of
freedom, and by sqrt(G / (G - D)), for D strata. G = (sum x^2)^2 / sum x^4 <= N, x the tokens of a cluster, counts the
clusters that the variance estimate really rests on (Satterthwaite's degrees of freedom of a sum of squares in
proportion to x^2): with G = N, sequences of unequal length brought coverage of a 95% interval down to 92%.

Measured on simulated routing (benchmarks/coverage.py: 20 to 100 sequences of unequal length; even, mildly uneven and
dominated routing; 16 experts top-2 and 64 top-8): mean_entropy 94 to 97%; top_share_token 98% and more, being a band
over all experts; load_entropy, n_eff, gini and token_information 93% and more, nearly 100% under even routing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from ...options import Plan
from ..metrics.registry import METRICS, IntervalKind, Metric, get_metric
from ..sums import Floats, Numbers, Sums

MIN_CLUSTERS = 10
BLOCK_CELLS = 1 << 17  # resamples x experts worked on at a time: about 1 MB an array, so it stays in cache

SCALAR: tuple[IntervalKind, ...] = ("mean", "plugin", "distance")
"""The kinds of metrics of which a resample has one value."""


@dataclass(frozen=True)
class Interval:
    """low and high are None when no interval can be given; ``reason`` then says why.

    bias: mean of the resampled values minus the estimate, for plug-in statistics and distances.
    """

    low: float | None = None
    high: float | None = None
    method: str | None = None
    bias: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, object]:
        """For JSON: the fields that say something; low and high always."""
        extra = {"method": self.method, "bias": self.bias, "reason": self.reason}
        return {"low": self.low, "high": self.high} | {k: v for k, v in extra.items() if v is not None}


@dataclass(frozen=True)
class Intervals:
    """routers: one {metric: Interval} each. mean: the metric averaged over the routers. peak: the largest over them.

    peak_margin: {metric: (u, v)}, the half-widths of each simultaneous band over all routers' experts. margins: those
    of the bands over the experts of each router; empty where there are none.
    """

    routers: list[dict[str, Interval]]
    mean: dict[str, Interval]
    peak: dict[str, Interval]
    peak_margin: dict[str, tuple[float, float]]
    margins: list[dict[str, tuple[float, float]]]


def resample_weights(strata: npt.ArrayLike, resamples: int, seed: int | Sequence[int]) -> Floats:
    """How often each cluster is drawn, [B, N]: N_d draws with replacement inside each stratum d of N_d clusters."""
    labels = np.asarray(strata)
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(labels)))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return weights


def blocks(resamples: int, columns: int) -> Iterator[slice]:
    """The resamples that are worked on at a time, of ``columns`` numbers each."""
    size = max(64, BLOCK_CELLS // columns)
    for start in range(0, resamples, size):
        yield slice(start, min(start + size, resamples))


def joined(pieces: Mapping[str, Sequence[Floats]]) -> dict[str, Floats]:
    """The values of all blocks, [..., B], from those of each."""
    return {name: np.concatenate(arrays, axis=-1) for name, arrays in pieces.items()}


def extremes(errors: Floats) -> Floats:
    """[2, B] the largest errors upwards and downwards, of errors [B, R]."""
    return np.array([errors.max(axis=-1), -errors.min(axis=-1)])


def too_few(n: int) -> str:
    """Why there is no interval with n sequences."""
    return f"{n} sequence{' is' if n == 1 else 's are'} too few for an interval: {MIN_CLUSTERS} or more are needed"


def intervals(
    routers: Sequence[Sums], strata: npt.ArrayLike, plan: Plan | None = None, names: Sequence[str] | None = None
) -> Intervals:
    """Intervals of every metric (or of ``names``) for each router, for the mean over routers and for the peak.

    routers: one `Sums` each, first axis the N clusters, the same clusters in the same order.
    strata: [N] domain labels. All routers share one set of resamples, so what holds jointly is joint.
    """
    plan = plan or Plan()
    metrics, labels = metrics_of(names), np.asarray(strata)
    if len(labels) < MIN_CLUSTERS:
        return _no_intervals(len(routers), metrics, too_few(len(labels)))
    if plan.method == "layer":
        return _layer_intervals(routers, metrics, plan)
    weights = resample_weights(labels, plan.resamples, plan.seed)
    n_strata = len(np.unique(labels))
    resampled = [_Resampled(sums, weights, metrics, widening(sums.n_tokens, n_strata, plan.level)) for sums in routers]
    return _of_resampled(resampled, metrics, plan)


def _of_resampled(resampled: Sequence[_Resampled], metrics: Sequence[Metric], plan: Plan) -> Intervals:
    rows = [{m.name: r.interval(m, plan) for m in metrics} for r in resampled]
    mean: dict[str, Interval] = {}
    peak: dict[str, Interval] = {}
    peak_margin: dict[str, tuple[float, float]] = {}
    for m in metrics:
        if m.interval == "maximum":
            peak[m.name], peak_margin[m.name] = _peak_interval(resampled, m, plan)
        elif m.interval != "none" and any(math.isfinite(r.point[m.name]) for r in resampled):
            mean[m.name] = _mean_interval(resampled, m, plan)
    margins = [{m.name: r.band(m, plan)[1] for m in metrics if m.interval == "maximum"} for r in resampled]
    return Intervals(rows, mean, peak, peak_margin, margins)


def _no_intervals(n_routers: int, metrics: Sequence[Metric], reason: str) -> Intervals:
    none = {m.name: Interval(reason=reason) for m in metrics}
    peaks = {m.name: none[m.name] for m in metrics if m.interval == "maximum"}
    return Intervals([none] * n_routers, none, peaks, {}, [{}] * n_routers)


def metrics_of(names: Sequence[str] | None) -> list[Metric]:
    """The metrics of these names; None for all."""
    return list(METRICS.values()) if names is None else [get_metric(name) for name in names]


class _Resampled:
    """Values of each metric for one router: the estimate, B resamples, N leave-one-outs.

    Of maxima it has the largest deviations upwards and downwards, [2, B].
    """

    def __init__(self, sums: Sums, weights: Floats, metrics: Sequence[Metric], widen: float) -> None:
        total, left_out = sums.total(), sums.leave_one_out()
        scalar = [m for m in metrics if m.interval in SCALAR]
        banded = [m for m in metrics if m.interval == "maximum"]
        self.form, self.widen = (sums.n_experts, sums.top_k), widen
        self.point = {m.name: float(m.values(total)) for m in metrics}
        self.jack = {m.name: m.values(left_out) for m in scalar}
        boot: dict[str, list[Floats]] = {m.name: [] for m in scalar}
        deviations: dict[str, list[Floats]] = {m.name: [] for m in banded}
        for rows in blocks(len(weights), sums.n_experts):
            drawn = sums.weighted(weights[rows])
            for m in scalar:
                boot[m.name].append(m.values(drawn))
            for m in banded:
                deviations[m.name].append(extremes(m.function(drawn) - m.function(total)))
        self.boot, self.deviations = joined(boot), joined(deviations)

    def interval(self, m: Metric, plan: Plan) -> Interval:
        """Of this router alone."""
        point = self.point[m.name]
        if m.interval == "none":
            return Interval(reason="resampling sequences says nothing about this metric")
        if not math.isfinite(point):
            return Interval(reason="the metric is null here")
        if m.interval == "maximum":
            interval, _ = self.band(m, plan)
        else:
            interval = resampled_interval(m.interval, point, self.boot[m.name], self.jack[m.name], self.widen, plan)
        return clipped(interval, limits(m, [self.form]), m.integer)

    def band(self, m: Metric, plan: Plan) -> tuple[Interval, tuple[float, float]]:
        """Around all experts of this router, with its half-widths; see `_band`."""
        return _band(self.point[m.name], self.deviations[m.name], self.widen, plan)


def _mean_interval(routers: Sequence[_Resampled], m: Metric, plan: Plan) -> Interval:
    """Of the mean over those routers that have the metric, as its point value is."""
    have = [r for r in routers if math.isfinite(r.point[m.name])]
    point = float(np.mean([r.point[m.name] for r in have]))
    boot = np.mean([r.boot[m.name] for r in have], axis=0)
    jack = np.mean([r.jack[m.name] for r in have], axis=0)
    interval = resampled_interval(m.interval, point, boot, jack, max(r.widen for r in routers), plan)
    return clipped(interval, limits(m, _outermost(routers)), m.integer)


def _peak_interval(routers: Sequence[_Resampled], m: Metric, plan: Plan) -> tuple[Interval, tuple[float, float]]:
    """Of the largest value over the routers, with the half-widths of the band around all their experts."""
    deviations = np.max([r.deviations[m.name] for r in routers], axis=0)
    widest = max(r.widen for r in routers)
    interval, margin = _band(max(r.point[m.name] for r in routers), deviations, widest, plan)
    return clipped(interval, limits(m, _outermost(routers)), m.integer), margin


def _outermost(routers: Sequence[_Resampled]) -> list[tuple[int, int]]:
    """(E, K) of the most and of the fewest experts, between whose bounds those of the others lie."""
    experts, top_k = [r.form[0] for r in routers], routers[0].form[1]
    return [(max(experts), top_k), (min(experts), top_k)]


def resampled_interval(
    kind: IntervalKind, point: float, boot: Floats, jack: Floats, widen: float, plan: Plan
) -> Interval:
    """The interval of a mean, plug-in or distance from its resampled values [B] and leave-one-out values [N]."""
    boot, jack = boot[np.isfinite(boot)], jack[np.isfinite(jack)]
    if len(boot) < 0.9 * plan.resamples:
        return Interval(reason="the metric is null in more than a tenth of the resamples")
    if kind == "plugin":
        low, high = basic(point, boot, widen, plan.level)
    elif kind == "distance":
        low, high = (math.sqrt(max(x, 0.0)) for x in basic(point**2, boot**2, widen, plan.level))
    elif plan.method == "percentile":
        low, high = np.quantile(boot, [(1 - plan.level) / 2, (1 + plan.level) / 2])
        return Interval(float(low), float(high), "percentile bootstrap over sequences")
    else:
        low, high = _bca(point, boot, jack, widen, plan.level)
        return Interval(low, high, "BCa bootstrap over sequences")
    scale = " of the square" if kind == "distance" else ""
    return Interval(low, high, f"basic bootstrap over sequences{scale}", bias=float(boot.mean()) - point)


def basic(point: float, boot: Floats, widen: float, level: float) -> tuple[float, float]:
    """The basic interval from resampled values [B]: it moves by the bootstrap bias against the estimate."""
    low, high = np.quantile(boot, [(1 - level) / 2, (1 + level) / 2])
    centre = float(boot.mean())
    unbiased = 2 * point - centre
    return unbiased - widen * (float(high) - centre), unbiased + widen * (centre - float(low))


def _bca(point: float, boot: Floats, jack: Floats, widen: float, level: float) -> tuple[float, float]:
    below = (np.sum(boot < point) + 0.5 * np.sum(boot == point)) / len(boot)
    z0 = float(ndtri(np.clip(below, 0.5 / len(boot), 1 - 0.5 / len(boot))))
    d = jack.mean() - jack
    spread = float(np.sum(d**2))
    a = float(np.sum(d**3)) / (6 * spread**1.5) if spread > 0 else 0.0
    z = z0 + np.array([-1, 1]) * widen * float(ndtri((1 + level) / 2))
    # 1 - a z changes sign when one sequence dominates; the limit before that is the end of the distribution.
    low, high = np.quantile(boot, ndtr(z0 + z / np.maximum(1 - a * z, 1e-6)))
    return float(low), float(high)


def _band(point: float, deviations: Floats, widen: float, plan: Plan) -> tuple[Interval, tuple[float, float]]:
    """Simultaneous band of a maximum from the largest deviations [2, B] upwards and downwards."""
    if not (math.isfinite(point) and np.isfinite(deviations).all()):
        return Interval(reason="the metric is null here"), (math.nan, math.nan)
    u, v = (widen * float(np.quantile(side, (1 + plan.level) / 2)) for side in deviations)
    return Interval(point - u, point + v, "simultaneous band over experts"), (u, v)


def widening(n_tokens: Numbers, n_strata: int, level: float) -> float:
    """Student's t over normal quantile, times sqrt(G / (G - D)): what resampling the clusters falls short by."""
    x2 = n_tokens.astype(np.float64) ** 2
    clusters = float(x2.sum() ** 2 / max((x2**2).sum(), 1.0))
    free = max(clusters - n_strata, 1.0)
    return float(stdtrit(free, (1 + level) / 2) / ndtri((1 + level) / 2)) * math.sqrt(1 + n_strata / free)


def limits(m: Metric, forms: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The range of a metric over routers of these (E, K)."""
    return min(m.low(*form) for form in forms), max(m.high(*form) for form in forms)


def clipped(interval: Interval, bounds: tuple[float, float], integer: bool = False) -> Interval:
    """Inside the bounds; of an integer, from the integer below to the one above."""
    if interval.low is None or interval.high is None:
        return interval
    low, high = (min(max(x, bounds[0]), bounds[1]) for x in (interval.low, interval.high))
    if integer:  # outwards, less what rounding in the clipping may have left
        low, high = math.floor(low + 1e-6), math.ceil(high - 1e-6)
    return replace(interval, low=low, high=high)


def _layer_intervals(routers: Sequence[Sums], metrics: Sequence[Metric], plan: Plan) -> Intervals:
    """The published "95% layer bootstrap" of means over layers, for comparison: layers are a census, not a sample."""
    label = "percentile bootstrap over layers (layers are a census, not a sample)"
    single = {m.name: Interval(reason="a layer bootstrap gives one router no interval") for m in metrics}
    no_peak = Interval(reason="a layer bootstrap gives a peak no interval")
    peaks = {m.name: no_peak for m in metrics if m.interval == "maximum"}
    draws = np.random.default_rng(plan.seed).integers(len(routers), size=(plan.resamples, len(routers)))
    tail = (1 - plan.level) / 2
    mean: dict[str, Interval] = {}
    for m in metrics:
        values = np.array([float(m.values(s.total())) for s in routers])
        if m.interval in SCALAR and np.isfinite(values).all():
            low, high = np.quantile(values[draws].mean(axis=1), [tail, 1 - tail])
            mean[m.name] = Interval(float(low), float(high), label)
    return Intervals([single for _ in routers], mean, peaks, {}, [{} for _ in routers])


def collapsed_fraction(
    shares: Mapping[str, float], margin: tuple[float, float] | None, tau: float
) -> tuple[float | None, Interval]:
    """Fraction of routers whose busiest share exceeds tau, with the fractions at both ends of the simultaneous band.

    shares: {router: busiest share}, of the routers whose flag is not null. margin: (u, v) of the peak's band.
    """
    if not shares:
        return None, Interval(reason="no router has a flag: K/E >= tau in all of them")
    values = np.array(list(shares.values()))
    point = float(np.mean(values > tau))
    if margin is None or not math.isfinite(margin[0]):
        return point, Interval(reason="no interval of the shares it counts")
    low, high = float(np.mean(values - margin[0] > tau)), float(np.mean(values + margin[1] > tau))
    return point, Interval(low, high, "simultaneous band over experts and layers")


def ratio_intervals(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike, strata: npt.ArrayLike, plan: Plan | None = None
) -> list[Interval]:
    """Intervals of the C ratios sum_n numerators / sum_n denominators, the kind ``mean`` of any sums over clusters.

    numerators, denominators: [N, C] sums of each cluster; a cluster may be absent from a ratio (denominator 0).
    All share one set of resamples. No interval where fewer than `MIN_CLUSTERS` clusters have part in a ratio, nor with
    the method ``layer``.
    """
    plan = plan or Plan()
    labels = np.asarray(strata)
    over, under = (np.asarray(x, dtype=np.float64) for x in (numerators, denominators))
    taking_part = (under > 0).sum(axis=0)
    if plan.method == "layer":
        return [Interval(reason="a layer bootstrap says nothing about this number")] * len(taking_part)
    weights = resample_weights(labels, plan.resamples, plan.seed)
    n_strata = len(np.unique(labels))
    return [
        _ratio_interval(x, y, n, weights, n_strata, plan) for x, y, n in zip(over.T, under.T, taking_part, strict=True)
    ]


def _ratio_interval(x: Floats, y: Floats, n: int, weights: Floats, n_strata: int, plan: Plan) -> Interval:
    """Of sum x / sum y, sums [N] of the clusters, of which n have part in it."""
    if n < MIN_CLUSTERS:
        return Interval(reason=too_few(n))
    if not np.isfinite(x).all():
        return Interval(reason="the number is null here")
    with np.errstate(invalid="ignore", divide="ignore"):
        boot = (weights @ x) / (weights @ y)
        jack = (x.sum() - x) / (y.sum() - y)
    return resampled_interval("mean", float(x.sum() / y.sum()), boot, jack, widening(y, n_strata, plan.level), plan)
