"""What two runs of the same tokens choose, token by token: sets kept, first choices, distributions, by margin.

A is the reference: p, K experts and selection margin of each token are its own. B saw the same tokens. Every number is
a sum over tokens by another, so its interval is the one of `intervals.ratios`, over sequences, and both runs are drawn
together: it is paired by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...options import Plan
from ...types import HostArray
from ..intervals.bootstrap import MIN_CLUSTERS, Interval, clipped
from ..intervals.ranks import BINS, calibration
from ..intervals.ratios import rate_intervals, ratio_intervals
from ..sums import Floats, Numbers
from ..tokens import changed_choices

Clusters = npt.NDArray[np.intp]


def routing_overlap(experts: HostArray, others: HostArray) -> Floats:
    """Share of a token's experts that both runs chose, of ``experts`` and ``others`` [T, K]; [T].

    Formula: |A_t n B_t| / K.
    Unit: share of experts.
    Range: [0, 1]; K/E by chance under even routing.
    Null: no token.
    """
    top_k = experts.shape[1]
    return np.asarray((top_k - changed_choices(experts, others)) / top_k)


def exact_set(experts: HostArray, others: HostArray) -> Floats:
    """1 where a token keeps its whole set of experts, in whatever order, else 0; [T].

    Formula: [A_t = B_t].
    Unit: share of tokens, as a mean.
    Range: [0, 1].
    Null: no token.
    """
    return np.asarray(changed_choices(experts, others) == 0, dtype=np.float64)


def top1_flip(experts: HostArray, others: HostArray) -> Floats:
    """1 where the first choice differs, of ``experts`` and ``others`` [T, K] in descending order of p, else 0; [T].

    Formula: [first of A_t != first of B_t], the first being the chosen expert of largest p, ties to the lowest index.
    Unit: share of tokens, as a mean.
    Range: [0, 1].
    Null: no token.
    """
    return np.asarray(experts[:, 0] != others[:, 0], dtype=np.float64)


def kl_divergence(log_p: Floats, log_q: Floats) -> Floats:
    """KL(p || q) of the routing distributions of a token, from ln p and ln q [T, R]; [T].

    Formula: sum_i p_i (ln p_i - ln q_i), over the experts with p_i > 0.
    Unit: nats.
    Range: [0, inf); 0 where p = q.
    Null: no token.
    Source: Kullback and Leibler 1951; p is the reference.
    """
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (log_p - log_q), 0.0)
    return np.asarray(np.maximum(terms.sum(axis=-1), 0.0))  # rounding alone is below 0


@dataclass(frozen=True)
class Choices:
    """Of the T tokens of one router on both runs, what is measured of each.

    overlap, exact, flip, kl: as the functions of this module. margin: the reference's selection margin, NaN where it
    had no choice.
    """

    overlap: Floats
    exact: Floats
    flip: Floats
    kl: Floats
    margin: Floats

    @property
    def table(self) -> Floats:
        """[T, 4], columns as `MEASURES`."""
        return np.stack([self.overlap, self.exact, self.flip, self.kl], axis=1)


SHARES: dict[str, Callable[[HostArray, HostArray], Floats]] = {
    "routing_overlap": routing_overlap,
    "exact_set_rate": exact_set,
    "top1_flip": top1_flip,
}
"""What two sets of choices say, each in [0, 1]; of experts in descending order of p."""

MEASURES = {
    "routing_overlap": ("share of a token's K experts that both runs chose", "share of experts"),
    "exact_set_rate": ("share of tokens whose whole set of experts is the same", "share of tokens"),
    "top1_flip": ("share of tokens whose first choice differs", "share of tokens"),
    "kl": ("mean KL(p || q) of the routing distributions, p the reference's", "nats"),
}
"""{name: (what it is, its unit)}, in the order of the columns of tables."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, or the reason why there is none; NaN where it is undefined."""

    value: float
    interval: Interval

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"value": None if np.isnan(self.value) else self.value, **self.interval.to_dict()}


