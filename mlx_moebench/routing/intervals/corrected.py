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

from ..metrics.registry import METRICS, get_metric
from ..sums import Floats, Sums
from .bands import untransformed
from .bootstrap import Interval
from .effective import effective_clusters
from .halves import Halves, halved, quartered, student

SKEWEST = 0.4
METHOD = "random halves of the sequences"
STUDENT = "Student's t over sequences"
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
        return Corrected(drawn.whole, Interval(reason="the metric is null here, or in some of the halves"), drawn.whole)
    value, doubt = drawn.unbiased
    noise = drawn.halves if spread is None else spread
    tails = np.quantile(noise - noise.mean(), [(1 - level) / 2, (1 + level) / 2])
    half, deviation = float(np.abs(tails).max()), float(noise.std())
    if parts is not None and deviation > 0:
        half *= max(1.0, math.sqrt(float((parts**2).sum())) / deviation)
    below, above = (doubt + half * x for x in reaches(free, level, 0.0 if parts is None else skewness(parts)))
    if max(below, above) <= 1e-12 * abs(value):  # what rounding leaves of a number that is the same in all halves
        value, below, above = drawn.whole, 0.0, 0.0
    value, low, high = (min(max(float(x), limits[0]), limits[1]) for x in (value, value - below, value + above))
    return Corrected(value, Interval(low, high, METHOD, bias=drawn.whole - value), drawn.whole)


def mean_of(value: float, parts: Floats, free: float, level: float, limits: tuple[float, float]) -> Corrected:
    """Of a ratio of sums, which has no bias to speak of: Student's interval, its longer side as its error is skewed."""
    if not (math.isfinite(value) and np.isfinite(parts).all()):
        return Corrected(value, Interval(reason="the metric is null here"), value)
    error = math.sqrt(float((parts**2).sum())) * float(ndtri((1 + level) / 2))
    error = error if error > 1e-12 * abs(value) else 0.0
    down, up = reaches(free, level, skewness(parts))
    low, high = (min(max(float(x), limits[0]), limits[1]) for x in (value - error * down, value + error * up))
    return Corrected(value, Interval(min(low, value), max(high, value), STUDENT), value)


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
    return Corrected(value, Interval(function(low), function(high), METHOD, bias=plugin - value), plugin)


class Values(NamedTuple):
    """A metric of the whole, of halves [2 P], of quarters [4 Q], and without each sequence [N]."""

    whole: float
    halves: Floats
    quarters: Floats
    left_out: Floats

    def map(self, function: Callable[[Floats], Floats]) -> Values:
        """The same of a function of the metric."""
        return Values(float(function(np.asarray(self.whole))), *(function(x) for x in self[1:]))  # type: ignore[arg-type]

    @property
    def drawn(self) -> Drawn:
        """What the correction needs."""
        return Drawn(*self[:3])


class Router:
    """The metrics of one router, corrected, from its sums and random halves of their sequences; its sums are let go."""

    def __init__(self, sums: Sums, halves: Halves, level: float = 0.95, names: Sequence[str] | None = None) -> None:
        self.names = list(names) if names is not None else [m.name for m in METRICS.values() if m.interval in KINDS]
        self.n_experts, self.top_k, self.level, self.members = sums.n_experts, sums.top_k, level, halves.members
        self.free = max(effective_clusters(sums.n_tokens) - len(halves.members), 1.0)
        drawn = sums.total(), halved(sums, halves), quartered(sums, halves), sums.leave_one_out()
        self.values: dict[str, Values] = {}
        for name in {root for name in self.names for root in (name, *NEEDS.get(name, ()))}:
            whole, *rest = (get_metric(name).values(s) for s in drawn)
            self.values[name] = Values(float(whole), *rest)
        self._known: dict[str, Corrected] = {}
        if "n90" in self.names:
            covered = Values(0.0, *(_covered(s) for s in drawn[1:]))
            self._known["n90"] = n90(_covered(drawn[0]), covered, self)

    def metrics(self) -> dict[str, Corrected]:
        """All of them."""
        return {name: self.metric(name) for name in self.names}

    def metric(self, name: str) -> Corrected:
        """One of them."""
        if name not in self._known:
            self._known[name] = self._made(name)
        return self._known[name]

    def limits(self, name: str) -> tuple[float, float]:
        """The range of a metric."""
        m = get_metric(name)
        return m.low(self.n_experts, self.top_k), m.high(self.n_experts, self.top_k)

    def _made(self, name: str) -> Corrected:
        if name in ROOTS:
            root, function = ROOTS[name]
            return transformed(self.metric(root), lambda x: function(x, self.n_experts))
        values, kind, limits = self.values[name], get_metric(name).interval, self.limits(name)
        if kind == "mean":
            return mean_of(values.whole, self.parts(values), self.free, self.level, limits)
        if kind == "distance":
            square = values.map(lambda x: x * x)
            ends = limits[0] ** 2, limits[1] ** 2
            made = corrected(square.drawn, self.free, self.level, ends, parts=self.parts(square))
            return transformed(made, math.sqrt)
        if name == "token_information":
            # Its bias is that of the marginal entropy, since a mean has none; its noise is its own.
            mean = self.values["mean_entropy"].whole
            shifted = self.values["marginal_entropy"].drawn.map(lambda x: x - mean)
            return corrected(shifted, self.free, self.level, limits, values.halves, self.parts(values))
        return corrected(values.drawn, self.free, self.level, limits, parts=self.parts(values))

    def parts(self, values: Values) -> Floats:
        """`error_parts` of a metric."""
        return error_parts(values.left_out, self.members)


