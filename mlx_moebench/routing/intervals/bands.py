"""The largest of many estimates, such as the busiest expert's share: which may be largest, and how large it is.

A bootstrap of a maximum covers 0% under even routing: the largest of many estimates is too large. One half-width for
all experts covers but is twice as wide as needed, and gives an expert in every token room to be in half of them. So
every expert has a band of its own standard error, and the interval of max theta is made from those that can be largest.

From below, [max_i (theta_i - q s_i): q holds for all candidates at once, as random halves draw their errors together.
From above, max_i (theta_i + t s_i)]: the largest is one expert, whoever it is, and only its own error counts.
With one candidate both are Student's interval. Candidates are the experts whose band at a stricter level reaches the
best lower end (the selection step of Chernozhukov, Lee and Rosen 2013). Two refinements:

- From below also max theta - u, u the quantile of the candidates' largest error itself: where standard errors are rough
  (few sequences, rare experts), dividing by them costs more than it gains. The two bounds fail together.
- Errors of shares are skewed. Ends are moved outwards, never inwards, by Hall's transformation (1992) with the skewness
  of the residuals, at most `SKEWEST`, and by less where there are many candidates, among whom the largest is rather too
  large than too small.

An expert whose share is the same in every sequence has a band of no width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtr, ndtri

from ..sums import Floats
from .bootstrap import Interval
from .halves import Ratios, student

SELECTION = 0.005
"""Share of samples in which a true candidate may be overlooked."""

SKEWEST = 0.3
METHOD = "studentised band over the experts that may be the busiest"


@dataclass(frozen=True)
class Estimates:
    """R estimates with their errors: value, error, skewness, free [R], and noise [P, R], draws of their joint error."""

    value: Floats
    error: Floats
    skewness: Floats
    free: Floats
    noise: Floats

    @classmethod
    def of(cls, ratios: Ratios) -> Estimates:
        """Of shares of tokens."""
        value = ratios.value
        free = np.full(len(value), ratios.free)
        return cls(value, np.sqrt(ratios.variance), ratios.skewness, free, ratios.noise)

    def take(self, which: npt.NDArray[np.bool_]) -> Estimates:
        """Of some of them."""
        return Estimates(
            self.value[which], self.error[which], self.skewness[which], self.free[which], self.noise[:, which]
        )

    @property
    def standardised(self) -> Floats:
        """[P, R] noise over error; 0 where there is no error."""
        return np.asarray(self.noise / np.where(self.error > 0, self.error, 1.0))


class Maximum(NamedTuple):
    """The largest value, its interval, and the numbers of those that may be the largest, the largest of them first."""

    value: float
    interval: Interval
    candidates: tuple[int, ...]


def together(parts: Sequence[Estimates]) -> Estimates:
    """Of several routers, drawn by the same halves, as one: the estimates that can be the largest of all."""
    reach = 8.0
    least = max(float((p.value - reach * p.error).max()) for p in parts)
    kept = [p.take(p.value + reach * p.error >= least) for p in parts]
    value, error, skewness, free = (
        np.concatenate([getattr(p, name) for p in kept]) for name in ("value", "error", "skewness", "free")
    )
    return Estimates(value, error, skewness, free, np.concatenate([p.noise for p in kept], axis=1))


def maximum(estimates: Estimates, level: float = 0.95) -> Maximum:
    """The largest of the estimates, with its interval; NaN estimates have none."""
    value = estimates.value
    if not np.isfinite(value).all():
        return Maximum(math.nan, Interval(reason="the metric is not defined here"), ())
    mask = candidates(estimates)
    some = estimates.take(mask)
    low, high = _lowest(some, level), _highest(some, level)
    order = np.flatnonzero(mask)[np.argsort(-some.value, kind="stable")]
    return Maximum(float(value.max()), Interval(low, high, METHOD), tuple(order.tolist()))


def candidates(estimates: Estimates) -> npt.NDArray[np.bool_]:
    """[R] which of them may be the largest."""
    reach = _critical(np.abs(estimates.standardised).max(axis=1), SELECTION)
    wide = student(estimates.free, reach) * estimates.error
    return np.asarray(estimates.value + wide >= (estimates.value - wide).max())


def _lowest(some: Estimates, level: float) -> float:
    """Lower end of the largest of the candidates."""
    if not some.error.any():
        return float(some.value.max())
    tail = (1 - level) / 2
    normal = max(_critical(some.standardised.max(axis=1), tail), float(ndtri(1 - tail)))
    skewness = np.maximum(np.minimum(some.skewness, 0.0), -_most_skewed(len(some.value)))
    ends = some.value - some.error * untransformed(student(some.free, normal), skewness)
    low = float(ends.max())
    if len(some.value) > 1:
        # The spread of the largest of many errors pools their variances, and so their degrees of freedom.
        free = float(some.free.max()) * len(some.value)
        plain = _critical(some.noise.max(axis=1), tail) * float(student(free, ndtri(1 - tail)) / ndtri(1 - tail))
        low = max(low, float(some.value.max()) - plain)
    return min(low, float(some.value.max()))


def _highest(some: Estimates, level: float) -> float:
    """Upper end of the largest of the candidates."""
    normal = float(ndtri((1 + level) / 2))
    skewness = np.minimum(np.maximum(some.skewness, 0.0), _most_skewed(len(some.value)))
    return float((some.value - some.error * untransformed(-student(some.free, normal), skewness)).max())


def simultaneous(estimates: Estimates, level: float = 0.95) -> tuple[Floats, Floats]:
    """(low, high) [R] that hold all R at once, in this share of samples; not for shares, see `share_bands`."""
    wide = student(estimates.free, _joint(estimates, level))
    low = untransformed(wide, np.clip(estimates.skewness, -SKEWEST, 0.0))
    high = untransformed(-wide, np.clip(estimates.skewness, 0.0, SKEWEST))
    return estimates.value - estimates.error * low, estimates.value - estimates.error * high


def share_bands(estimates: Estimates, level: float = 0.95) -> tuple[Floats, Floats]:
    """(low, high) [R] that hold the true shares of all experts at once, in this share of samples.

    Clopper and Pearson's interval, from as many tokens as would have the share's variance: its own, or, where it is
    larger, that of all experts together or of the tenth of them whose texts differ most, since the variance of a
    seldom chosen expert is known no better than its share.
    A share that is the same in every sequence has no width; an expert that no sequence chose may be chosen by others,
    and has an upper end.
    """
    share, variance = np.clip(estimates.value, 0.0, 1.0), estimates.error**2
    binomial, varies = share * (1 - share), variance > 0
    if not varies.any():
        return share, share
    each = binomial[varies] / variance[varies]
    pooled = min(float(binomial[varies].sum() / variance[varies].sum()), float(np.quantile(each, 0.1)))
    tokens = np.full_like(share, pooled)
    tokens[varies] = np.minimum(each, pooled)
    tail = ndtr(-student(estimates.free, _joint(estimates, level)))
    hits, misses = share * tokens, (1 - share) * tokens
    low = betaincinv(np.maximum(hits, 1e-12), misses + 1, tail)
    high = betaincinv(hits + 1, np.maximum(misses, 1e-12), 1 - tail)
    fixed = ~varies & (share > 0)
    low = np.where(fixed, share, np.where(share > 0, np.minimum(low, share), 0.0))
    high = np.where(fixed, share, np.where(share < 1, np.maximum(high, share), 1.0))
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def _joint(estimates: Estimates, level: float) -> float:
    """Normal quantile within which all errors lie at once."""
    return max(_critical(np.abs(estimates.standardised).max(axis=1), 1 - level), float(ndtri((1 + level) / 2)))


def _most_skewed(n: int) -> float:
    return SKEWEST / math.sqrt(n)


def _critical(largest: Floats, tail: float) -> float:
    """What the largest errors [P] exceed in this share of the draws."""
    return float(np.quantile(largest, 1 - tail)) if len(largest) else 0.0


def untransformed(x: npt.ArrayLike, skewness: npt.ArrayLike) -> Floats:
    """Inverse of Hall's transformation of a studentised mean: t whose t + g t^2/3 + g^2 t^3/27 + g/6 is x.

    >>> float(untransformed(2.0, 0.0))
    2.0
    """
    t, g = np.asarray(x, dtype=np.float64), np.asarray(skewness, dtype=np.float64)
    flat = np.abs(g) < 1e-6
    safe = np.where(flat, 1.0, g)
    return np.asarray(np.where(flat, t, 3.0 / safe * (np.cbrt(1.0 + safe * (t - safe / 6.0)) - 1.0)))
