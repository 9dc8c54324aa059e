"""How far the loads of two sides lie apart, tested: value, interval and p from the same random halves.

load_l1 = sum_i |g_i - f_i| and load_jsd, the Jensen-Shannon divergence, are above 0 by chance also where nothing
differs. Dealing sequences out to the sides anew tests whether all that the texts of both sides say is alike, how much
they vary included, and rejects sides of the same mean load but other lengths or clustering. Here each side keeps its
own noise: the test is that of `routing.intervals.independence` for two groups, or, where both sides ran the same
sequences, for the difference that each of them shows. Both distances are 0 only where the loads are equal, so that one
p serves both.

Values are corrected as `routing.intervals.corrected` says, load_l1 as a square, where noise adds. An interval begins
above 0 if and only if p <= 1 - level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import chdtri, chndtrinc

from ...options import Plan
from ..intervals.bootstrap import Interval
from ..intervals.corrected import Corrected, Drawn, corrected, error_parts, transformed
from ..intervals.effective import effective_clusters, pooled
from ..intervals.halves import Halves, halved, paired_ratios, quartered, ratios
from ..intervals.independence import Independence, as_tested, independence, paired_independence
from ..sums import Floats, Sums
from .lattice import POWER
from .resampling import Samples, load_distances

Distance = Callable[[Floats, Floats], Floats]
"""Between loads [..., R], each [...]."""


class LoadDistance(NamedTuple):
    """A distance with its interval, and p of the test that the loads are equal; NaN where there is no interval.

    detectable: the true distance, of loads that differ in the same proportions, that 4 of 5 such comparisons would
    find; NaN where the loads are equal, or without an interval.
    """

    distance: Corrected
    p: float
    detectable: float = math.nan


class Loads:
    """The loads of two sides and of random halves of their sequences: what distances and counts of experts differ by.

    free: degrees of freedom of the side that has fewer.
    """

    def __init__(self, a: Sums, b: Sums, halves: tuple[Halves, Halves], *, paired: bool) -> None:
        self.halves, self.paired = halves, paired
        self.sides = _side(a, halves[0]), _side(b, halves[1])
        free = (effective_clusters(s.n_tokens) - len(h.members) for s, h in zip((a, b), halves, strict=True))
        self.free = max(min(free), 1.0)

    def apart(self, function: Callable[[Floats], Floats]) -> Drawn:
        """That of B less that of A, of a function of a load [..., R] alone."""
        of_a, of_b = ([function(load) for load in side[:3]] for side in self.sides)
        whole, half, quarter = (y - x for x, y in zip(of_a, of_b, strict=True))
        return Drawn(float(whole), half, quarter)

    def corrected(self, function: Distance, most: float, level: float) -> Corrected:
        """A distance between both loads, from 0 to ``most``."""
        whole, half, quarter = (function(f, g) for f, g in zip(self.sides[0][:3], self.sides[1][:3], strict=True))
        drawn, parts = Drawn(float(whole), half, quarter), _parts(function, self.sides, self.halves, self.paired)
        return corrected(drawn, self.free, level, (0.0, most), parts=parts)


def load_tests(a: Sums, b: Sums, samples: Samples, plan: Plan, loads: Loads | None = None) -> dict[str, LoadDistance]:
    """`LOADS` between two sides, from the sums of their sequences; K may differ, the numbers of experts must not.

    loads: of these sides by the halves of the plan, where they are there already. Fewer than ten effective sequences on
    a side leave the values and take intervals and p.
    """
    reason = pooled(a.n_tokens, None, samples.copies[0]).reason or pooled(b.n_tokens, None, samples.copies[1]).reason
    if reason is not None:
        distances = load_distances(a.total().load, b.total().load)
        return {name: LoadDistance(_plain(float(x), reason), math.nan) for name, x in distances.items()}
    loads = loads or Loads(a, b, samples.halves(plan), paired=samples.paired)
    test = _test(a, b, loads.halves, samples.paired, plan.level)
    needed = detectable_share(test, plan.level)

    def tested(function: Distance, most: float) -> Corrected:
        return as_tested(loads.corrected(function, most, plan.level), test)

    square = tested(lambda f, g: load_distances(f, g)["load_l1"] ** 2, 4.0)
    jsd = tested(lambda f, g: load_distances(f, g)["load_jsd"], math.log(2))
    l1_found, jsd_found = math.sqrt(square.plugin * needed), jsd.plugin * needed
    return {
        "load_l1": LoadDistance(transformed(square, math.sqrt), test.p_value, min(l1_found, 2.0)),
        "load_jsd": LoadDistance(jsd, test.p_value, min(jsd_found, math.log(2))),
    }


def detectable_share(test: Independence, level: float) -> float:
    """How large a true Q the test finds in `POWER` of samples, over the Q that was measured; 0 without noise.

    Q over its mean is taken for a chi-square over its degrees of freedom n, that n whose critical value the test has
    (Satterthwaite 1946), and where loads differ for a noncentral one, whose mean is 1 + true Q / mean.
    """
    if test.critical == 0:
        return 0.0
    if not (math.isfinite(test.critical) and test.ratio > 0):
        return math.nan
    few, many = 1.0, 1e6
    for _ in range(60):
        n = math.sqrt(few * many)
        few, many = (n, many) if float(chdtri(n, 1 - level)) / n > test.critical else (few, n)
    noncentral = float(chndtrinc(test.critical * few, few, 1 - POWER))
    return noncentral / few / test.ratio


def _plain(value: float, reason: str) -> Corrected:
    return Corrected(value, Interval(reason=reason), value)


def _test(a: Sums, b: Sums, halves: tuple[Halves, Halves], paired: bool, level: float) -> Independence:
    # Shares of selections, since sides of other K have other shares of tokens.
    counts, selections = (a.counts, b.counts), (a.n_tokens * a.top_k, b.n_tokens * b.top_k)
    if paired:
        load = (a.total().load + b.total().load) / 2
        return paired_independence(paired_ratios(counts, selections, halves[0]), load, level)
    return independence([ratios(c, x, h) for c, x, h in zip(counts, selections, halves, strict=True)], level)


class _Side(NamedTuple):
    """Load of the whole [R], of halves [2 P, R], of quarters [4 Q, R], and without each sequence [N, R]."""

    whole: Floats
    halves: Floats
    quarters: Floats
    left_out: Floats


def _side(sums: Sums, halves: Halves) -> _Side:
    return _Side(*(s.load for s in (sums.total(), halved(sums, halves), quartered(sums, halves), sums.leave_one_out())))


def _parts(function: Distance, sides: tuple[_Side, _Side], halves: tuple[Halves, Halves], paired: bool) -> Floats:
    """`error_parts` of a distance: of the sequences, or of those of A and then those of B."""
    a, b = sides
    if paired:
        return error_parts(function(a.left_out, b.left_out), halves[0].members)
    of_a = error_parts(function(a.left_out, b.whole), halves[0].members)
    return np.concatenate([of_a, error_parts(function(a.whole, b.left_out), halves[1].members)])
