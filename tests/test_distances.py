"""Distances between two loads: p and interval from one source, what pairing cancels, and what moves neither."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from audit_cells import PARTS
from audit_domains import loads, shifted
from audit_metrics import whole
from populations import Domain, draw, sample

from mlx_moebench.routing import Plan, Sums
from mlx_moebench.routing.comparison.distances import LoadDistance, load_tests
from mlx_moebench.routing.comparison.resampling import Samples, load_distances
from mlx_moebench.routing.domains.estimates import information_of
from mlx_moebench.routing.intervals.halves import paired_ratios, random_halves, ratios

PLAN = Plan(resamples=400)


def compared(a: Sums, b: Sums, *, paired: bool = False) -> dict[str, LoadDistance]:
    return load_tests(a, b, Samples([""] * len(a.n_tokens), [""] * len(b.n_tokens), paired), PLAN)


def two_sides(seed: int, s: float, design: list[Domain]) -> list[Sums]:
    base = loads("steep", 16)
    sums, labels = draw(design, shifted(base, 2, s) if s else base, 2, np.random.default_rng(seed))
    return [sums.take(np.flatnonzero(labels == name).tolist()) for name in ("d0", "d1")]


def again(of: Sums, seed: int) -> Sums:
    """The same texts, whose selections are drawn again."""
    rng = np.random.default_rng(seed)
    counts = [rng.multinomial(int(row.sum()), row / row.sum()) for row in of.counts]
    return replace(of, counts=np.array(counts, dtype=np.float64))


def three(of: LoadDistance) -> tuple[float, float, float]:
    low, high = of.distance.interval.low, of.distance.interval.high
    assert low is not None
    assert high is not None
    return low, of.distance.value, high


@pytest.mark.parametrize("s", [0.0, 0.003, 0.02, 0.2])
@pytest.mark.parametrize("paired", [True, False])
def test_p_and_interval_never_disagree(s: float, paired: bool) -> None:
    for seed in range(25):
        a, b = two_sides(seed, s, [Domain(20, 60, 20)] * 2)
        for name, one in compared(a, b, paired=paired).items():
            low, value, high = three(one)
            assert 0 <= low <= value <= high <= (2 if name == "load_l1" else math.log(2)), name
            assert (low > 0) == (one.p <= 0.05), name


def test_a_side_against_itself() -> None:
    a = sample(whole(64, 2, "steep", "all", "equal"), 20, np.random.default_rng(0))
    for one in compared(a, a, paired=True).values():
        assert (*three(one), one.p) == (0, 0, 0, 1)
    for one in compared(a, a).values():
        assert three(one)[0] == three(one)[1] == 0
        assert one.p == 1


def test_loads_without_noise_that_differ() -> None:
    a = Sums.from_counts(np.tile([30.0, 10.0], (12, 1)), np.full(12, 40.0), 1)
    b = Sums.from_counts(np.tile([20.0, 20.0], (15, 1)), np.full(15, 40.0), 1)
    for name, value in load_distances(np.array([0.75, 0.25]), np.array([0.5, 0.5])).items():
        one = compared(a, b)[name]
        assert one.p == 1 / 201
        assert three(one) == pytest.approx((float(value),) * 3)


def test_what_both_sides_share_cancels() -> None:
    a = sample(whole(16, 2, "mild", "topics", "equal"), 40, np.random.default_rng(1))
    b = replace(a, counts=0.95 * a.counts + 0.05 * again(a, 2).counts)
    same, other = (compared(a, b, paired=paired)["load_l1"] for paired in (True, False))
    assert three(same)[2] < 0.1 * three(other)[2]
    shift = replace(b, counts=0.9 * b.counts + 0.1 * np.roll(b.counts, 1, axis=1))
    assert compared(a, shift, paired=True)["load_l1"].p < 0.02 < compared(a, shift)["load_l1"].p


def test_paired_ratios_are_means_of_differences() -> None:
    a = sample(whole(16, 2, "mild", "all", "equal"), 30, np.random.default_rng(0))
    b, halves = again(a, 1), random_halves(np.zeros(30), 400, 0)
    of = paired_ratios((a.counts, b.counts), (a.n_tokens, b.n_tokens), halves)
    apart = (b.counts - a.counts) / a.n_tokens[:, None]
    np.testing.assert_allclose(of.value, apart.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(of.variance, apart.var(axis=0, ddof=1) / 30)
    np.testing.assert_allclose((of.noise**2).mean(axis=0), of.variance)
    nothing = Sums.from_counts(0 * a.counts, 0 * a.n_tokens, 2)
    alone = paired_ratios((nothing.counts, a.counts), (nothing.n_tokens, a.n_tokens), halves)
    assert np.isnan(alone.value).all()
    assert ratios(a.counts, a.n_tokens, halves).free == of.free == 29


def test_the_divergence_is_the_information_of_two_domains() -> None:
    a, b = two_sides(0, 0.1, [Domain(20, 60, 20)] * 2)
    one = compared(a, b)["load_jsd"].distance
    assert one.plugin == pytest.approx(float(information_of(np.stack([a.total().load, b.total().load]))))


def test_the_unit_of_tokens_and_the_order_of_experts_do_not_matter() -> None:
    a, b = two_sides(3, 0.01, [Domain(20), Domain(30, 100, 40)])
    first = compared(a, b)
    order = np.random.default_rng(0).permutation(16)
    for x, y in (
        (Sums.from_counts(a.counts * 7, a.n_tokens * 7, 2), b),
        (Sums.from_counts(a.counts[:, order], a.n_tokens, 2), Sums.from_counts(b.counts[:, order], b.n_tokens, 2)),
        (a, Sums.from_counts(b.counts, b.n_tokens / 2, 4)),
    ):
        for name, one in compared(x, y).items():
            assert one.p == first[name].p, name
            assert three(one) == pytest.approx(three(first[name])), name


def test_data_sets_of_a_side_are_cut_apart() -> None:
    """Two data sets that differ by far, in the same proportions on both sides: that is no noise."""
    counts = np.concatenate([np.tile([38.0, 2.0], (12, 1)), np.tile([2.0, 38.0], (12, 1))])
    counts += np.random.default_rng(0).integers(-1, 2, 24)[:, None] * np.array([1, -1])
    a, b = (Sums.from_counts(c, np.full(24, 40.0), 1) for c in (counts, counts + np.array([-1, 1])))
    strata = ["x"] * 12 + ["y"] * 12
    apart = load_tests(a, b, Samples(strata, strata, False), PLAN)["load_l1"]
    mixed = compared(a, b)["load_l1"]
    assert apart.p < 0.05 < mixed.p
    assert three(apart)[2] < three(mixed)[2]


@pytest.mark.parametrize("paired", [True, False])
def test_too_few_or_too_unequal_texts_have_values_alone(paired: bool) -> None:
    a, b = two_sides(0, 0.1, [Domain(9)] * 2)
    few = compared(a, b, paired=paired)["load_l1"]
    assert few.distance.value == pytest.approx(float(np.abs(a.total().load - b.total().load).sum()))
    assert few.distance.interval.reason == "9 sequences are too few for an interval: 10 or more are needed"
    assert math.isnan(few.p)
    a, b = two_sides(0, 0.1, [Domain(40)] * 2)
    b.counts[0] *= 100
    b.n_tokens[0] *= 100
    assert "count for 1.0" in str(compared(a, b, paired=paired)["load_jsd"].distance.interval.reason)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name, _ in PARTS["distances"]() if name.endswith(("S 20", "S 40"))])
def test_intervals_of_distances_hold_the_truth(name: str) -> None:
    measured = dict(PARTS["distances"]())[name](400, 1)
    assert measured["disagree"] == 0
    for metric, facts in measured["metrics"].items():
        assert facts["inside"] >= 0.92 - 0.028, metric
        assert facts["outside"] == 0, metric
    if "moved 0," in name:
        assert measured["rejected"] <= 0.08 + 0.027


# -- sides of unequal size -----------------------------------------------------------------------------------------

UNEQUAL = {
    "texts vary as much": (np.inf, np.inf),
    "the few are more alike": (8.0, 60.0),
    "the many are more alike": (60.0, 8.0),
}
"""Of 12 texts of 15 tokens and of 100 of 200: how closely a text's shares are those of all (Dirichlet)."""


