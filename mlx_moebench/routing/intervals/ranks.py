"""How well a number that each token has foretells another: rank correlation and calibration, by sequences.

A rank correlation is no ratio of sums, since every rank depends on all tokens. Ranking once and resampling the products
of those ranks would leave out that the ranks, too, are estimates. But to first order Spearman's coefficient is a mean
over tokens: of its pseudo-values, the coefficient plus each token's influence on it (the derivative towards more such
tokens, through the products of the ranks, through the ranks of the others, and through the variances). They are
computed once, in O(T log T); their sums over sequences are then resampled as those of any mean, in one matrix product.

The interval is normal on Fisher's scale, atanh(rho), with the standard error of the resampled values and the widening
of `routing.intervals.bootstrap`. BCa covered less, 92 to 94%: products of ranks have heavy tails over sequences, and
their skewness is then mostly noise. Simulated coverage stands in docs/uncertainty.md (benchmarks/rank_coverage.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import rankdata

from ...options import Plan
from ..sums import Floats, Numbers, numbered
from .bootstrap import Interval, resample_weights, widening
from .effective import pooled
from .ratios import ratio_intervals

BINS = 10
MANY_TIED = 0.2
"""Share of a bin that has one score, above which an edge beside it moves by jumps or not at all."""

_Edge = tuple[npt.NDArray[np.bool_], float | None]


@dataclass(frozen=True)
class RankCorrelation:
    """rho in [-1, 1], NaN where a side does not vary; its interval, or the reason why there is none."""

    rho: float
    interval: Interval

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"rho": None if np.isnan(self.rho) else self.rho, **self.interval.to_dict()}


@dataclass(frozen=True)
class Bin:
    """Tokens of like score: range and mean of the score, number of tokens, mean outcome with its interval."""

    low: float
    high: float
    mean: float
    n_tokens: int
    outcome: float
    interval: Interval

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        score = {"low": self.low, "high": self.high, "mean": self.mean}
        return {"score": score, "n_tokens": self.n_tokens, "loss": {"value": self.outcome, **self.interval.to_dict()}}


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[float, Floats]:
    """(rho, pseudo-values [T], whose mean is rho) of two numbers per token, [T] each.

    Formula: Pearson correlation of the ranks; tied tokens share the mean of their ranks.
    Unit: none.
    Range: [-1, 1].
    Null: 0 by chance; NaN for fewer than two tokens, NaN values, or a side that does not vary.
    Source: Spearman 1904; influence of a token from the Hoeffding decomposition of its U-statistic.

    >>> float(spearman([1, 2, 3, 4], [10, 30, 20, 40])[0].__round__(3))
    0.8
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    nothing = np.full(len(a), np.nan)
    if len(a) < 2 or np.isnan(a).any() or np.isnan(b).any():
        return float("nan"), nothing
    # F(x) = P(X < x) + P(X = x) / 2: its mean is exactly 1/2, ties or not.
    f, g = ((rankdata(side) - 0.5) / len(side) for side in (a, b))
    covariance, var_f, var_g = np.mean(f * g) - 0.25, np.mean(f * f) - 0.25, np.mean(g * g) - 0.25
    if min(var_f, var_g) < 1e-12:
        return float("nan"), nothing
    rho = float(covariance / np.sqrt(var_f * var_g))
    influence_f = f * f + 2 * _above(f, f)
    influence_g = g * g + 2 * _above(g, g)
    influence = f * g + _above(f, g) + _above(g, f)
    parts = [part - part.mean() for part in (influence, influence_f, influence_g)]
    change = parts[0] / np.sqrt(var_f * var_g) - rho / 2 * (parts[1] / var_f + parts[2] / var_g)
    return rho, rho + change


def rank_correlations(
    scores: npt.ArrayLike,
    outcome: npt.ArrayLike,
    cluster: npt.ArrayLike,
    strata: npt.ArrayLike,
    plan: Plan | None = None,
) -> tuple[list[RankCorrelation], RankCorrelation]:
    """Spearman's rho of each score [T, C] with the outcome [T], and their mean over the scores that have one.

    cluster: [T] number of each token's sequence, into strata [N]. The intervals share their resamples.
    """
    columns = np.asarray(scores, dtype=np.float64)
    sequence, labels = np.asarray(cluster), np.asarray(strata)
    correlations = [spearman(column, outcome) for column in columns.T]
    pseudo = np.stack([values for _, values in correlations], axis=1)
    have = np.isfinite(pseudo).all(axis=0)
    mean = pseudo[:, have].mean(axis=1) if have.any() else np.full(len(columns), np.nan)
    sums = _by_cluster(np.column_stack([pseudo, mean]), sequence, len(labels))
    tokens = np.bincount(sequence, minlength=len(labels))
    rhos = [rho for rho, _ in correlations]
    rhos.append(float(np.mean([rho for rho in rhos if np.isfinite(rho)])) if have.any() else float("nan"))
    intervals = _fisher_intervals(rhos, sums, tokens, labels, plan or Plan())
    *each, joint = [RankCorrelation(rho, ci) for rho, ci in zip(rhos, intervals, strict=True)]
    return each, joint


