"""The test of independence: where it is exact, what it ignores, and that p and interval never disagree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from audit_cells import PARTS
from audit_domains import NULLS, estimates_of, loads, shifted
from populations import Domain, draw, joined

from mlx_moebench.routing import Plan, Sums
from mlx_moebench.routing.domains.estimates import domain_estimates, information_of
from mlx_moebench.routing.intervals.halves import Ratios, random_halves, ratios
from mlx_moebench.routing.intervals.independence import critical_ratio, independence


def groups(counts: list[np.ndarray], seed: int = 0, resamples: int = 800) -> list[Ratios]:
    return [
        ratios(c, c.sum(axis=1), random_halves(np.zeros(len(c)), resamples, (seed, d))) for d, c in enumerate(counts)
    ]


def drawn(seed: int, designs: list[Domain], s: float = 0.0, experts: int = 16) -> list[np.ndarray]:
    base = loads("steep", experts)
    load = shifted(base, len(designs), s) if s else base
    sums, labels = draw(designs, load, 2, np.random.default_rng(seed))
    return [sums.counts[labels == name] for name in np.unique(labels)]


def test_equal_loads_without_noise_and_different_ones() -> None:
    same = np.tile([4.0, 2.0, 2.0], (12, 1))
    other = np.tile([2.0, 4.0, 2.0], (12, 1))
    alike = independence(groups([same, 3 * same]))
    assert (alike.ratio, alike.p_value) == (0.0, 1.0)
    assert alike.excess < 0
    apart = independence(groups([same, other]))
    assert math.isinf(apart.ratio)
    assert apart.p_value == 1 / 401
    assert apart.excess > 0


@pytest.mark.parametrize(("resamples", "level"), [(100, 0.95), (100, 0.98), (200, 0.99), (2000, 0.999)])
def test_without_noise_p_and_interval_agree(resamples: int, level: float) -> None:
    """A level that the draws cannot reach gave p 0.02 beside a 99.9% interval that left out 0: no plan asks for one."""
    counts = np.repeat([[4.0, 2.0, 2.0], [2.0, 4.0, 2.0]], 12, axis=0)
    sums = Sums.from_counts(counts, counts.sum(axis=1), 1)
    (one,) = domain_estimates([sums], np.repeat(["x", "y"], 12), Plan(resamples=resamples, level=level))
    assert one.test is not None
    assert one.information.interval.low is not None
    assert one.information.interval.low > 0
    assert one.test.p_value <= 1 - level


def test_the_size_of_tokens_does_not_matter() -> None:
    counts = drawn(0, [Domain(20), Domain(30, 100, 40)])
    first = independence(groups(counts))
    again = independence(groups([counts[0] * 7, counts[1] * 3]))
    assert first.ratio == pytest.approx(again.ratio)
    assert first.p_value == again.p_value


def test_the_order_of_experts_does_not_matter() -> None:
    counts = drawn(1, [Domain(20), Domain(30, 100, 40)])
    order = np.random.default_rng(0).permutation(16)
    assert independence(groups(counts)).p_value == independence(groups([c[:, order] for c in counts])).p_value


def test_a_group_without_tokens_has_no_test() -> None:
    counts = drawn(0, [Domain(20)] * 2)
    assert math.isnan(independence(groups([counts[0], 0 * counts[1]])).p_value)


def test_the_critical_ratio_is_where_p_passes_the_level() -> None:
    null = np.arange(1.0, 400.0)  # 399 draws: 5% is the 20th of 400
    critical = critical_ratio(null, 0.95)
    for ratio in (critical - 0.5, critical, critical + 0.5):
        p = (1 + (null >= ratio).sum()) / 400
        assert (p <= 0.05) == (ratio > critical), ratio
    assert math.isinf(critical_ratio(np.arange(10.0), 0.95))


@pytest.mark.parametrize("s", [0.0, 0.003, 0.01, 0.1])
def test_p_and_interval_never_disagree(s: float) -> None:
    for seed in range(40):
        sums, labels = joined(
            [Sums.from_counts(c, c.sum(axis=1) / 2, 2) for c in drawn(seed, [Domain(15, 40, 20)] * 3, s)]
        )
        one = estimates_of(sums, labels, seed)
        assert one.test is not None
        low, high = one.information.interval.low, one.information.interval.high
        assert low is not None
        assert high is not None
        assert low <= one.information.value <= high
        assert (low > 0) == (one.test.p_value <= 0.05) == (one.test.excess > 0)


def test_effects_are_found() -> None:
    for seed in range(10):
        assert independence(groups(drawn(seed, [Domain(20, 64, 50)] * 3, 0.1))).p_value <= 0.01


def test_shifted_loads_have_their_information() -> None:
    load = shifted(loads("steep", 16), 3, 0.1)
    assert float(information_of(load)) / math.log(3) == pytest.approx(0.1, abs=1e-6)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize(
    "shape",
    [
        "E 8, K 1, steep",
        pytest.param("E 64, K 8, even", marks=pytest.mark.nightly),
        pytest.param("E 128, K 1, leader", marks=pytest.mark.nightly),
    ],
)
def test_it_rejects_at_its_level(shape: str, name: str) -> None:
    measured = dict(PARTS["independence"]())[f"{shape}, {name}"](500, 1)
    if measured["null_given"] < 250:
        pytest.skip("the sequences of most sets are too few")
    assert measured["null"] <= 0.08 + 0.025  # two standard errors of 500 sets
