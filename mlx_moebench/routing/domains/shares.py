"""Experts' shares on several domains: the one that dominates most of them, those that are idle, a domain's own ones.

Each is a question about the largest or the number of many shares; see `routing.intervals.bands`.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaincc, ndtri, stdtr

from ..intervals.bands import SELECTION, SKEWEST, Estimates, maximum, simultaneous, untransformed
from ..intervals.bootstrap import Interval
from ..intervals.halves import Ratios, student
from ..sums import Floats
from .estimates import DomainEstimates

MOST = "studentised bands over the experts that may lead in most domains"
COUNT = "number of experts surely below, and not surely above"
MISTAKEN = (0.0, 0.05, 0.25)
"""Shares of the experts that may be counted by mistake, and are taken off again; 0 allows no mistake."""


def dominance(e: DomainEstimates) -> tuple[float, Interval, int]:
    """(p, its interval, the expert): the largest share that an expert has in more than half of the domains.

    p = max_i of the ceil((D + 1) / 2)-th largest of s_d(i) over the domains d; NaN where a domain has no tokens.
    """
    rank = math.ceil((len(e.domains) + 1) / 2)
    led = _ranked(e.shares, rank) if np.isfinite(e.shares).all() else np.full(e.n_experts, math.nan)
    expert = int(led.argmax())
    if e.ratios is None:
        return float(led[expert]), Interval(reason=e.reason), expert
    parts = [Estimates.of(r) for r in e.ratios]
    value, error, free, skewness = (
        np.stack([getattr(p, name) for p in parts]) for name in ("value", "error", "free", "skewness")
    )
    drawn = np.stack([p.standardised for p in parts], axis=1)
    reach = student(free, float(np.quantile(np.abs(drawn).max(axis=(1, 2)), 1 - SELECTION))) * error
    some = _ranked(value + reach, rank) >= _ranked(value - reach, rank).max()
    value, error, free, skewness = value[:, some], error[:, some], free[:, some], skewness[:, some]
    tail, most = (1 - e.level) / 2, SKEWEST / math.sqrt(value.shape[1])
    # A false lower end takes one domain of one candidate, a false upper end one of ``rank`` domains of the leader.
    normal = max(float(np.quantile(drawn[:, :, some].max(axis=(1, 2)), 1 - tail)), float(ndtri(1 - tail)))
    low = value - error * untransformed(student(free, normal), np.clip(skewness, -most, 0.0))
    above = float(ndtri((1 - tail) ** (1 / rank)))
    high = value - error * untransformed(-student(free, above), np.clip(skewness, 0.0, most))
    lowest, highest = (float(np.clip(_ranked(x, rank).max(), 0.0, 1.0)) for x in (low, high))
    return float(led[expert]), Interval(lowest, highest, MOST), expert


def _ranked(shares: Floats, rank: int) -> Floats:
    """The ``rank``-th largest over domains, [R] of [D, R]."""
    return np.asarray(np.sort(shares, axis=0)[-rank])


def idleness(e: DomainEstimates, multiple: float) -> tuple[float, Interval]:
    """(share of the experts whose load in the mixture is below ``multiple`` of the even load, its interval).

    Of each expert it is asked how surprising its load would be for one at that threshold, on either side. That no
    sequence chose an expert proves nothing where few selections were expected: a small load is held against a Poisson
    number with the variance that loads of this router have. The ends count the experts that are surely below, and those
    that are not surely above, less the few that so many experts may show by chance (`_at_least`). NaN where a
    domain has no tokens.
    """
    least = multiple / e.n_experts
    value = float((e.mixture < least).mean()) if np.isfinite(e.mixture).all() else math.nan
    if e.ratios is None:
        return value, Interval(reason=e.reason)
    free, error = _mixed(e.ratios, e.top_k)
    spread = np.where(error > 0, error, 1.0)
    score = np.where(error > 0, (e.mixture - least) / spread, np.where(e.mixture < least, -np.inf, np.inf))
    unit = _dispersion(e, e.ratios)
    below = np.maximum(stdtr(free, score), gammaincc(e.mixture / unit + 1, least / unit))
    tail = (1 - e.level) / 2
    low = _at_least(below, tail) / e.n_experts
    high = 1 - _at_least(stdtr(free, -score), tail) / e.n_experts
    return value, Interval(min(low, value), max(high, value), COUNT)


def _at_least(p: Floats, tail: float) -> int:
    """How many of the hypotheses with these p-values are false at least, wrong in at most this share of samples.

    Of m hypotheses k or more true ones have p <= k a / m in at most a of samples, however they depend on each other
    (Lehmann and Romano 2005). The k that may be true are taken off again; a third of the share goes to each of
    `MISTAKEN` k / m.
    """
    m = len(p)
    allowed = sorted({max(math.ceil(part * m), 1) for part in MISTAKEN})
    return max(0, *(int((p <= k * tail / len(allowed) / m).sum()) - (k - 1) for k in allowed))


def _mixed(ratios: tuple[Ratios, ...], top_k: int) -> tuple[Floats, Floats]:
    """(degrees of freedom, standard errors) [R] of the loads of the mixture: Welch's and Satterthwaite's."""
    variance = np.stack([r.variance for r in ratios]) / (top_k * len(ratios)) ** 2
    free = np.array([r.free for r in ratios])
    total = variance.sum(axis=0)
    return _welch(total, (variance**2 / free[:, None]).sum(axis=0), free), np.sqrt(total)


def _welch(variance: Floats, squares: Floats, free: Floats) -> Floats:
    """Degrees of freedom of a sum of variances, from the sum of their squares over their own degrees of freedom."""
    return np.where(squares > 0, variance**2 / np.where(squares > 0, squares, 1.0), free.min())


def _dispersion(e: DomainEstimates, ratios: tuple[Ratios, ...]) -> float:
    """Variance of a small load over the load: at least that of independent selections.

    The larger of that of all experts and that of the less used half of those that are used at all.
    """
    load = np.stack([r.value for r in ratios]) / e.top_k
    variance = np.stack([r.variance for r in ratios]) / e.top_k**2
    used = np.flatnonzero(load.mean(axis=0) > 0)
    lower = used[np.argsort(load.mean(axis=0)[used])][: (len(used) + 1) // 2]
    seen = [variance[:, which].sum(axis=1) / load[:, which].sum(axis=1).clip(1e-300) for which in (used, lower)]
    independent = 1.0 / np.array([max(d.tokens * e.top_k, 1) for d in e.domains])
    return float(np.maximum(np.max(seen, axis=0), independent).sum()) / len(ratios) ** 2


def contrast(e: DomainEstimates, odds: float, multiple: float) -> tuple[float, Interval, list[tuple[int, int]]]:
    """(excess, its interval, [(domain, expert)]): by how much a domain's own expert exceeds what would make it one.

    With s the share of an expert in a domain, x its mean share in the others, and g(x) that of ``odds`` times the odds
    of x, excess = max over domains and experts of s - g(x): above 0 if and only if some expert's odds in one domain are
    over ``odds`` times its odds in the rest. An expert counts where it has ``multiple`` of its even share, and where
    the others leave as much of their tokens to other experts: odds near 0 and near infinity say nothing. The pairs are
    those whose band is above 0; without intervals, those whose value is.
    """
    d = len(e.domains)
    rest = (e.shares.sum(axis=0) - e.shares) / (d - 1)
    least, most = multiple * e.even, 1 - multiple * (1 - e.even)
    beyond = e.shares - odds * rest / (1 + (odds - 1) * rest)
    value = np.minimum(np.minimum(beyond, e.shares - least), most - rest)
    if e.ratios is None:
        pairs = [(int(a), int(b)) for a, b in np.argwhere(value > 0)]
        return float(value.max()), Interval(reason=e.reason), pairs
    # To first order a value is factor s - slope x, by which of the three it is.
    factor = np.where(value < np.minimum(beyond, e.shares - least), 0.0, 1.0)
    slope = np.where(value < beyond, 1.0 - factor, odds / (1 + (odds - 1) * rest) ** 2)
    estimates = _contrasts(value, factor, slope, e.ratios)
    largest = maximum(estimates, e.level)
    low, _ = simultaneous(estimates, e.level)
    sure = np.flatnonzero(low > 0)
    return largest.value, largest.interval, [divmod(int(i), e.n_experts) for i in sure]


def _contrasts(value: Floats, factor: Floats, slope: Floats, ratios: tuple[Ratios, ...]) -> Estimates:
    """Of factor s - slope x, x the mean of the other domains, [D R] in rows."""
    slope = slope / (len(ratios) - 1)
    variance = np.stack([r.variance for r in ratios])
    third = np.stack([r.skewness for r in ratios]) * variance**1.5
    free = np.array([r.free for r in ratios])[:, None]
    squares = variance**2 / free
    noise = np.stack([r.noise for r in ratios], axis=1)

    def others(x: Floats) -> Floats:
        return np.asarray(x.sum(axis=-2, keepdims=True) - x)

    total = factor**2 * variance + slope**2 * others(variance)
    error = np.sqrt(total)
    skewness = (factor**3 * third - slope**3 * others(third)) / np.where(error > 0, error, 1.0) ** 3
    freedom = _welch(total, factor**4 * squares + slope**4 * others(squares), free)
    drawn = factor * noise - slope * others(noise)
    flat = [x.reshape(-1) for x in (value, error, skewness, freedom)]
    return Estimates(flat[0], flat[1], flat[2], flat[3], drawn.reshape(len(drawn), -1))
