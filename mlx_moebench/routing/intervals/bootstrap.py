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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from ...options import Plan
from ..metrics.registry import METRICS, Metric, get_metric
from ..sums import Floats, Sums

MIN_CLUSTERS = 10
CELLS = 1 << 17  # resamples x experts worked on at a time: about 1 MB an array, so it stays in cache


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

    def to_dict(self) -> dict[str, Any]:
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


def intervals(
    routers: Sequence[Sums], strata: npt.ArrayLike, plan: Plan | None = None, names: Sequence[str] | None = None
) -> Intervals:
    """Intervals of every metric (or of ``names``) for each router, for the mean over routers and for the peak.

    routers: one `Sums` each, first axis the N clusters, the same clusters in the same order.
    strata: [N] domain labels. All routers share one set of resamples, so what holds jointly is joint.
    """
    plan = plan or Plan()
    metrics = [get_metric(name) for name in names] if names is not None else list(METRICS.values())
    labels = np.asarray(strata)
    n = len(labels)
    if n < MIN_CLUSTERS:
        are = "sequence is" if n == 1 else "sequences are"
        reason = f"{n} {are} too few for an interval: {MIN_CLUSTERS} or more are needed"
        none = {m.name: Interval(reason=reason) for m in metrics}
        peaks = {m.name: none[m.name] for m in metrics if m.interval == "maximum"}
        return Intervals([none for _ in routers], none, peaks, {}, [{} for _ in routers])
    if plan.method == "layer":
        return _layer_intervals(routers, metrics, plan)
    weights = resample_weights(labels, plan.resamples, plan.seed)
    n_strata = len(np.unique(labels))
    resampled = [_Resampled(sums, weights, metrics, widening(sums.n_tokens, n_strata, plan.level)) for sums in routers]
    widest = max(r.widen for r in resampled)
    e = max(s.n_experts for s in routers), min(s.n_experts for s in routers)
    per_router: list[dict[str, Interval]] = [{} for _ in routers]
    mean: dict[str, Interval] = {}
    peak: dict[str, Interval] = {}
    margin: dict[str, tuple[float, float]] = {}
    for m in metrics:
        for row, r, sums in zip(per_router, resampled, routers, strict=True):
            row[m.name] = _clip(r.interval(m, plan), m, (sums.n_experts, sums.n_experts), sums.top_k)
        if m.interval == "maximum":
            point = max(float(r.point[m.name]) for r in resampled)
            above, below = (
                np.max([getattr(r, side)[m.name] for r in resampled], axis=0) for side in ("above", "below")
            )
            band, margin[m.name] = _band(point, above, below, widest, plan)
            peak[m.name] = _clip(band, m, e, routers[0].top_k)
        elif m.interval != "none":
            # A metric that one router lacks (a null) is averaged over those that have it, as its point value is.
            have = [r for r in resampled if np.isfinite(r.point[m.name])]
            if have:
                point = float(np.mean([r.point[m.name] for r in have]))
                boot = np.mean([r.boot[m.name] for r in have], axis=0)
                jack = np.mean([r.jack[m.name] for r in have], axis=0)
                mean[m.name] = _clip(resampled_interval(m, point, boot, jack, widest, plan), m, e, routers[0].top_k)
    bands = [{m.name: r.band(m, plan)[1] for m in metrics if m.interval == "maximum"} for r in resampled]
    return Intervals(per_router, mean, peak, margin, bands)