def calibration(
    score: npt.ArrayLike,
    outcome: npt.ArrayLike,
    cluster: npt.ArrayLike,
    strata: npt.ArrayLike,
    plan: Plan | None = None,
    bins: int = BINS,
) -> list[Bin]:
    """Mean outcome of the tokens in each of ``bins`` equal parts of the score, lowest first; [] for a null score.

    The edges of a part are estimates, too: where tokens are added below one, it moves down, and tokens of the mean
    outcome there cross it. Intervals are those of the pseudo-values that count this: with edges taken as fixed, 95%
    were 85 to 91% where the score tells the outcome well. They are normal: BCa covered 89 to 94% in the outer bins of
    20 sequences. Tied tokens fall into one bin, so that bins may differ in size, or be missing; an edge beside a value
    that many tokens share stays where it is.
    """
    x, y = np.asarray(score, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    sequence, labels = np.asarray(cluster), np.asarray(strata)
    if not len(x) or np.isnan(x).any():
        return []
    place = (rankdata(x) - 0.5) / len(x)
    part = np.floor(bins * place).astype(np.int64)
    edges = [_edge(x, y, place, part, number) for number in range(bins + 1)]
    numbers = np.unique(part)
    inside = part[:, None] == numbers
    pseudo = np.column_stack([_bin_pseudo_values(y, part == n, edges[n], edges[n + 1]) for n in numbers])
    sums, parts = (_by_cluster(values, sequence, len(labels)) for values in (pseudo, inside * 1.0))
    tokens = np.repeat(parts.sum(axis=1, keepdims=True), len(numbers), axis=1)
    intervals = ratio_intervals(sums, tokens, labels, plan, parts=parts, normal=True)
    return [_bin(x[rows], y[rows], ci) for rows, ci in zip(inside.T, intervals, strict=True)]


def _bin_pseudo_values(y: Floats, inside: npt.NDArray[np.bool_], lower: _Edge, upper: _Edge) -> Floats:
    """[T] whose mean is that of y inside."""
    mean = y[inside].mean()
    change = (y - mean) * inside
    for sign, (below, at_edge) in ((1, lower), (-1, upper)):
        if at_edge is not None:
            change += sign * (at_edge - mean) * (below - below.mean())
    values: Floats = mean + change / inside.mean()
    return values


def _edge(x: Floats, y: Floats, place: Floats, part: npt.NDArray[np.integer], number: int) -> _Edge:
    """(tokens below the edge under this part, mean outcome about it); None for an edge that does not move."""
    below = part < number
    if below.all() or not below.any():
        return below, None
    tied = max((x == x[below].max()).mean(), (x == x[~below].min()).mean())
    if tied > MANY_TIED / (part.max() + 1):
        return below, None
    near = np.abs(place - below.mean()) <= 0.5 / (part.max() + 1)
    return below, float(y[near].mean())


def _bin(score: Floats, outcome: Floats, interval: Interval) -> Bin:
    low, high, mean = (float(number) for number in (score.min(), score.max(), score.mean()))
    return Bin(low, high, mean, len(score), float(outcome.mean()), interval)


def _above(f: Floats, g: Floats) -> Floats:
    """[T] mean of g over the tokens whose f is larger, tied ones by half: what one more token does to their ranks."""
    _, place = np.unique(f, return_inverse=True)
    group = np.bincount(place, weights=g)
    from_here = group[::-1].cumsum()[::-1]
    result: Floats = (from_here - group / 2)[place] / len(f)
    return result


def _by_cluster(values: Floats, sequence: npt.NDArray[np.integer], n: int) -> Floats:
    return np.stack([np.bincount(sequence, weights=column, minlength=n) for column in values.T], axis=1)


def _fisher_intervals(
    rhos: list[float], sums: Floats, tokens: Numbers, strata: npt.NDArray[np.generic], plan: Plan
) -> list[Interval]:
    """Intervals of C rank correlations from the sums of their pseudo-values over sequences [N, C]."""
    if (reason := pooled(tokens, strata).reason) is not None:
        return [Interval(reason=reason)] * len(rhos)
    weights = resample_weights(strata, plan.resamples, plan.seed)
    errors = ((weights @ sums) / (weights @ tokens)[:, None]).std(axis=0)
    wide = widening(tokens, len(numbered(strata)[0]), plan.level) * float(ndtri((1 + plan.level) / 2))
    intervals = []
    for rho, error in zip(rhos, errors.tolist(), strict=True):
        if not np.isfinite(rho):
            intervals.append(Interval(reason="one side does not vary, or is not defined"))
            continue
        rest = 1 - rho * rho
        half = wide * error / rest if rest > 1e-12 else 0.0
        low, high = np.tanh(np.arctanh(np.clip(rho, -1 + 1e-15, 1 - 1e-15)) + np.array([-half, half]))
        intervals.append(Interval(float(low), float(high), "normal bootstrap over sequences on Fisher's scale"))
    return intervals