def by_cluster(columns: HostArray, cluster: Clusters, n: int) -> Floats:
    """[N, C] sums over the tokens of each of n clusters, of columns [T, C]; cluster [T]."""
    return np.stack([np.bincount(cluster, weights=column, minlength=n) for column in columns.T], axis=1)


def measured(sums: Floats, tokens: Numbers, strata: Sequence[str], plan: Plan) -> dict[str, Estimate]:
    """`MEASURES` from their sums over the tokens of each cluster [N, 4] and its tokens [N].

    A number that is 0 (or, of a share, 1) in every sequence has no interval: resampling cannot leave it.
    """
    under = np.repeat(tokens[:, None], sums.shape[1], axis=1)
    shares = len(SHARES)
    intervals = rate_intervals(sums[:, :shares], under[:, :shares], strata, plan)
    intervals += ratio_intervals(sums[:, shares:], under[:, shares:], strata, plan)
    if not sums[:, -1].any() and intervals[-1].low is not None:
        n = int((tokens > 0).sum())
        intervals[-1] = Interval(reason=f"it is 0 in all {n} sequences, and resampling them cannot leave 0")
    values = sums.sum(axis=0) / tokens.sum()
    return {name: Estimate(float(v), ci) for name, v, ci in zip(MEASURES, values, intervals, strict=True)}


@dataclass(frozen=True)
class Tenth:
    """Tokens of like margin: the lowest, highest and mean one, how many, and the share of them that kept their set."""

    low: float
    high: float
    mean: float
    n_tokens: int
    kept: Estimate

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        margin = {"low": self.low, "high": self.high, "mean": self.mean}
        return {"margin": margin, "n_tokens": self.n_tokens, "exact_set_rate": self.kept.to_dict()}


def kept_by_margin(
    margin: Floats, exact: Floats, cluster: Clusters, strata: Sequence[str], plan: Plan, bins: int = BINS
) -> list[Tenth]:
    """Sets kept in each of ``bins`` equal parts of the tokens by the reference's selection margin, smallest first.

    margin, exact, cluster: [T]; strata [N]. [] where the margin is null. The intervals are those of `calibration`,
    whose edges are estimates; of a part where fewer than `MIN_CLUSTERS` sequences lost a set, or kept one, those of
    rare shares (`rate_intervals`) at the edges as they are.
    """
    tenths = calibration(margin, exact, cluster, strata, plan, bins)
    if not tenths:
        return []
    inside = np.stack([(margin >= t.low) & (margin <= t.high) for t in tenths], axis=1)
    tokens = by_cluster(inside * 1.0, cluster, len(strata))
    kept = by_cluster(inside * exact[:, None], cluster, len(strata))
    rare = rate_intervals(kept, tokens, strata, plan)
    few = np.minimum((kept > 0).sum(axis=0), (kept < tokens).sum(axis=0)) < MIN_CLUSTERS
    return [
        Tenth(
            t.low,
            t.high,
            t.mean,
            t.n_tokens,
            Estimate(t.outcome, other if seldom else clipped(_holding(t.interval, t.outcome), (0.0, 1.0))),
        )
        for t, other, seldom in zip(tenths, rare, few, strict=True)
    ]


def _holding(interval: Interval, value: float) -> Interval:
    if interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=min(interval.low, value), high=max(interval.high, value))


def share_of_loss(lost: Floats, without: Floats, tokens: Numbers, strata: Sequence[str], plan: Plan) -> Estimate:
    """Which share of the sets that B loses it would keep if it were ``without`` something, such as coarse routers.

    lost, without: [N] sums over the tokens of each cluster that lost their set, at B and at B without it; tokens [N].

    Formula: (sum lost - sum without) / sum lost.
    Unit: share of the sets lost.
    Range: (-inf, 1]; below 0 where B loses fewer with it.
    Null: B loses no set.
    """
    if not lost.sum():
        return Estimate(float("nan"), Interval(reason="no set is lost"))
    columns = [x[:, None] for x in (lost - without, lost, tokens)]
    (interval,) = ratio_intervals(columns[0], columns[1], strata, plan, parts=columns[2])
    return Estimate(float((lost - without).sum() / lost.sum()), interval)