class _Resampled:
    """Values of each metric for one router: the estimate, B resamples, N leave-one-outs; for maxima the deviations."""

    def __init__(self, sums: Sums, weights: Floats, metrics: Sequence[Metric], widen: float) -> None:
        total, left_out = sums.total(), sums.leave_one_out()
        self.widen = widen
        self.point = {m.name: m.values(total) for m in metrics}
        self.jack = {m.name: m.values(left_out) for m in metrics if m.interval in ("mean", "plugin", "distance")}
        self.boot: dict[str, Floats] = {}
        self.above: dict[str, Floats] = {}
        self.below: dict[str, Floats] = {}
        pieces: dict[str, list[Any]] = {m.name: [] for m in metrics}
        size = max(64, CELLS // sums.n_experts)
        for start in range(0, len(weights), size):
            drawn = sums.weighted(weights[start : start + size])
            for m in metrics:
                if m.interval == "maximum":
                    deviation = m.function(drawn) - m.function(total)
                    pieces[m.name].append((deviation.max(axis=-1), -deviation.min(axis=-1)))
                elif m.interval != "none":
                    pieces[m.name].append(m.function(drawn))
        for m in metrics:
            if m.interval == "maximum":
                self.above[m.name], self.below[m.name] = (
                    np.concatenate(side) for side in zip(*pieces[m.name], strict=True)
                )
            elif m.interval != "none":
                self.boot[m.name] = np.concatenate(pieces[m.name])

    def interval(self, m: Metric, plan: Plan) -> Interval:
        point = float(self.point[m.name])
        if m.interval == "none":
            return Interval(reason="resampling sequences says nothing about this metric")
        if not math.isfinite(point):
            return Interval(reason="the metric is null here")
        if m.interval == "maximum":
            return self.band(m, plan)[0]
        return resampled_interval(m, point, self.boot[m.name], self.jack[m.name], self.widen, plan)

    def band(self, m: Metric, plan: Plan) -> tuple[Interval, tuple[float, float]]:
        """The band over this router's experts, and its half-widths; see `_band`."""
        return _band(float(self.point[m.name]), self.above[m.name], self.below[m.name], self.widen, plan)


def resampled_interval(m: Metric, point: float, boot: Floats, jack: Floats, widen: float, plan: Plan) -> Interval:
    """The interval of a mean, plug-in or distance from its resampled values [B] and leave-one-out values [N]."""
    boot, jack = boot[np.isfinite(boot)], jack[np.isfinite(jack)]
    if len(boot) < 0.9 * plan.resamples:
        return Interval(reason="the metric is null in more than a tenth of the resamples")
    if m.interval == "plugin":
        low, high = basic(point, boot, widen, plan.level)
    elif m.interval == "distance":
        low, high = (math.sqrt(max(x, 0.0)) for x in basic(point**2, boot**2, widen, plan.level))
    elif plan.method == "percentile":
        low, high = np.quantile(boot, [(1 - plan.level) / 2, (1 + plan.level) / 2])
        return Interval(float(low), float(high), "percentile bootstrap over sequences")
    else:
        low, high = _bca(point, boot, jack, widen, plan.level)
        return Interval(low, high, "BCa bootstrap over sequences")
    scale = " of the square" if m.interval == "distance" else ""
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


def _band(point: float, above: Floats, below: Floats, widen: float, plan: Plan) -> tuple[Interval, tuple[float, float]]:
    """Simultaneous band of a maximum from the largest deviations [B] upwards and downwards."""
    if not (math.isfinite(point) and np.isfinite(above).all() and np.isfinite(below).all()):
        return Interval(reason="the metric is null here"), (math.nan, math.nan)
    u, v = (widen * float(np.quantile(side, (1 + plan.level) / 2)) for side in (above, below))
    return Interval(point - u, point + v, "simultaneous band over experts"), (u, v)


def widening(n_tokens: npt.NDArray[Any], n_strata: int, level: float) -> float:
    """Student's t over normal quantile, times sqrt(G / (G - D)): what resampling the clusters falls short by."""
    x2 = n_tokens.astype(np.float64) ** 2
    clusters = float(x2.sum() ** 2 / max((x2**2).sum(), 1.0))
    free = max(clusters - n_strata, 1.0)
    return float(stdtrit(free, (1 + level) / 2) / ndtri((1 + level) / 2)) * math.sqrt(1 + n_strata / free)


def _clip(interval: Interval, m: Metric, experts: tuple[int, int], top_k: int) -> Interval:
    """Keep an interval inside the metric's range; ``experts`` = (largest E, smallest E) of the routers it covers."""
    if interval.low is None or interval.high is None:
        return interval
    least = min(m.low(e, top_k) for e in experts)
    most = max(m.high(e, top_k) for e in experts)
    low, high = (min(max(x, least), most) for x in (interval.low, interval.high))
    if m.integer:  # outwards, less what rounding in the clipping may have left
        low, high = math.floor(low + 1e-6), math.ceil(high - 1e-6)
    return Interval(low, high, interval.method, interval.bias, interval.reason)


def _layer_intervals(routers: Sequence[Sums], metrics: Sequence[Metric], plan: Plan) -> Intervals:
    """The published "95% layer bootstrap" of means over layers, for comparison: layers are a census, not a sample."""
    label = "percentile bootstrap over layers (layers are a census, not a sample)"
    single = {m.name: Interval(reason="a layer bootstrap gives one router no interval") for m in metrics}
    peaks = {
        m.name: Interval(reason="a layer bootstrap gives a peak no interval")
        for m in metrics
        if m.interval == "maximum"
    }
    draws = np.random.default_rng(plan.seed).integers(len(routers), size=(plan.resamples, len(routers)))
    tail = (1 - plan.level) / 2
    mean: dict[str, Interval] = {}
    for m in metrics:
        values = np.array([float(m.values(s.total())) for s in routers])
        if m.interval in ("mean", "plugin", "distance") and np.isfinite(values).all():
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
    found = []
    for column, n in enumerate(taking_part):
        x, y = over[:, column], under[:, column]
        if n < MIN_CLUSTERS or not np.isfinite(x).all():
            few = f"{n} sequence{' is' if n == 1 else 's are'} too few for an interval: {MIN_CLUSTERS} are needed"
            found.append(Interval(reason=few if n < MIN_CLUSTERS else "the number is null here"))
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            boot = (weights @ x) / (weights @ y)
            jack = (x.sum() - x) / (y.sum() - y)
        boot, jack, point = boot[np.isfinite(boot)], jack[np.isfinite(jack)], float(x.sum() / y.sum())
        if plan.method == "percentile":
            low, high = np.quantile(boot, [(1 - plan.level) / 2, (1 + plan.level) / 2])
            found.append(Interval(float(low), float(high), "percentile bootstrap over sequences"))
        else:
            low, high = _bca(point, boot, jack, widening(y, len(np.unique(labels)), plan.level), plan.level)
            found.append(Interval(low, high, "BCa bootstrap over sequences"))
    return found
