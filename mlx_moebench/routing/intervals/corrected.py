"""Numbers with a bias, such as entropies of shares, shown corrected, and intervals that hold the shown value.

A plug-in entropy of N sequences is too low, a distance from even or an information too high: by more the more experts
share fewer selections. What is shown is the value without that bias (`halves`), clipped to its range; the plug-in value
stands beside it. Around the shown value v the interval is [v - doubt - w, v + doubt + w]:

w      the larger of the upper and lower quantile of the deviations of random halves from their mean, widened to
       Student's t. The larger, because near even routing errors grow with the value: the side towards uneven is the
       longer one.
doubt  what the second step of the correction changed, and so what it may have left.

Functions of each other agree: `n_eff` = exp H(f) and `eae` = H(f) / ln E take value and ends from `load_entropy`, `cv`
those of `load_gap`, `switch_gap` those of `switch_balance`; `token_information` is `marginal_entropy` less
`mean_entropy`. Distances are corrected as squares, where noise adds. `n90` counts experts: n are enough if the n
largest loads add up to nine tenths, and its interval holds every n for which that cannot be ruled out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from ..metrics.registry import METRICS, Metric, get_metric
from ..sums import Floats, Sums
from .bands import SKEWEST, untransformed
from .bootstrap import Interval
from .effective import effective_clusters
from .halves import Halves, halved, quartered, student

METHOD = "random halves of the sequences"
NINE_TENTHS = 0.9 - 1e-12


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


def average(parts: Sequence[Drawn]) -> Drawn:
    """The mean of a statistic over routers, whose draws are of the same halves."""
    return Drawn(
        float(np.mean([p.whole for p in parts])),
        np.mean([p.halves for p in parts], axis=0),
        np.mean([p.quarters for p in parts], axis=0),
    )


def corrected(
    drawn: Drawn,
    free: float,
    level: float,
    limits: tuple[float, float],
    spread: Floats | None = None,
    left_out: Floats | None = None,
) -> Corrected:
    """`Corrected` of a statistic inside ``limits``. free: degrees of freedom. spread [2 P]: draws of another statistic
    that is off by what this one is off, less its bias, and whose noise counts instead. left_out [N]: the statistic
    without each sequence. Its skewness lengthens one side, and its spread both where it is larger: that of the corrected
    value, whose correction varies from text to text with the value itself."""
    if not drawn.finite:
        return Corrected(drawn.whole, Interval(reason="the metric is null here, or in some of the halves"), drawn.whole)
    value, doubt = drawn.unbiased
    noise = drawn.halves if spread is None else spread
    tails = np.quantile(noise - noise.mean(), [(1 - level) / 2, (1 + level) / 2])
    half, skew = float(np.abs(tails).max()), np.zeros(())
    if left_out is not None and (deviation := float(noise.std())) > 0:
        n = len(left_out)
        half *= max(1.0, float(left_out.std()) * math.sqrt(n - 1) / deviation)
        skew = skewness(left_out)
    below, above = (doubt + half * x for x in reaches(free, level, skew))
    if max(below, above) <= 1e-12 * abs(value):  # what rounding leaves of a number that is the same in all halves
        value, below, above = drawn.whole, 0.0, 0.0
    value, low, high = (min(max(float(x), limits[0]), limits[1]) for x in (value, value - below, value + above))
    return Corrected(value, Interval(low, high, METHOD, bias=drawn.whole - value), drawn.whole)


def skewness(left_out: Floats) -> Floats:
    """[...] of the error of statistics that are known without each sequence, [N, ...]: 0 where none changes them."""
    d = left_out.mean(axis=0) - left_out
    spread = (d**2).sum(axis=0)
    return np.asarray((d**3).sum(axis=0) / np.where(spread > 0, spread, 1.0) ** 1.5)


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
    return Corrected(value, Interval(function(low), function(high), METHOD, bias=plugin - value), plugin)


class Router:
    """One router's sums with what random halves and quarters of its sequences say, and the metrics corrected by them."""

    def __init__(self, sums: Sums, halves: Halves, level: float = 0.95) -> None:
        self.total = sums.total()
        self.halves, self.quarters = halved(sums, halves), quartered(sums, halves)
        self.left_out = sums.leave_one_out()
        self.free = max(effective_clusters(sums.n_tokens) - len(halves.members), 1.0)
        self.level = level

    def drawn(self, name: str) -> Drawn:
        """A metric of the whole, the halves and the quarters; squared for distances."""
        m = get_metric(name)
        return _squared(m, Drawn(float(m.values(self.total)), m.values(self.halves), m.values(self.quarters)))

    def metric(self, name: str) -> Corrected:
        """A plug-in metric or distance, corrected."""
        return self.metrics([name])[name]

    def metrics(self, names: Sequence[str] | None = None) -> dict[str, Corrected]:
        """All of them (or ``names``), those of one root computed once."""
        known: dict[str, Corrected] = {}
        wanted = names if names is not None else [m.name for m in METRICS.values() if m.interval in KINDS]
        return {name: self._metric(name, known) for name in wanted}

    def _metric(self, name: str, known: dict[str, Corrected]) -> Corrected:
        if name not in known:
            known[name] = self._made(name, known)
        return known[name]

    def _made(self, name: str, known: dict[str, Corrected]) -> Corrected:
        e = self.total.n_experts
        if name in ROOTS:
            root, function = ROOTS[name]
            return transformed(self._metric(root, known), lambda x: function(x, e))
        if name == "n90":
            return n90(self)
        m = get_metric(name)
        limits = m.low(e, self.total.top_k), m.high(e, self.total.top_k)
        drawn, left_out = self.drawn(name), m.values(self.left_out)
        if name == "token_information":
            # Its bias is that of the marginal entropy, since a mean has none; its noise is its own.
            marginal, mean = self.drawn("marginal_entropy"), float(get_metric("mean_entropy").values(self.total))
            shifted = marginal.map(lambda x: x - mean)
            return corrected(shifted, self.free, self.level, limits, drawn.halves, left_out)
        if m.interval == "distance":
            ends = limits[0] ** 2, limits[1] ** 2
            square = corrected(drawn, self.free, self.level, ends, left_out=left_out**2)
            return transformed(square, math.sqrt)
        return corrected(drawn, self.free, self.level, limits, left_out=left_out)


