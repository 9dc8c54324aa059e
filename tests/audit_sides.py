"""Cells of the audit: what two sides of a comparison differ by, paired and not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from audit_metrics import RESAMPLES, SHAPES, Measure, Tally, whole
from populations import PREFERENCES, sample

from mlx_moebench.routing import Plan, Sums, get_metric
from mlx_moebench.routing.comparison.distances import load_tests
from mlx_moebench.routing.comparison.lattice import count_difference
from mlx_moebench.routing.comparison.resampling import Samples, load_distances
from mlx_moebench.routing.intervals.corrected import Drawn
from mlx_moebench.routing.intervals.halves import halved, quartered, random_halves
from mlx_moebench.routing.intervals.routers import crossing


def counts() -> Iterator[tuple[str, Measure]]:
    """How often two samples of one population differ in n90, by p and by interval."""
    for experts, top_k in SHAPES:
        for kind in PREFERENCES:
            for effects in ("all", "texts differ"):
                for n in (20, 40, 200):
                    yield f"E {experts}, K {top_k}, {kind}, {effects}, S {n}", _counts(experts, top_k, kind, effects, n)


def _counts(experts: int, top_k: int, kind: str, effects: str, n: int) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        of = whole(experts, top_k, kind, effects, "equal")
        rejected = left_out = 0
        plan = Plan(resamples=RESAMPLES)
        for number in range(sets):
            rng = np.random.default_rng([seed, number, n])
            sides = [sample(of, n, rng) for _ in range(2)]
            halves = [random_halves(np.zeros(n), RESAMPLES, (number, side)) for side in (0, 1)]
            totals = [s.total() for s in sides]
            drawn = [
                [crossing(x.load) for x in (whole_of, halved(s, h), quartered(s, h))]
                for whole_of, s, h in zip(totals, sides, halves, strict=True)
            ]
            apart = Drawn(*(b - a for a, b in zip(*drawn, strict=True)))  # type: ignore[arg-type]
            effect = float(get_metric("n90").values(totals[1]) - get_metric("n90").values(totals[0]))
            interval, p = count_difference(effect, apart, n - 1.0, plan)
            assert interval.low is not None
            assert interval.high is not None
            rejected += p <= 0.05
            left_out += not interval.low <= 0 <= interval.high
        return {"rejected": rejected / sets, "left_out": left_out / sets}

    return measure


# -- distances between two loads -----------------------------------------------------------------------------------


def distances() -> Iterator[tuple[str, Measure]]:
    """load_l1 and load_jsd of two sides, of the same sequences or of others, that differ by so many selections."""
    for experts, top_k in ((8, 2), (64, 1), (128, 8)):
        for kind in ("mild", "steep"):
            for design in ("same texts", "other texts"):
                for moved in (0.0, 0.03, 0.3):
                    for n in (20, 40, 200):
                        name = f"E {experts}, K {top_k}, {kind}, {design}, moved {moved:g}, S {n}"
                        yield name, _distances(experts, top_k, kind, design == "same texts", moved, n)


@cache
def both_wholes(experts: int, top_k: int, kind: str, moved: float) -> tuple[Sums, Sums]:
    """Two populations of the same texts. This share of the selections of each expert goes to the next one at B.

    Where none does, a tenth is routed another way in every text, to and fro, so that the whole loads are equal.
    """
    both_wholes.cache_clear()
    a = whole(experts, top_k, kind, "all", "equal")
    counts = a.counts.astype(np.int64)
    rng = np.random.default_rng(experts)
    gone = rng.binomial(counts, moved or 0.1)
    b = replace(a, counts=counts - gone + np.roll(gone, 1, axis=1))
    if moved:
        return a, b
    nothing = np.zeros((2 * len(counts), experts))
    empty = replace(a, top1_counts=nothing, p_sum=nothing, scalars=np.tile(a.scalars, (2, 1)))
    empty = replace(empty, n_tokens=np.tile(a.n_tokens, 2))
    sides = (a.counts, b.counts), (b.counts, a.counts)
    first, second = (replace(empty, counts=np.concatenate(side)) for side in sides)
    return first, second


def _distances(experts: int, top_k: int, kind: str, paired: bool, moved: float, n: int) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        wholes = both_wholes(experts, top_k, kind, moved)
        truths = {name: float(x) for name, x in load_distances(*(w.total().load for w in wholes)).items()}
        tallies: defaultdict[str, Tally] = defaultdict(Tally)
        samples = Samples([""] * n, [""] * n, paired)
        rejected = differ = 0
        for number in range(sets):
            rng = np.random.default_rng([seed, number, n])
            rows = rng.integers(len(wholes[0].n_tokens), size=(2, n))
            a, b = (w.take(rows[0 if paired else side]) for side, w in enumerate(wholes))  # type: ignore[arg-type]
            tests = load_tests(a, b, samples, Plan(resamples=RESAMPLES, seed=number))
            for name, (distance, p, _) in tests.items():
                tallies[name].add(distance.value, distance.interval, truths[name])
                assert distance.interval.low is not None
                differ += (distance.interval.low > 0) != (p <= 0.05)
            rejected += tests["load_l1"].p <= 0.05
        facts = {name: t.facts(truths[name]) for name, t in tallies.items()}
        return {"rejected": rejected / sets, "disagree": differ, "metrics": facts}

    return measure
