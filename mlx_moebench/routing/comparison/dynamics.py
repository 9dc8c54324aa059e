"""Routers over a training: what checkpoints choose of the same tokens, against an earlier one and against the last.

Every number of a token is a sum over tokens by another, so its interval is over sequences and both checkpoints are
drawn together. Sources: Muennighoff et al. 2024 (OLMoE, router saturation); Nguyen et al. 2025 (LibMoE), section 5 and
appendix D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from ...options import Plan
from ...types import HostArray
from ..intervals.bootstrap import Interval
from ..intervals.ratios import rate_intervals, ratio_intervals
from ..metrics import coactivation_lift
from ..sums import Floats, Numbers
from .choices import SHARES, Clusters, Estimate, by_cluster

KEPT = ("top_k", "sets", "top_1")
"""What of a token two checkpoints have in common, as columns of the tables here: the share of its K experts, whether
all of them are the same, and whether the first choice is."""

SATURATION = {"top_k": "saturation", "top_1": "saturation_top1", "sets": "saturation_sets"}
"""Overlap with the last checkpoint, by column: `router_saturation`."""

CHANGE = {"top_k": "change_rate", "top_1": "change_rate_top1", "sets": "sets_changed"}
"""1 - overlap with the checkpoint before, by column: `expert_change_rate`. LibMoE's appendix D.3 may mean the first or
``sets_changed``: the share of decisions, or of tokens, that differ."""


def router_saturation(experts: HostArray, final: HostArray) -> Floats:
    """Of each token the share of its K experts that the last checkpoint chooses, too; [T] of [T, K].

    Formula: |E_t n E_T| / K; the mean over tokens is the router's saturation, and with K = 1 its top-1 saturation.
    Unit: share of experts.
    Range: [0, 1]; K/E by chance under even routing.
    Null: no token.
    Source: OLMoE, section 5.1; LibMoE, appendix D.2.

    >>> router_saturation(np.array([[0, 1], [2, 3]]), np.array([[1, 0], [3, 1]]))
    array([1. , 0.5])
    """
    return SHARES["routing_overlap"](experts, final)


def expert_change_rate(experts: HostArray, before: HostArray) -> Floats:
    """Of each token the share of its K experts that the checkpoint before did not choose; [T] of [T, K].

    Formula: 1 - |E_t n E_(t-1)| / K: of sets, so that another order is no change.
    Unit: share of experts.
    Range: [0, 1]; 1 - K/E by chance under even routing.
    Null: no token.
    Source: LibMoE, section 5 (a) and appendix D.3.

    >>> expert_change_rate(np.array([[0, 1], [2, 3]]), np.array([[1, 0], [3, 1]]))
    array([0. , 0.5])
    """
    return 1.0 - SHARES["routing_overlap"](experts, before)


def in_common(experts: HostArray, others: HostArray, cluster: Clusters, n: int) -> Floats:
    """[N, 3] sums over the tokens of each cluster, columns as `KEPT`, of experts [T, K] in descending order of p."""
    overlap, exact, flip = (
        SHARES[name](experts, others) for name in ("routing_overlap", "exact_set_rate", "top1_flip")
    )
    return by_cluster(np.stack([overlap, exact, 1.0 - flip], axis=1), cluster, n)


def shares(sums: Floats, tokens: Numbers, strata: Sequence[str], plan: Plan, changed: bool = False) -> list[Estimate]:
    """`KEPT` from sums [N, 3] over the tokens [N] of each cluster; with ``changed`` 1 minus them."""
    under = np.repeat(np.asarray(tokens)[:, None], sums.shape[1], axis=1)
    over = under - sums if changed else sums
    intervals = rate_intervals(over, under, strata, plan)
    values = over.sum(axis=0) / np.asarray(tokens).sum()
    return [Estimate(float(v), ci) for v, ci in zip(values, intervals, strict=True)]


def difference_of(later: Floats, earlier: Floats, tokens: Numbers, strata: Sequence[str], plan: Plan) -> Estimate:
    """Mean over tokens of ``later`` minus that of ``earlier``, from sums [N] over the same clusters, paired."""
    (interval,) = ratio_intervals((later - earlier)[:, None], np.asarray(tokens)[:, None], strata, plan)
    return Estimate(float((later - earlier).sum() / np.asarray(tokens).sum()), interval)


def expected_overlap(load: npt.ArrayLike, other: npt.ArrayLike, top_k: int) -> float:
    """Overlap of two checkpoints that keep their loads [R] but choose independently of each other for every token.

    Formula: K sum_i f_i f'_i.
    Unit: share of experts.
    Range: [0, 1]; K/E where one of the loads is even. What lies above it is agreement on tokens.
    Null: NaN without a selection.

    >>> expected_overlap([0.25] * 4, [0.25] * 4, 2), expected_overlap([0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], 2)
    (0.5, 1.0)
    """
    return float(top_k * (np.asarray(load, dtype=np.float64) * np.asarray(other, dtype=np.float64)).sum())


def coactivation_stability(pairs: npt.ArrayLike, others: npt.ArrayLike, tokens: int) -> float:
    """Whether the experts that went together still do: correlation of the lifts of all pairs of experts.

    pairs, others: [R, R] tokens that chose both experts, the diagonal the counts, of two checkpoints on ``tokens``
    tokens.

    Formula: Pearson's r of N_ij T / (N_i N_j) and N'_ij T / (N'_i N'_j) over the pairs i < j whose experts both
    checkpoints use.
    Unit: correlation.
    Range: [-1, 1]; 0 by chance, whatever the loads. The pairs of the same texts share their noise, which raises it.
    Null: NaN where K = 1, or fewer than 3 pairs are known or one side does not vary.
    Source: ours, for what LibMoE shows as matrices (section 5 (h), figures 20 to 25).
    """
    a, b = (coactivation_lift(side, tokens) for side in (pairs, others))
    upper = np.triu_indices(len(a), 1)
    x, y = a[upper], b[upper]
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1.0, 1.0))


def depth_slope(sums: Floats, tokens: Numbers, depths: npt.ArrayLike, strata: Sequence[str], plan: Plan) -> Estimate:
    """By how much a mean over tokens grows from layer to layer: the least-squares slope over depth.

    sums: [L, N] of each router over the tokens [N] of each cluster. depths: [L] its layer.

    Formula: sum_l (d_l - d-bar) m_l / sum_l (d_l - d-bar)^2, m_l = sum_n s_ln / sum_n T_n.
    Unit: that of the mean, per layer.
    Range: (-inf, inf); 0 without a trend.
    Null: NaN with fewer than two depths, or where a router's sum is null.
    Source: least squares; the interval is over sequences, since the layers are all there are.
    """
    depth = np.asarray(depths, dtype=np.float64)
    centred = depth - depth.mean()
    square = float((centred**2).sum())
    if square == 0:
        return Estimate(math.nan, Interval(reason="one depth has no trend"))
    if not np.isfinite(sums).all():
        return Estimate(math.nan, Interval(reason="the margin is not defined here"))
    slope = (centred / square) @ sums
    (interval,) = ratio_intervals(slope[:, None], np.asarray(tokens)[:, None], strata, plan)
    return Estimate(float(slope.sum() / np.asarray(tokens).sum()), interval)


def depth_trend(means: npt.ArrayLike, depths: npt.ArrayLike) -> tuple[float, float]:
    """(tau, p) of Mann and Kendall's test that a number rises or falls with depth; NaN below three depths.

    Formula: Kendall's tau-b of means [L] and depths [L]; p is exact without ties, two-sided.
    Unit: correlation; probability.
    Range: [-1, 1]; p >= 2 / L!, so that fewer than 5 layers cannot be below 0.05.
    Source: Mann 1945; Kendall 1938.

    >>> tau, p = depth_trend([0.1, 0.2, 0.3, 0.4, 0.5], [0, 1, 2, 3, 4])
    >>> round(tau, 9), round(p, 9)
    (1.0, 0.016666667)
    """
    x, y = np.asarray(depths, dtype=np.float64), np.asarray(means, dtype=np.float64)
    if len(x) < 3 or not np.isfinite(y).all() or np.ptp(y) == 0:
        return math.nan, math.nan
    found = kendalltau(x, y)
    return float(found.statistic), float(found.pvalue)


def single(value: float, reason: str) -> Estimate:
    """A number without an interval, and why."""
    return Estimate(value, Interval(reason=reason))
