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

from ...options import Plan
from ..intervals.bootstrap import Interval
from ..intervals.corrected import Corrected, Drawn, corrected, error_parts, transformed
from ..intervals.effective import effective_clusters, pooled
from ..intervals.halves import Halves, halved, paired_ratios, quartered, random_halves, ratios
from ..intervals.independence import Independence, as_tested, independence, paired_independence
from ..sums import Floats, Sums
from .resampling import Samples, load_distances

Distance = Callable[[Floats, Floats], Floats]
"""Between loads [..., R], each [...]."""


class LoadDistance(NamedTuple):
    """A distance with its interval, and p of the test that the loads are equal; NaN where there is no interval."""

    distance: Corrected
    p: float


def load_tests(a: Sums, b: Sums, samples: Samples, plan: Plan) -> dict[str, LoadDistance]:
    """`LOADS` between two sides, from the sums of their sequences; K may differ, the numbers of experts must not.

    Fewer than ten effective sequences on a side leave the values and take intervals and p.
    """
    reason = pooled(a.n_tokens).reason or pooled(b.n_tokens).reason
    if reason is not None:
        distances = load_distances(a.total().load, b.total().load)
        return {name: LoadDistance(_plain(float(x), reason), math.nan) for name, x in distances.items()}
    of_a = random_halves(samples.strata_a, plan.resamples, plan.seed)
    of_b = of_a if samples.paired else random_halves(samples.strata_b, plan.resamples, (plan.seed, 1))
    test = _test(a, b, (of_a, of_b), samples.paired, plan.level)
    sides = _side(a, of_a), _side(b, of_b)
    free = max(min(effective_clusters(s.n_tokens) - len(h.members) for s, h in ((a, of_a), (b, of_b))), 1.0)

    def tested(function: Distance, most: float) -> Corrected:
        whole, half, quarter = (function(f, g) for f, g in zip(sides[0][:3], sides[1][:3], strict=True))
        parts = _parts(function, sides, (of_a, of_b), samples.paired)
        made = corrected(Drawn(float(whole), half, quarter), free, plan.level, (0.0, most), parts=parts)
        return as_tested(made, test)

    l1 = transformed(tested(lambda f, g: load_distances(f, g)["load_l1"] ** 2, 4.0), math.sqrt)
    jsd = tested(lambda f, g: load_distances(f, g)["load_jsd"], math.log(2))
    return {"load_l1": LoadDistance(l1, test.p_value), "load_jsd": LoadDistance(jsd, test.p_value)}


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
