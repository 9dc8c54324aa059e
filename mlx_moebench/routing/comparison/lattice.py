"""The difference of two counts, such as of experts with nine tenths of the selections: whole numbers, ends included.

The count itself jumps, and a bootstrap of its jumps has no level: p was 0.001 where the interval reached 0. But a count
is the next whole number above a crossing (`routing.intervals.corrected.crossing`), which moves smoothly. Where the
crossings differ by d the counts differ by one of the two whole numbers around d, so that the interval of d, rounded
outwards, holds theirs. p is 1 minus the highest level at which the rounded interval leaves out 0: they never disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..intervals.bootstrap import Interval, Plan, basic
from ..sums import Floats

METHOD = "basic bootstrap of the crossings, rounded outwards"


def count_difference(
    effect: float, apart: float, drawn: Floats, widen: Callable[[float], float], plan: Plan
) -> tuple[Interval, float]:
    """(interval, p) of a difference of counts. apart, drawn [B]: that of their crossings, and resampled.

    effect: the difference of the counts, which the interval always holds. widen: of a level, as for other metrics.
    """

    def ends(level: float) -> tuple[float, float]:
        low, high = basic(apart, drawn, widen(level), level)
        return float(math.floor(low + 1e-6)), float(math.ceil(high - 1e-6))

    low, high = ends(plan.level)
    interval = Interval(min(low, effect), max(high, effect), METHOD)
    return interval, 1.0 if effect == 0 else _highest(effect, ends, plan.resamples)


def _highest(effect: float, ends: Callable[[float], tuple[float, float]], resamples: int) -> float:
    """1 minus the highest level whose interval leaves out 0, at least 2 / (B + 1), which B resamples resolve."""

    def leaves_out(p: float) -> bool:
        low, high = ends(1 - p)
        return min(low, effect) > 0 or max(high, effect) < 0

    least, most = 2 / (resamples + 1), 1.0
    if leaves_out(least):
        return least
    while most - least > 1 / resamples:
        middle = (least + most) / 2
        least, most = (least, middle) if leaves_out(middle) else (middle, most)
    return most