KINDS = ("mean", "plugin", "distance")

ROOTS: dict[str, tuple[str, Callable[[float, int], float]]] = {
    "eae": ("load_entropy", lambda h, e: h / math.log(e) if e > 1 else math.nan),
    "n_eff": ("load_entropy", lambda h, e: e * math.exp(h - math.log(e))),
    "cv": ("load_gap", lambda gap, e: gap * math.sqrt(e)),
    "switch_gap": ("switch_balance", lambda balance, e: (balance - 1) / e),
}
"""Metrics that are functions of another one: of which, and how, given E."""


NEEDS = {name: (root,) for name, (root, _) in ROOTS.items()} | {"token_information": ("marginal_entropy", "mean_entropy")}


def over_routers(routers: Sequence[Router], name: str) -> Corrected | None:
    """A metric averaged over the routers that have it, which share their halves; None where none has."""
    have = [r for r in routers if math.isfinite(r.values[name].whole)]
    if not have:
        return None
    joined = Values(
        float(np.mean([r.values[name].whole for r in have])),
        *(np.mean([r.values[name][i] for r in have], axis=0) for i in (1, 2, 3)),
    )
    limits = min(r.limits(name)[0] for r in have), max(r.limits(name)[1] for r in have)
    free, level, parts = min(r.free for r in have), have[0].level, have[0].parts(joined)
    if get_metric(name).interval == "mean":
        return mean_of(joined.whole, parts, free, level, limits)
    joint = corrected(joined.drawn, free, level, limits, parts=parts)
    # The mean of what is shown for each router, so that a reader who averages them finds it.
    value = float(np.mean([r.metric(name).value for r in have]))
    low, high = joint.interval.low, joint.interval.high
    if low is None or high is None:
        return joint
    shift = value - joint.value
    low, high = (min(max(x + shift, limits[0]), limits[1]) for x in (low, high))
    bias = joint.plugin - value
    return Corrected(value, Interval(min(low, value), max(high, value), METHOD, bias=bias), joint.plugin)


def n90(covered: Floats, values: Values, router: Router) -> Corrected:
    """Fewest experts with nine tenths of the selections: a lattice statistic, whose ends are lattice points, too.

    covered [R], values [..., R]: what the n busiest experts have of all selections.
    """
    if not np.isfinite(covered).all():
        return Corrected(math.nan, Interval(reason="the metric is null here"), math.nan)
    mean, quarter = values.halves.mean(axis=0), values.quarters.mean(axis=0)
    first, _, best = steps(covered, mean, quarter, slowest=4 / 3)
    # Where quarters leave most experts without a selection, steps shrink and show too little of what is left.
    doubt = np.abs(steps(covered, mean, quarter, slowest=6 / 5)[2] - first)
    level = router.level
    wide = doubt + 2 * float(student(router.free, ndtri((1 + level) / 2))) * values.halves.std(axis=0)
    near = np.flatnonzero(np.abs(best - NINE_TENTHS) <= wide)  # elsewhere no end lies
    tails = np.quantile(values.halves[:, near] - mean[near], [(1 - level) / 2, (1 + level) / 2], axis=0)
    half = np.abs(tails).max(axis=0)
    skew = skewness(error_parts(values.left_out[:, near], router.members))
    down, up = reaches(router.free, level, skew)
    below, above = wide.copy(), wide.copy()
    below[near], above[near] = doubt[near] + half * down, doubt[near] + half * up
    whole = _enough(covered)
    value, low, high = (_enough(x) for x in (best, best + above, best - below))
    return Corrected(value, Interval(low, high, METHOD, bias=whole - value), whole)


def _covered(s: Sums) -> Floats:
    """[..., R] what the n busiest experts have of all selections, n from 1."""
    return np.asarray(np.cumsum(s.sorted_load[..., ::-1], axis=-1))


def _enough(covered: Floats) -> float:
    """The first n that has nine tenths, at most all."""
    reached = np.flatnonzero(covered >= NINE_TENTHS)
    return float(reached[0] + 1) if len(reached) else float(len(covered))


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
