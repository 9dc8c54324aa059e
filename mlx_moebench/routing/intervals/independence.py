"""Do groups of sequences route alike? A test that holds for groups of unequal size, length and clustering.

Permuting labels over sequences compares the groups with mixtures of them, and so tests whether all that they say is
alike, how much their texts vary included: with 12 short texts against 100 long ones of the same mean routing it rejects
up to 94% at 5%. Here each group keeps its own noise. The distance of the groups' loads f_d from their mean,

    Q = 1/(2D) sum_d sum_i w_i (f_di - mean_d f_di)^2,  w_i = 1 / (f_i + 1/E),

is to second order the information MI(domain; expert) (for w_i = 1/f_i), and is compared with the Q of random halves: in
each group by itself half of the sequences against the others, whose difference is the group's own noise, without what
the groups differ by. Both are divided by an estimate of their mean under the null, made again for each draw (so that
few sequences give Student's tails). The f_i of the weights is the mean of the groups in proportion to how surely each
is known, plus an even share: weighted by the noisy group's own shares, Q would be largest where that group is noise.

Two sides of the same sequences (`paired_independence`) are tested by the difference that each sequence shows, in the
same way. An interval of a distance made with the test (`as_tested`) reaches 0 if and only if the test does not reject.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..sums import Floats
from .bootstrap import Interval
from .corrected import METHOD, Corrected
from .halves import Ratios

TIE = 1e-9  # draws that reach the measured ratio but for rounding have reached it


@dataclass(frozen=True)
class Independence:
    """ratio: Q over its mean without an effect, near 1 then. critical: the ratio that p = 1 - level asks for.

    p_value: (1 + #{drawn ratio >= ratio}) / (1 + draws). Two loads without noise give 0 ratio and p 1 where equal, and
    an infinite ratio where not.
    """

    ratio: float
    p_value: float
    critical: float

    @property
    def excess(self) -> float:
        """1 - critical / ratio: above 0 if and only if p_value <= 1 - level."""
        return 1.0 - TIE - self.critical / self.ratio if self.ratio > 0 else -math.inf


def independence(groups: Sequence[Ratios], level: float = 0.95) -> Independence:
    """The test that the loads of all groups are one load; groups hold ratios over the same R experts."""
    loads = np.stack([g.value for g in groups])
    if not np.isfinite(loads).all():
        return Independence(math.nan, math.nan, math.nan)
    d, experts = loads.shape
    traces = np.array([float(g.variance.sum()) for g in groups])
    apart = loads - loads.mean(axis=0)
    if not traces.any():
        return _without_noise(apart, len(groups[0].noise))
    weights = 1.0 / (_surest(loads, traces) + loads.sum() / (d * experts))
    measured = float((apart**2 * weights).sum()) / (2 * d)
    share = (d - 1) / (2 * d * d)
    expected, again = 0.0, np.zeros(len(groups[0].noise))
    noise = np.stack([g.noise for g in groups], axis=1)
    for number, g in enumerate(groups):
        trace = float((g.variance * weights).sum())
        drawn: Floats = (noise[:, number] ** 2) @ weights
        expected += share * trace
        again += share * _trace_again(trace, g.leverage, drawn)
    noise -= noise.mean(axis=1, keepdims=True)
    ratios = ((noise**2) @ weights).sum(axis=1) / (2 * d) / np.where(again > 0, again, np.inf)
    return _compared(measured / expected, ratios, level)


def paired_independence(apart: Ratios, load: Floats, level: float = 0.95) -> Independence:
    """The test that two sides of the same sequences have one load [R].

    apart: `paired_ratios` of their loads; load: the mean of both, for the weights.
    """
    if not (np.isfinite(apart.value).all() and np.isfinite(load).all()):
        return Independence(math.nan, math.nan, math.nan)
    weights = 1.0 / (load + load.sum() / len(load))
    trace = float((apart.variance * weights).sum())
    if trace == 0:
        return _without_noise(apart.value, len(apart.noise))
    drawn = (apart.noise**2) @ weights
    ratios = drawn / _trace_again(trace, apart.leverage, drawn)
    return _compared(float((apart.value**2 * weights).sum()) / trace, ratios, level)


def as_tested(distance: Corrected, test: Independence) -> Corrected:
    """A distance in squares, such as information, whose interval leaves out 0 if and only if the test rejects.

    Where it rejects, the lower end is at least what the triangle inequality leaves: with |x| the distance of the loads
    on the test's scale, |truth| >= |measured| - |noise|, and the noise is below the critical value.
    """
    low, high = distance.interval.low, distance.interval.high
    if low is None or high is None or math.isnan(test.p_value):
        return distance
    value = distance.value
    if test.excess <= 0:
        low = 0.0
    else:
        value = max(value, distance.plugin * test.excess)
        low = max(low, distance.plugin * (1.0 - math.sqrt(1.0 - test.excess)) ** 2)
    interval = Interval(low, max(high, value), METHOD, bias=distance.plugin - value)
    return Corrected(value, interval, distance.plugin)


def _without_noise(apart: Floats, draws: int) -> Independence:
    differ = bool(np.abs(apart).max() > 1e-12)
    return Independence(math.inf if differ else 0.0, 1 / (1 + draws) if differ else 1.0, 0.0)


def _trace_again(trace: float, leverage: float, drawn: Floats) -> Floats:
    """What each draw of the null would have estimated the trace of its variance to be."""
    return np.asarray(np.maximum(trace - leverage * drawn, 0.05 * trace) / (1.0 - leverage))


def _compared(ratio: float, ratios: Floats, level: float) -> Independence:
    reached = int((ratios >= ratio * (1 - TIE)).sum())
    return Independence(ratio, (1 + reached) / (1 + len(ratios)), critical_ratio(ratios, level))


def critical_ratio(ratios: Floats, level: float) -> float:
    """The smallest ratio with p <= 1 - level; infinite where there are too few draws for that."""
    allowed = math.floor((1 - level) * (1 + len(ratios)) + 1e-9) - 1  # draws that may reach it
    if allowed < 0:
        return math.inf
    return float(np.sort(ratios)[-1 - allowed]) if allowed < len(ratios) else 0.0


def _surest(loads: Floats, traces: Floats) -> Floats:
    """[R] mean of the loads [D, R], each in proportion to 1 / (its total variance)."""
    sure = 1.0 / np.maximum(traces, 1e-12 * traces.max())
    return np.asarray((sure / sure.sum()) @ loads)