def rejected_without_a_difference(
    alike: tuple[float, float], turned: bool, sets: int, resamples: int
) -> dict[str, float]:
    """Share of samples in which p <= 0.05, for sides of the same mean load."""
    design = [Domain(12, 15, alike[0]), Domain(100, 200, alike[1])]
    rejected = dict.fromkeys(("load_l1", "load_jsd"), 0.0)
    base = loads("steep", 16)
    for number in range(sets):
        sums, labels = draw(design, base, 2, np.random.default_rng([number, turned]))
        a, b = (sums.take(np.flatnonzero(labels == name).tolist()) for name in ("d0", "d1")[:: -1 if turned else 1])
        samples = Samples([""] * len(a.n_tokens), [""] * len(b.n_tokens), paired=False)
        for name, one in load_tests(a, b, samples, Plan(resamples=resamples, seed=number)).items():
            rejected[name] += (one.p <= 0.05) / sets
    return rejected


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("case", UNEQUAL)
def test_unequal_sides_of_one_load_are_rarely_told_apart(case: str, turned: bool) -> None:
    """The standard error of 10% of 120 samples is 2.7 points; exchanging sequences rejects 25 to 94%."""
    assert max(rejected_without_a_difference(UNEQUAL[case], turned, 120, 200).values()) <= 0.10 + 0.055


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("case", UNEQUAL)
def test_unequal_sides_of_one_load_in_many_samples(case: str, turned: bool) -> None:
    rejected = rejected_without_a_difference(UNEQUAL[case], turned, 1000, 400)
    assert min(rejected.values()) >= 0.01
    assert max(rejected.values()) <= 0.10


