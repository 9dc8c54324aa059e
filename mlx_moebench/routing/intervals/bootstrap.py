"""Intervals for routing metrics: whole sequences are resampled, because tokens inside one are not independent.

Resampling N clusters is one matrix product, weights [B, N] @ sums [N, columns]; every ratio of sums is then recomputed
on the resampled sums. Its interval is BCa (Efron 1987), or the plain percentiles. Numbers that are biased in finite
samples, and the largest of several shares, need other intervals: see `measured`.

BCa has neither side shorter than that of the normal interval. Both are widened (but not the plain percentiles), because
N resampled clusters vary less than N clusters do and N is small (Hesterberg 2015, "expanded percentile"): from the
normal to Student's t with G - D degrees of freedom, and by sqrt(G / (G - D)), for D strata. G = (sum x^2)^2 / sum x^4
<= N, x the tokens of a cluster, counts the clusters that the variance estimate really rests on (Satterthwaite's degrees
of freedom of a sum of squares in proportion to x^2): with G = N, sequences of unequal length brought coverage of a 95%
interval down to 92%.
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
from ..sums import Floats, Numbers, Sums, numbered

MIN_CLUSTERS = 10
BLOCK_CELLS = 1 << 17  # resamples x experts worked on at a time: about 1 MB an array, so it stays in cache

SCALAR: tuple[IntervalKind, ...] = ("mean", "plugin", "distance")
"""The kinds of metrics of which a resample has one value."""


@dataclass(frozen=True)
class Interval:
    """low and high are None when no interval can be given; ``reason`` then says why.

    bias: of plug-in statistics and distances, the plug-in value minus what is shown. candidates: of a maximum, how many
    may be the largest.
    """

    low: float | None = None
    high: float | None = None
    method: str | None = None
    bias: float | None = None
    reason: str | None = None
    candidates: int | None = None

    def to_dict(self) -> dict[str, object]:
        """For JSON: the fields that say something; low and high always."""
        extra = {name: getattr(self, name) for name in ("method", "bias", "candidates", "reason")}
        return {"low": self.low, "high": self.high} | {k: v for k, v in extra.items() if v is not None}


@dataclass(frozen=True)
class MeanIntervals:
    """rows: {metric: interval} of each router. over: of the mean over the routers that have the metric."""

    rows: list[dict[str, Interval]]
    over: dict[str, Interval]


def resample_weights(strata: npt.ArrayLike, resamples: int, seed: int | Sequence[int]) -> Floats:
    """How often each cluster is drawn, [B, N]: N_d draws with replacement inside each stratum d of N_d clusters."""
    names, labels = numbered(strata)
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(labels)))
    for number in range(len(names)):
        members = np.flatnonzero(labels == number)
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


def mean_intervals(
    routers: Sequence[Sums], strata: npt.ArrayLike, plan: Plan, metrics: Sequence[Metric]
) -> MeanIntervals:
    """Intervals of ``metrics`` of the kind ``mean``, for each router and for their means over routers.

    routers: one `Sums` each, first axis the N clusters, the same clusters in the same order. strata: [N] domain labels.
    All routers share one set of resamples, so what holds jointly is joint.
    """
    weights = resample_weights(strata, plan.resamples, plan.seed)
    n_strata = len(numbered(strata)[0])
    resampled = [_Resampled(sums, weights, metrics, widening(sums.n_tokens, n_strata, plan.level)) for sums in routers]
    rows = [{m.name: r.interval(m, plan) for m in metrics} for r in resampled]
    have = [m for m in metrics if any(math.isfinite(r.point[m.name]) for r in resampled)]
    return MeanIntervals(rows, {m.name: _over_routers(resampled, m, plan) for m in have})


def metrics_of(names: Sequence[str] | None) -> list[Metric]:
    """The metrics of these names; None for all."""
    return list(METRICS.values()) if names is None else [get_metric(name) for name in names]


class _Resampled:
    """Values of means over tokens for one router: the estimate, B resamples, N leave-one-outs."""

    def __init__(self, sums: Sums, weights: Floats, metrics: Sequence[Metric], widen: float) -> None:
        few = _few_columns(sums, metrics)
        total, left_out, drawn = few.total(), few.leave_one_out(), few.weighted(weights)
        self.form, self.widen = (sums.n_experts, sums.top_k), widen
        self.point = {m.name: float(m.values(total)) for m in metrics}
        self.jack = {m.name: m.values(left_out) for m in metrics}
        self.boot = {m.name: m.values(drawn) for m in metrics}

    def interval(self, m: Metric, plan: Plan) -> Interval:
        """Of this router alone."""
        point = self.point[m.name]
        if not math.isfinite(point):
            return Interval(reason="the metric is not defined here")
        return _mean_interval(point, self.boot[m.name], self.jack[m.name], self.widen, plan, limits(m, [self.form]))


def _few_columns(sums: Sums, metrics: Sequence[Metric]) -> Sums:
    """Sums without what is known of single experts, if the metrics do not ask for it: few columns to draw again."""
    few, total = sums.of_tokens(), sums.total()
    try:
        enough = all(np.array_equal(m.values(few.total()), m.values(total), equal_nan=True) for m in metrics)
    except (IndexError, ValueError):
        enough = False
    return few if enough else sums


def _over_routers(routers: Sequence[_Resampled], m: Metric, plan: Plan) -> Interval:
    """Of the mean over those routers that have the metric, as its point value is."""
    have = [r for r in routers if math.isfinite(r.point[m.name])]
    point = float(np.mean([r.point[m.name] for r in have]))
    boot = np.mean([r.boot[m.name] for r in have], axis=0)
    jack = np.mean([r.jack[m.name] for r in have], axis=0)
    bounds = limits(m, [r.form for r in routers])
    return _mean_interval(point, boot, jack, max(r.widen for r in routers), plan, bounds)


def _mean_interval(
    point: float, boot: Floats, jack: Floats, widen: float, plan: Plan, bounds: tuple[float, float]
) -> Interval:
    """Inside its bounds, and holding its value: with few resamples a skewed BCa interval may begin beside it."""
    interval = resampled_interval("mean", point, boot, jack, widen, plan)
    if interval.low is None or interval.high is None:
        return interval
    return clipped(replace(interval, low=min(interval.low, point), high=max(interval.high, point)), bounds)


def resampled_interval(
    kind: IntervalKind, point: float, boot: Floats, jack: Floats, widen: float, plan: Plan, level: float | None = None
) -> Interval:
    """The interval of a mean, plug-in or distance from its resampled values [B] and leave-one-out values [N].

    level: that of the plan by default; a p-value is sought at levels that the plan's draws cannot reach as well.
    """
    level = plan.level if level is None else level
    boot, jack = boot[np.isfinite(boot)], jack[np.isfinite(jack)]
    if len(boot) < 0.9 * plan.resamples:
        return Interval(reason="the metric is not defined in more than a tenth of the resamples")
    if kind == "plugin":
        low, high = basic(point, boot, widen, level)
    elif kind == "distance":
        low, high = (math.sqrt(max(x, 0.0)) for x in basic(point**2, boot**2, widen, level))
    elif plan.method == "percentile":
        low, high = np.quantile(boot, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high), "percentile bootstrap over sequences")
    else:
        low, high = _bca(point, boot, jack, widen, level)
        # The skewness of few sequences is mostly noise: BCa alone covered 91% where one side came out too short.
        half = widen * float(ndtri((1 + level) / 2)) * float(boot.std())
        return Interval(min(low, point - half), max(high, point + half), "BCa bootstrap over sequences")
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


def layer_intervals(routers: Sequence[Sums], metrics: Sequence[Metric], plan: Plan) -> dict[str, Interval]:
    """The published "95% layer bootstrap" of means over layers, for comparison: layers are a census, not a sample."""
    label = "percentile bootstrap over layers (layers are a census, not a sample)"
    draws = np.random.default_rng(plan.seed).integers(len(routers), size=(plan.resamples, len(routers)))
    tail = (1 - plan.level) / 2
    over: dict[str, Interval] = {}
    for m in metrics:
        values = np.array([float(m.values(s.total())) for s in routers])
        if m.interval in SCALAR and np.isfinite(values).all():
            low, high = np.quantile(values[draws].mean(axis=1), [tail, 1 - tail])
            point = float(values.mean())
            over[m.name] = Interval(min(float(low), point), max(float(high), point), label)
    return over
