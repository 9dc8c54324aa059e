"""Bands: of the largest of many shares, and of all shares at once; their limits, their candidates, and their joints."""

from __future__ import annotations

import math

import numpy as np
import pytest
from audit_metrics import whole
from populations import Domain, always_on, joined, route, sample
from scipy import stats as scipy_stats

from mlx_moebench.routing.intervals.bands import (
    Estimates,
    candidates,
    maximum,
    share_bands,
    simultaneous,
    together,
    untransformed,
)
from mlx_moebench.routing.intervals.halves import random_halves, ratios


def estimates(counts: np.ndarray, tokens: np.ndarray, seed: int = 0, resamples: int = 800) -> Estimates:
    return Estimates.of(ratios(counts, tokens, random_halves(np.zeros(len(tokens)), resamples, seed)))


def simulated(kind: str, n: int, experts: int = 16, top_k: int = 2, effects: str = "all", seed: int = 0) -> Estimates:
    drawn = sample(whole(experts, top_k, kind, effects, "equal"), n, np.random.default_rng(seed))
    return estimates(drawn.counts, drawn.n_tokens)


def test_an_expert_in_every_token_has_no_width() -> None:
    shares, top_k = always_on()
    sums, _ = route([Domain(40, 64, 100, 0.3)], shares[:1], top_k, np.random.default_rng(0))
    sums.counts[:, 0] = sums.n_tokens
    every = estimates(sums.counts, sums.n_tokens)
    largest = maximum(every)
    assert (largest.value, largest.interval.low, largest.interval.high) == (1.0, 1.0, 1.0)
    assert largest.candidates == (0,)
    low, high = share_bands(every)
    assert low[0] == high[0] == 1.0
    assert (high[1:] > low[1:]).all()


def test_shares_that_are_the_same_everywhere_have_no_width() -> None:
    tokens = np.full(20, 30.0)
    every = estimates(np.outer(tokens, [1 / 3, 1 / 3, 1 / 3]), tokens)
    largest = maximum(every)
    assert largest.interval.low == largest.interval.high == pytest.approx(1 / 3)
    assert set(largest.candidates) == {0, 1, 2}
    np.testing.assert_array_equal(*share_bands(every))


def test_one_candidate_has_the_interval_of_student() -> None:
    rng = np.random.default_rng(1)
    tokens = np.full(30, 100.0)
    first = 60 + 5 * scipy_stats.norm.ppf((np.arange(30) + 0.5) / 30)  # symmetric, so that skewness moves no end
    counts = np.stack([first, *(rng.integers(1, 4, 30) for _ in range(5))], axis=1)
    largest = maximum(estimates(counts, tokens))
    error = (first / 100).std(ddof=1) / math.sqrt(30)
    wide = scipy_stats.t.ppf(0.975, 29) * error
    assert largest.candidates == (0,)
    assert largest.interval.low == pytest.approx(0.6 - wide, rel=1e-6)
    assert largest.interval.high == pytest.approx(0.6 + wide, rel=1e-6)


@pytest.mark.parametrize("kind", ["even", "mild", "steep", "leader"])
def test_the_value_lies_in_its_interval(kind: str) -> None:
    for seed in range(20):
        every = simulated(kind, 20, seed=seed)
        largest = maximum(every)
        assert largest.interval.low is not None
        assert largest.interval.high is not None
        assert largest.interval.low <= largest.value <= largest.interval.high
        assert largest.candidates[0] == every.value.argmax()
        for low, high in (simultaneous(every), share_bands(every)):
            assert (low <= every.value).all()
            assert (every.value <= high).all()


def test_candidates_are_many_where_experts_tie_and_one_where_one_leads() -> None:
    assert candidates(simulated("even", 40, effects="tokens alone")).all()
    assert candidates(simulated("leader", 40)).sum() == 1


def test_a_maximum_moves_with_the_unit() -> None:
    tokens = np.full(25, 40.0)
    counts = np.random.default_rng(3).binomial(40, [0.3, 0.32, 0.05], size=(25, 3)).astype(float)
    whole_, half = maximum(estimates(counts, tokens)), maximum(estimates(counts / 2, tokens))
    assert whole_.candidates == half.candidates
    assert whole_.interval.low == pytest.approx(2 * half.interval.low)  # type: ignore[operator]
    assert whole_.interval.high == pytest.approx(2 * half.interval.high)  # type: ignore[operator]


def test_an_expert_that_nobody_chose_may_be_chosen_yet() -> None:
    tokens = np.full(20, 50.0)
    counts = np.random.default_rng(0).multinomial(50, [0.5, 0.3, 0.2, 0.0], size=20).astype(float)
    low, high = share_bands(estimates(counts, tokens))
    assert low[3] == 0
    assert 0 < high[3] < 0.05


def test_the_largest_over_routers() -> None:
    parts = [simulated("mild", 30, seed=1), simulated("leader", 30, seed=1)]
    joint, alone = maximum(together(parts)), maximum(parts[1])
    assert joint.value == alone.value == max(p.value.max() for p in parts)
    assert joint.interval.low == pytest.approx(alone.interval.low)
    assert joint.interval.high == pytest.approx(alone.interval.high)


def test_nothing_is_known_of_no_tokens() -> None:
    sums, _ = joined([sample(whole(16, 2, "mild", "all", "equal"), 5, np.random.default_rng(0))])
    every = estimates(sums.counts, 0.0 * sums.n_tokens)
    assert maximum(every).interval.reason == "the metric is not defined here"


@pytest.mark.parametrize("skewness", [-0.3, -0.1, 0.0, 0.1, 0.3])
def test_halls_transformation_is_undone(skewness: float) -> None:
    for x in (-2.0, -0.5, 0.0, 1.0, 2.5):
        t = float(untransformed(x, skewness))
        assert t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6 == pytest.approx(x, abs=1e-9)


def test_resamples_of_a_seed_are_the_same() -> None:
    assert maximum(simulated("even", 20)) == maximum(simulated("even", 20))
