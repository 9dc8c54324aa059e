"""What lies between domains: formulas by hand, estimates of samples, and what is null and why."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from populations import Domain, route
from scipy.spatial.distance import jensenshannon

from mlx_moebench.errors import MoebenchError
from mlx_moebench.routing import DomainEstimates, Plan, Sums, domain_estimates, domain_information
from mlx_moebench.routing.domains.information import jensen_shannon
from mlx_moebench.routing.sums import entropy

PLAN = Plan(resamples=300)
LN2 = math.log(2)


def example(sequences: int = 20, seed: int = 0) -> tuple[Sums, np.ndarray]:
    """Three domains that lean to other experts, 16 of which two are chosen."""
    shares = np.full((3, 16), 0.1)
    shares[np.arange(3), np.arange(3)] = 0.5
    every = [Domain(sequences, 64, 100.0, 0.2)] * 3
    return route(every, shares, 2, np.random.default_rng(seed))


def estimates(sums: Sums, labels: np.ndarray, plan: Plan = PLAN) -> DomainEstimates:
    (one,) = domain_estimates([sums], labels, plan)
    return one


# -- values --------------------------------------------------------------------------------------------------------


def test_jensen_shannon_agrees_with_scipy() -> None:
    counts = np.random.default_rng(0).multinomial(500, np.full(6, 1 / 6), size=(2, 3))
    got = jensen_shannon(counts)
    assert got.shape == (2, 3, 3)
    for which in range(2):
        for d in range(3):
            for e in range(3):
                want = jensenshannon(counts[which, d], counts[which, e]) ** 2  # theirs is the root
                assert got[which, d, e] == pytest.approx(want, abs=1e-12)


def test_information_of_two_domains_is_their_divergence() -> None:
    counts = np.array([[40, 0, 10], [1, 2, 3]])
    assert float(domain_information(counts)) == pytest.approx(float(jensen_shannon(counts)[0, 1]))
    assert float(domain_information([[5, 0], [0, 90]])) == pytest.approx(LN2)


def test_values_by_hand() -> None:
    # Two domains, each with one expert of its own, and two that both use.
    counts = np.array([[100, 0, 50, 50], [0, 10, 5, 5]])
    one = estimates(Sums.from_counts(counts, [100, 10], 2), np.array(["x", "y"]))
    want = math.log(4) - float(entropy([0.5, 0.25, 0.25]))
    assert one.information.value == pytest.approx(want)
    assert one.specialisation.value == pytest.approx(want / LN2)
    assert one.used.value == pytest.approx(1.0)
    assert one.divergence["x", "y"].value == pytest.approx(want)
    assert one.names == ("x", "y")
    assert [(d.sequences, d.tokens) for d in one.domains] == [(1, 100), (1, 10)]


def test_domains_of_other_size_count_the_same() -> None:
    sums, labels = example()
    more = sums.counts * np.where(labels == "d0", 9, 1)[:, None]
    bigger = Sums.from_counts(more, more.sum(axis=1) / 2, 2)
    a, b = estimates(sums, labels), estimates(bigger, labels)
    np.testing.assert_allclose(a.shares, b.shares)
    assert a.information.plugin == pytest.approx(b.information.plugin)
    assert a.used.plugin == pytest.approx(b.used.plugin)


# -- intervals -----------------------------------------------------------------------------------------------------


def test_information_is_corrected_downwards_and_the_interval_agrees_with_the_test() -> None:
    sums, labels = example()
    one = estimates(sums, labels)
    assert one.test is not None
    assert one.test.p_value < 0.05
    assert 0 < one.information.interval.low <= one.information.value < one.information.plugin  # type: ignore[operator]
    nothing = estimates(sums, np.random.default_rng(1).permutation(labels))
    assert nothing.test is not None
    assert (nothing.test.p_value <= 0.05) == (nothing.information.interval.low > 0)  # type: ignore[operator]


def test_small_domains_widen_the_intervals() -> None:
    sums, labels = example(40)
    few = np.flatnonzero((labels != "d0") | (np.arange(len(labels)) < 14))
    whole, part = estimates(sums, labels), estimates(sums.take(few.tolist()), labels[few])

    def width(one: DomainEstimates) -> float:
        return one.information.interval.high - one.information.interval.low  # type: ignore[operator]

    assert width(part) > 1.05 * width(whole)


def test_seed_decides() -> None:
    sums, labels = example()
    first, again, other = (estimates(sums, labels, replace(PLAN, seed=s)).information for s in (1, 1, 2))
    assert first == again != other


# -- nulls ---------------------------------------------------------------------------------------------------------


def test_a_domain_of_few_sequences_has_values_but_no_intervals() -> None:
    one = estimates(*example(9))
    for estimate in (one.used, one.information, *one.divergence.values()):
        assert estimate.value > 0
        assert estimate.interval.low is None
        assert estimate.interval.reason == "9 sequences of d0 are too few for an interval: 10 or more are needed"
    assert one.test is None


def test_one_domain_is_refused() -> None:
    sums, labels = example(10)
    with pytest.raises(MoebenchError, match="two or more are needed, got 1"):
        domain_estimates([sums], np.zeros(len(labels)), PLAN)
