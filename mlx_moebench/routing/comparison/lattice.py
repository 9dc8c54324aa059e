"""The difference of two counts, such as of experts with nine tenths of the selections: whole numbers, ends included.

The count itself jumps, and a bootstrap of its jumps has no level: p was 0.001 where the interval reached 0. But a count
is the next whole number above a crossing (`routing.intervals.routers.crossing`), which moves smoothly. Where the
crossings differ by d the counts differ by one of the two whole numbers around d, so that the interval of d, rounded
outwards, holds theirs. p is 1 minus the highest level at which the rounded interval leaves out 0: they never disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import ndtri

from ...options import Plan
from ..intervals.bootstrap import Interval
from ..intervals.corrected import METHOD, Drawn, corrected

POWER = 0.8
"""Share of comparisons that would find the difference that is called detectable."""


def count_difference(
    effect: float, apart: Drawn, free: float, plan: Plan, *, routers: int = 1
) -> tuple[Interval, float]:
    """(interval, p) of a difference of counts, which the interval always holds.

    effect: the difference of the counts. apart: that of their crossings, of the whole, of random halves and of
    quarters: the same halves of both sides where sequences are paired, others where they are not. free: degrees of
    freedom of the side that has fewer. routers: how many a mean is over; what whole numbers add to their crossings
    nearly cancels there, so that the interval is that of the mean of the crossings, longer by what they were seen to
    add, and ends are multiples of one over their number.
    """

    def ends(level: float) -> tuple[float, float]:
        low, high = crossing_ends(apart, free, level)
        if routers > 1:
            rounding = effect - apart.whole
            low, high = min(low, low + rounding), max(high, high + rounding)
        if math.isfinite(low):
            low, high = math.floor(low * routers + 1e-6) / routers, math.ceil(high * routers - 1e-6) / routers
        return min(low, effect), max(high, effect)

    if not (apart.finite and math.isfinite(effect)):
        return Interval(reason="the metric is not defined on a side"), math.nan
    low, high = ends(plan.level)
    return Interval(low, high, METHOD), 1.0 if effect == 0 else p_value(ends, plan)


def p_value(ends: Callable[[float], tuple[float, float]], plan: Plan) -> float:
    """1 minus the highest level at which the interval, ends(level), leaves out 0.

    At least 2 / (B + 1), which B resamples resolve; at most 1 - plan.level if and only if the interval of the plan
    leaves out 0.
    """

    def leaves_out(p: float) -> bool:
        low, high = ends(1 - p)
        return low > 0 or high < 0

    least, most = 2 / (plan.resamples + 1), 1.0
    if leaves_out(least):
        return least
    middle = round(1 - plan.level, 12)
    while most - least > 1 / plan.resamples:
        if least < middle < most:
            least, most = (least, middle) if leaves_out(middle) else (middle, most)
        middle = (least + most) / 2
    return most


def crossing_ends(apart: Drawn, free: float, level: float) -> tuple[float, float]:
    """The interval of a difference of crossings; infinite where there is none."""
    interval = corrected(apart, free, level, (-math.inf, math.inf)).interval
    if interval.low is None or interval.high is None:
        return -math.inf, math.inf
    return interval.low, interval.high


def detectable(low: float, high: float, level: float) -> float:
    """The smallest true difference that `POWER` of comparisons with an interval so wide would find.

    An interval leaves out 0 where the estimate is at least half its width away; that happens in `POWER` of samples
    where the truth is further away by that quantile of the error, whose deviation half the width shows.
    """
    z = float(ndtri((1 + level) / 2))
    return (high - low) / 2 * (z + float(ndtri(POWER))) / z
