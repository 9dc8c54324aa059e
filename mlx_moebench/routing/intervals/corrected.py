"""Numbers with a bias, such as entropies of shares, shown corrected, and intervals that hold the shown value.

A plug-in entropy of N sequences is too low, a distance from even or an information too high: by more the more experts
share fewer selections. What is shown is the value without that bias (`halves`), clipped to its range; the plug-in value
stands beside it. Around the shown value v the interval is [v - doubt - w, v + doubt + w]:

w      the larger of the upper and lower quantile of the deviations of random halves from their mean, widened to
       Student's t. The larger, because near even routing errors grow with the value: the side towards uneven is the
       longer one.
doubt  what the second step of the correction changed, and so what it may have left.

Means have no bias to speak of: see `bootstrap`. Errors of few sequences are skewed: the longer side is longer by
Hall's transformation of the studentised error (1992), and neither side is ever shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from ..sums import Floats
from .bands import untransformed
from .bootstrap import Interval
from .halves import student

SKEWEST = 0.4
METHOD = "random halves of the sequences"


class Corrected(NamedTuple):
    """A value without its bias, its interval, and the plug-in value. ``interval.bias`` is plug-in less corrected."""

    value: float
    interval: Interval
    plugin: float


@dataclass(frozen=True)
class Drawn:
    """A statistic of the whole, of random halves [2 P], and of quarters [4 Q]: all sequences count alike in each."""

    whole: float
    halves: Floats
    quarters: Floats

    def map(self, function: Callable[[Floats], Floats]) -> Drawn:
        """The same of a function of the statistic."""
        return Drawn(float(function(np.asarray(self.whole))), function(self.halves), function(self.quarters))

    @property
    def finite(self) -> bool:
        """Whether every draw has a value."""
        return bool(math.isfinite(self.whole) and np.isfinite(self.halves).all() and np.isfinite(self.quarters).all())

    @property
    def unbiased(self) -> tuple[float, float]:
        """(the value without the terms 1/n and 1/n^2 of its bias, how much of the bias may be left)."""
        first, second, root = steps(np.asarray(self.whole), self.halves.mean(), self.quarters.mean())
        return float(second), float(max(abs(second - first), abs(root - second) / 2))


def steps(
    whole: Floats, half: npt.ArrayLike, quarter: npt.ArrayLike, slowest: float = math.sqrt(2)
) -> tuple[Floats, Floats, Floats]:
    """Three values without bias, from the means of halves and quarters, elementwise.

    Without its term 1/n; without 1/n and 1/n^2; and without a term in whatever power of n the two steps show: a power
    whose bias grows from step to step by a factor from ``slowest`` (1/sqrt n) to 4. Where many estimates tie, what is
    read off the sorted ones is off by 1/sqrt n, which the first two hardly see.
    """
    w, h, q = (np.asarray(x, dtype=np.float64) for x in (whole, half, quarter))
    there = np.abs(h - w) > 1e-12 * np.maximum(np.abs(w), 1e-300)
    growth = np.clip(np.where(there, (q - h) / np.where(there, h - w, 1.0), 2.0), slowest, 4.0)
    return 2 * w - h, (8 * w - 6 * h + q) / 3, w - (h - w) / (growth - 1)


def corrected(
    drawn: Drawn,
    free: float,
    level: float,
    limits: tuple[float, float],
    spread: Floats | None = None,
    parts: Floats | None = None,
) -> Corrected:
    """`Corrected` of a statistic inside ``limits``. free: degrees of freedom. spread [2 P]: draws of another statistic
    that is off by what this one is off, less its bias, and whose noise counts instead. parts [N]: what each sequence
    has in the error (`error_parts`). Their skewness lengthens one side, and their size both where it is larger: it is
    that of the corrected value, whose correction varies from text to text with the value itself."""
    if not drawn.finite:
        where = "in some of the halves" if math.isfinite(drawn.whole) else "here"
        return Corrected(drawn.whole, Interval(reason=f"the metric is not defined {where}"), drawn.whole)
    value, doubt = drawn.unbiased
    noise = drawn.halves if spread is None else spread
    tails = np.quantile(noise - noise.mean(), [(1 - level) / 2, (1 + level) / 2])
    half, deviation = float(np.abs(tails).max()), float(noise.std())
    if parts is not None and deviation > 0:
        half *= max(1.0, math.sqrt(float((parts**2).sum())) / deviation)
    skew = 0.0 if parts is None else float(skewness(parts))
    below, above = (doubt + half * float(x) for x in reaches(free, level, skew))
    if max(below, above) <= 1e-12 * abs(value):  # what rounding leaves of a number that is the same in all halves
        value, below, above = drawn.whole, 0.0, 0.0
    shown, low, high = (min(max(float(x), limits[0]), limits[1]) for x in (value, value - below, value + above))
    return Corrected(shown, Interval(low, high, METHOD, bias=drawn.whole - shown), drawn.whole)


def error_parts(left_out: Floats, members: Sequence[npt.NDArray[np.intp]]) -> Floats:
    """[N, ...] what each sequence has in the error of statistics that are known without each of them, [N, ...].

    The jackknife, stratum by stratum: the sum of the squares is the variance.
    """
    parts = np.zeros_like(left_out)
    for rows in members:
        mean = left_out[rows].mean(axis=0)
        parts[rows] = (mean - left_out[rows]) * math.sqrt((len(rows) - 1) / len(rows))
    return parts


def skewness(parts: Floats) -> Floats:
    """[...] of an error of these parts [N, ...]; 0 where there is none."""
    spread = (parts**2).sum(axis=0)
    return np.asarray((parts**3).sum(axis=0) / np.where(spread > 0, spread, 1.0) ** 1.5)


def reaches(free: float, level: float, skew: npt.ArrayLike) -> tuple[Floats, Floats]:
    """(downwards, upwards) how far the ends lie, in normal half-widths: Student's t, the longer side of a skewed error
    longer by Hall's transformation, neither side shorter."""
    normal = float(ndtri((1 + level) / 2))
    t, g = student(free, normal), np.asarray(skew, dtype=np.float64)
    down = untransformed(t, np.clip(g, -SKEWEST, 0.0)) / normal
    return down, -untransformed(-t, np.clip(g, 0.0, SKEWEST)) / normal


def transformed(one: Corrected, function: Callable[[float], float]) -> Corrected:
    """The same of an increasing function of it."""
    low, high = one.interval.low, one.interval.high
    plugin, value = function(one.plugin), function(one.value)
    if low is None or high is None:
        return Corrected(value, one.interval, plugin)
    if not math.isfinite(value):
        return Corrected(value, Interval(reason="the metric is not defined here"), plugin)
    return Corrected(value, Interval(function(low), function(high), METHOD, bias=plugin - value), plugin)
