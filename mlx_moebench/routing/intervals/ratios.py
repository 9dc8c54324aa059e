"""Intervals of ratios of any sums over sequences, and of shares that are nearly 0 or 1.

Where fewer than `MIN_CLUSTERS` sequences hold all that sets a share apart from 0 (or from 1), the bootstrap knows only
those few, and nothing at all where there are none: of a share of 0.001 it covered 31% with 10 sequences. Each such
sequence is then one jump of a compound Poisson sum, whose interval follows from gamma distributions of the same mean
and variance, the upper one with one more jump, as large as the largest seen (Fay and Feuer 1997).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv, ndtri

from ...options import Plan
from ..sums import Floats, numbered
from .bootstrap import MIN_CLUSTERS, Interval, resample_weights, resampled_interval, too_few, widening
from .effective import pooled

_Kind = Literal["mean", "normal"]


def ratio_intervals(
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    strata: npt.ArrayLike,
    plan: Plan | None = None,
    *,
    parts: npt.ArrayLike | None = None,
    normal: bool = False,
) -> list[Interval]:
    """Intervals of the C ratios sum_n numerators / sum_n denominators, the kind ``mean`` of any sums over clusters.

    numerators, denominators: [N, C] sums of each cluster. parts: [N, C] its tokens that a ratio rests on, which are the
    denominators unless given; a cluster may have none. All ratios share one set of resamples. No interval where the
    clusters are too few or too unequal by their denominators (`effective.pooled`), where fewer than `MIN_CLUSTERS` have
    part in a ratio, nor with the method ``layer``. normal: in place of BCa, for sums of pseudo-values, whose skewness
    over few sequences is mostly noise.
    """
    plan = plan or Plan()
    over, under = (np.asarray(x, dtype=np.float64) for x in (numerators, denominators))
    of = under if parts is None else np.asarray(parts, dtype=np.float64)
    reason = pooled(under.sum(axis=1), strata).reason
    if plan.method == "layer":
        reason = "a layer bootstrap says nothing about this number"
    if reason is not None:
        return [Interval(reason=reason)] * over.shape[1]
    weights = resample_weights(strata, plan.resamples, plan.seed)
    n_strata = len(numbered(strata)[0])
    columns = zip(over.T, under.T, of.T, strict=True)
    kind: _Kind = "normal" if normal and plan.method == "bca" else "mean"
    return [_ratio_interval(kind, x, y, n, weights, n_strata, plan) for x, y, n in columns]


def rate_intervals(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike, strata: npt.ArrayLike, plan: Plan | None = None
) -> list[Interval]:
    """`ratio_intervals` of shares in [0, 1], those of rare events included.

    No interval where every sequence has a share of 0, or of 1: what none of n sequences does says only that few do.
    """
    plan = plan or Plan()
    over, under = (np.asarray(x, dtype=np.float64) for x in (numerators, denominators))
    intervals = ratio_intervals(over, under, strata, plan)
    return [_rate_interval(x, y, ci, plan) for x, y, ci in zip(over.T, under.T, intervals, strict=True)]


def _ratio_interval(
    kind: _Kind, x: Floats, y: Floats, part: Floats, weights: Floats, n_strata: int, plan: Plan
) -> Interval:
    """Of sum x / sum y, sums [N] of the clusters, whose tokens it rests on are ``part``; it holds the ratio."""
    if (n := int((part > 0).sum())) < MIN_CLUSTERS:
        return Interval(reason=too_few(n))
    if not np.isfinite(x).all():
        return Interval(reason="the number is not defined here")
    with np.errstate(invalid="ignore", divide="ignore"):
        boot = (weights @ x) / (weights @ y)
        jack = (x.sum() - x) / (y.sum() - y)
    point = float(x.sum() / y.sum())
    wide = widening(part, n_strata, plan.level)
    if kind == "normal":
        half = wide * float(ndtri((1 + plan.level) / 2)) * float(boot.std())
        return Interval(point - half, point + half, "normal bootstrap over sequences")
    interval = resampled_interval("mean", point, boot, jack, wide, plan)
    if interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=min(interval.low, point), high=max(interval.high, point))


def _rate_interval(x: Floats, y: Floats, interval: Interval, plan: Plan) -> Interval:
    rest = y - x
    some, others = (int((part > 1e-12 * y.sum()).sum()) for part in (x, rest))
    if interval.low is None or min(some, others) >= MIN_CLUSTERS or max(some, others) < MIN_CLUSTERS:
        return interval
    if min(some, others) == 0:
        n, end = int((y > 0).sum()), int(some > 0)
        return Interval(reason=f"it is {end} in all {n} sequences, and resampling them cannot leave {end}")
    low, high = _gamma(x / y.sum() if some < others else rest / y.sum(), plan.level)
    if others < some:
        low, high = 1 - high, 1 - low
    return Interval(low, high, "gamma interval of a rare share")


def _gamma(jumps: Floats, level: float) -> tuple[float, float]:
    """Of the sum of what single sequences add to a share, [N], few of them not 0."""
    rate, variance, more = float(jumps.sum()), float((jumps**2).sum()), float(jumps.max())

    def quantile(q: float, mean: float, spread: float) -> float:
        return float(spread / mean * gammaincinv(mean**2 / spread, q))

    low = quantile((1 - level) / 2, rate, variance)
    return low, min(quantile((1 + level) / 2, rate + more, variance + more**2), 1.0)