KINDS = ("plugin", "distance")

ROOTS: dict[str, tuple[str, Callable[[float, int], float]]] = {
    "eae": ("load_entropy", lambda h, e: h / math.log(e) if e > 1 else math.nan),
    "n_eff": ("load_entropy", lambda h, e: e * math.exp(h - math.log(e))),
    "cv": ("load_gap", lambda gap, e: gap * math.sqrt(e)),
    "switch_gap": ("switch_balance", lambda balance, e: (balance - 1) / e),
}
"""Metrics that are functions of another one: of which, and how, given E."""


def over_routers(routers: Sequence[Router], name: str) -> Corrected | None:
    """A plug-in metric or distance averaged over the routers that have it; None where none has."""
    m = get_metric(name)
    values = [Drawn(float(m.values(r.total)), m.values(r.halves), m.values(r.quarters)) for r in routers]
    have = [(r, d) for r, d in zip(routers, values, strict=True) if math.isfinite(d.whole)]
    if not have:
        return None
    shapes = [(r.total.n_experts, r.total.top_k) for r, _ in have]
    limits = min(m.low(*s) for s in shapes), max(m.high(*s) for s in shapes)
    free, level = min(r.free for r, _ in have), have[0][0].level
    joint = corrected(average([d for _, d in have]), free, level, limits)
    # The mean of what is shown for each router, so that a reader who averages them finds it.
    value = float(np.mean([r.metric(name).value for r, _ in have]))
    low, high = joint.interval.low, joint.interval.high
    if low is None or high is None:
        return joint
    shift = value - joint.value
    low, high = (min(max(x + shift, limits[0]), limits[1]) for x in (low, high))
    return Corrected(
        value, Interval(min(low, value), max(high, value), METHOD, bias=joint.plugin - value), joint.plugin
    )


def n90(router: Router) -> Corrected:
    """Fewest experts with nine tenths of the selections: a lattice statistic, whose ends are lattice points, too."""
    whole = float(get_metric("n90").values(router.total))
    if not math.isfinite(whole):
        return Corrected(whole, Interval(reason="the metric is null here"), whole)
    covered, drawn, quarter = (_covered(s) for s in (router.total, router.halves, router.quarters))
    mean = drawn.mean(axis=0)
    first, _, best = steps(covered, mean, quarter.mean(axis=0), slowest=4 / 3)
    # Where quarters leave most experts without a selection, steps shrink and show too little of what is left.
    doubt = np.abs(steps(covered, mean, quarter.mean(axis=0), slowest=6 / 5)[2] - first)
    tails = doubt + 2 * float(student(router.free, ndtri((1 + router.level) / 2))) * drawn.std(axis=0)
    near = np.flatnonzero(np.abs(best - NINE_TENTHS) <= tails)  # elsewhere no end lies
    quantiles = np.quantile(drawn[:, near] - mean[near], [(1 - router.level) / 2, (1 + router.level) / 2], axis=0)
    half = np.abs(quantiles).max(axis=0)
    below, above = tails.copy(), tails.copy()
    down, up = reaches(router.free, router.level, skewness(_covered(router.left_out)[:, near]))
    below[near], above[near] = doubt[near] + half * down, doubt[near] + half * up
    value, low, high = (_enough(x) for x in (best, best + above, best - below))
    return Corrected(value, Interval(low, high, METHOD, bias=whole - value), whole)


def _covered(s: Sums) -> Floats:
    """[..., R] what the n busiest experts have of all selections, n from 1."""
    return np.asarray(np.cumsum(s.sorted_load[..., ::-1], axis=-1))


def _enough(covered: Floats) -> float:
    """The first n that has nine tenths, at most all."""
    reached = np.flatnonzero(covered >= NINE_TENTHS)
    return float(reached[0] + 1) if len(reached) else float(len(covered))


def _squared(m: Metric, drawn: Drawn) -> Drawn:
    return drawn.map(lambda x: x * x) if m.interval == "distance" else drawn


def crossing(load: Floats) -> Floats:
    """Where the loads [..., R], largest first, pass nine tenths, between whole experts: `n90` is the next whole number.

    A difference of two counts has no smooth interval; that of two crossings has, and a count lies within one of it.

    >>> crossing(np.array([0.5, 0.5])).round(2)
    array(1.8)
    """
    covered = np.cumsum(-np.sort(-np.asarray(load, dtype=np.float64), axis=-1), axis=-1)
    number = np.minimum((covered < NINE_TENTHS).sum(axis=-1), load.shape[-1] - 1)
    at = np.take_along_axis(covered, number[..., None], axis=-1)[..., 0]
    before = np.where(
        number > 0, np.take_along_axis(covered, np.maximum(number - 1, 0)[..., None], axis=-1)[..., 0], 0.0
    )
    step = np.where(at > before, at - before, 1.0)
    return np.asarray(number + np.clip((0.9 - before) / step, 0.0, 1.0))