@pytest.mark.parametrize("design", [[Domain(20, 60, 20)] * 2, [Domain(16, 60, 20), Domain(40, 90, 30)]])
def test_what_is_detectable_is_detected_in_four_of_five(design: list[Domain]) -> None:
    """Sides that differ by what such comparisons say they detect, on the median."""
    s, sets = 0.05, 100
    base, wide = loads("steep", 16), shifted(loads("steep", 16), 2, s)
    truth = float(np.abs(wide[1] - wide[0]).sum())
    found = []
    for number in range(30):
        a, b = two_sides_of(wide, design, number)
        found.append(load_tests(a, b, samples_of(a, b), Plan(resamples=400))["load_l1"].detectable)
    share = float(np.median(found)) / truth
    middle = wide.mean(axis=0)
    moved = middle + share * (wide - middle)
    assert moved.min() >= 0
    assert base.sum() == pytest.approx(1)
    hits = [
        load_tests(a, b, samples_of(a, b), Plan(resamples=200))["load_l1"].p <= 0.05
        for a, b in (two_sides_of(moved, design, 1000 + number) for number in range(sets))
    ]
    assert 0.65 <= np.mean(hits) <= 0.95


def samples_of(a: Sums, b: Sums) -> Samples:
    return Samples([""] * len(a.n_tokens), [""] * len(b.n_tokens), paired=False)


def two_sides_of(shares: np.ndarray, design: list[Domain], seed: int) -> list[Sums]:
    sums, labels = draw(design, shares, 2, np.random.default_rng(seed))
    return [sums.take(np.flatnonzero(labels == name).tolist()) for name in ("d0", "d1")]
