"""The metrics of a router, corrected, with intervals; and their means over routers.

Functions of each other agree: `n_eff` = exp H(f) and `eae` = H(f) / ln E take value and ends from `load_entropy`, `cv`
those of `load_gap`, `switch_gap` those of `switch_balance`; `token_information` is `marginal_entropy` less
`mean_entropy`. Distances are corrected as squares, where noise adds. `n90` counts experts: n are enough if the n
largest loads add up to nine tenths, and its interval holds every n for which that cannot be ruled out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from ..metrics.registry import METRICS, get_metric
from ..sums import Floats, Sums
from .bootstrap import Interval
from .corrected import METHOD, Corrected, Drawn, corrected, error_parts, reaches, skewness, steps, transformed
from .effective import effective_clusters
from .halves import Halves, halved, quartered, student

NINE_TENTHS = 0.9 - 1e-12


class Values(NamedTuple):
    """A metric of the whole, of halves [2 P], of quarters [4 Q], and without each sequence [N]."""

    whole: float
    halves: Floats
    quarters: Floats
    left_out: Floats

    def map(self, function: Callable[[Floats], Floats]) -> Values:
        """The same of a function of the metric."""
        whole = float(function(np.asarray(self.whole)))
        return Values(whole, function(self.halves), function(self.quarters), function(self.left_out))

    @property
    def drawn(self) -> Drawn:
        """What the correction needs."""
        return Drawn(self.whole, self.halves, self.quarters)


class RouterMetrics:
    """The metrics of one router, corrected, from its sums and random halves of their sequences; its sums are let go."""

    def __init__(self, sums: Sums, halves: Halves, level: float = 0.95, names: Sequence[str] | None = None) -> None:
        self.names = list(names) if names is not None else [m.name for m in METRICS.values() if m.interval in KINDS]
        self.n_experts, self.top_k, self.level, self.members = sums.n_experts, sums.top_k, level, halves.members
        self.free = max(effective_clusters(sums.n_tokens) - len(halves.members), 1.0)
        drawn = sums.total(), halved(sums, halves), quartered(sums, halves), sums.leave_one_out()
        self.values: dict[str, Values] = {}
        for name in {need for wanted in self.names for need in (wanted, *NEEDS.get(wanted, ()))}:
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


KINDS = ("plugin", "distance")

ROOTS: dict[str, tuple[str, Callable[[float, int], float]]] = {
    "eae": ("load_entropy", lambda h, e: h / math.log(e) if e > 1 else math.nan),
    "n_eff": ("load_entropy", lambda h, e: e * math.exp(h - math.log(e))),
    "cv": ("load_gap", lambda gap, e: gap * math.sqrt(e)),
    "switch_gap": ("switch_balance", lambda balance, e: (balance - 1) / e),
}
"""Metrics that are functions of another one: of which, and how, given E."""


NEEDS = {name: (root,) for name, (root, _) in ROOTS.items()} | {
    "token_information": ("marginal_entropy", "mean_entropy")
}


def over_routers(routers: Sequence[RouterMetrics], name: str) -> Corrected | None:
    """A metric averaged over the routers that have it, which share their halves; None where none has."""
    have = [r for r in routers if math.isfinite(r.values[name].whole)]
    if not have:
        return None
    joined = _mean_of([r.values[name] for r in have])
    limits = min(r.limits(name)[0] for r in have), max(r.limits(name)[1] for r in have)
    free, level, parts = min(r.free for r in have), have[0].level, have[0].parts(joined)
    joint = corrected(joined.drawn, free, level, limits, parts=parts)
    # The mean of what is shown for each router, so that a reader who averages them finds it.
    value = float(np.mean([r.metric(name).value for r in have]))
    return _moved(joint, value, limits)


def _moved(joint: Corrected, value: float, limits: tuple[float, float]) -> Corrected:
    """The same interval about another value, inside the metric's range."""
    low, high = joint.interval.low, joint.interval.high
    if low is None or high is None:
        return joint
    shift = value - joint.value
    low, high = (min(max(x + shift, limits[0]), limits[1]) for x in (low, high))
    bias = joint.plugin - value
    return Corrected(value, Interval(min(low, value), max(high, value), METHOD, bias=bias), joint.plugin)


def _mean_of(every: Sequence[Values]) -> Values:
    whole, *drawn = (np.mean(parts, axis=0) for parts in zip(*every, strict=True))
    return Values(float(whole), *drawn)


def n90(covered: Floats, values: Values, router: RouterMetrics) -> Corrected:
    """Fewest experts with nine tenths of the selections: a lattice statistic, whose ends are lattice points, too.

    covered [R], values [..., R]: what the n busiest experts have of all selections.
    """
    if not np.isfinite(covered).all():
        return Corrected(math.nan, Interval(reason="the metric is not defined here"), math.nan)
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
    least, most = router.limits("n90")
    value, low, high = (min(max(_enough(x), least), most) for x in (best, best + above, best - below))
    return Corrected(value, Interval(low, high, METHOD, bias=whole - value), whole)


def _covered(s: Sums) -> Floats:
    """[..., R] what the n busiest experts have of all selections, n from 1."""
    return np.asarray(np.cumsum(s.sorted_load[..., ::-1], axis=-1))


def _enough(covered: Floats) -> float:
    """The first n that has nine tenths, at most all."""
    reached = np.flatnonzero(covered >= NINE_TENTHS)
    return float(reached[0] + 1) if len(reached) else float(len(covered))


def crossing(load: npt.ArrayLike) -> Floats:
    """Where the loads [..., R], largest first, pass nine tenths, between whole experts: `n90` is the next whole number.

    A difference of two counts has no smooth interval; that of two crossings has, and a count lies within one of it.

    >>> float(crossing([0.5, 0.5]).round(2))
    1.8
    """
    covered = np.cumsum(-np.sort(-np.asarray(load, dtype=np.float64), axis=-1), axis=-1)
    number = np.minimum((covered < NINE_TENTHS).sum(axis=-1), covered.shape[-1] - 1)
    at = np.take_along_axis(covered, number[..., None], axis=-1)[..., 0]
    before = np.where(
        number > 0, np.take_along_axis(covered, np.maximum(number - 1, 0)[..., None], axis=-1)[..., 0], 0.0
    )
    step = np.where(at > before, at - before, 1.0)
    return np.asarray(number + np.clip((0.9 - before) / step, 0.0, 1.0))
