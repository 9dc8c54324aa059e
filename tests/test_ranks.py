"""Rank correlations and calibration: known answers, scipy's, and how often their intervals hold the truth."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from rank_simulation import CASES, coverage
from scipy.stats import spearmanr

from mlx_moebench.options import Plan
from mlx_moebench.routing.intervals.ranks import calibration, rank_correlations, spearman
from mlx_moebench.routing.intervals.ratios import ratio_intervals

PLAN = Plan(resamples=400)


def clustered(seed: int = 0, n: int = 30, slope: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sequence = np.repeat(np.arange(n), rng.integers(5, 40, n))
    x = rng.standard_normal(n)[sequence] + rng.standard_normal(len(sequence))
    y = slope * x + rng.standard_normal(n)[sequence] + rng.standard_normal(len(sequence))
    return x, y, sequence


@pytest.mark.parametrize("digits", [None, 1, 0], ids=["distinct", "some ties", "many ties"])
@pytest.mark.parametrize("slope", [-2.0, -0.1, 0.0, 0.7])
def test_against_scipy(digits: int | None, slope: float) -> None:
    x, y, _ = clustered(3, slope=slope)
    if digits is not None:
        x, y = x.round(digits), y.round(digits)
    rho, pseudo = spearman(x, y)
    assert rho == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert pseudo.mean() == pytest.approx(rho, abs=1e-12)


def test_known_answers() -> None:
    assert spearman([1, 2, 3], [10, 20, 30])[0] == pytest.approx(1)
    assert spearman([1, 2, 3], [30, 20, 10])[0] == pytest.approx(-1)
    # 1 - 6 sum d^2 / (n (n^2 - 1)), d = 1, 1, 0, 2, 0
    x, y = [1, 2, 3, 4, 5], [2, 1, 3, 4, 5]
    assert spearman(x, y)[0] == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert spearman(np.exp(x), np.array(y) ** 3)[0] == pytest.approx(spearman(x, y)[0])
    for a, b in (([1, 1, 1], [1, 2, 3]), ([1], [2]), ([], []), ([1, np.nan, 2], [1, 2, 3])):
        assert np.isnan(spearman(a, b)[0])


def test_pseudo_values_are_the_influence_of_a_token() -> None:
    """The derivative of rho towards more of one token, taken numerically by repeating every token 60 times."""
    x, y, _ = clustered(1, n=4)
    x, y = x.round(1), y.round()
    rho, pseudo = spearman(x, y)
    for token in range(0, len(x), 7):
        times = np.full(len(x), 60)
        times[token] += 1
        moved = spearmanr(np.repeat(x, times), np.repeat(y, times)).statistic
        assert (moved - rho) * times.sum() == pytest.approx(pseudo[token] - rho, abs=0.02)


def test_interval_against_resampling_and_ranking_again() -> None:
    """The standard error on Fisher's scale is that of a bootstrap that ranks every resample anew."""
    x, y, sequence = clustered(5, n=60)
    (found,), joint = rank_correlations(x[:, None], y, sequence, np.zeros(60), Plan(resamples=2000))
    assert found == joint
    rng = np.random.default_rng(0)
    again = []
    for _ in range(400):
        drawn = np.concatenate([np.flatnonzero(sequence == c) for c in rng.integers(60, size=60)])
        again.append(np.arctanh(spearmanr(x[drawn], y[drawn]).statistic))
    low, high = (np.arctanh(end) for end in (found.interval.low, found.interval.high))
    assert (high + low) / 2 == pytest.approx(np.arctanh(found.rho), abs=1e-9)
    from mlx_moebench.routing.intervals.bootstrap import widening

    widened = widening(np.bincount(sequence), 1, 0.95)
    assert (high - low) / (2 * 1.96 * widened) == pytest.approx(np.std(again), rel=0.12)


def test_nulls_have_reasons() -> None:
    x, y, sequence = clustered(2, n=30)
    constant = np.ones_like(x)
    gone = np.full_like(x, np.nan)
    each, joint = rank_correlations(np.column_stack([x, constant, gone]), y, sequence, np.zeros(30), PLAN)
    assert joint.rho == pytest.approx(each[0].rho), "the mean is over those that have a value"
    for found in each[1:]:
        assert found.to_dict() == {
            "rho": None,
            "low": None,
            "high": None,
            "reason": "one side does not vary, or is not defined",
        }
    few = sequence < 5
    (found,), _ = rank_correlations(x[few, None], y[few], sequence[few], np.zeros(5), PLAN)
    assert found.interval.reason == "5 sequences are too few for an interval: 10 or more are needed"
    assert calibration(gone, y, sequence, np.zeros(30), PLAN) == []


def test_perfect_correlations_stay_inside() -> None:
    x, _, sequence = clustered(4)
    each, _ = rank_correlations(np.column_stack([x, -x]), np.exp(x), sequence, np.zeros(30), PLAN)
    for found, rho in zip(each, (1, -1), strict=True):
        assert found.rho == pytest.approx(rho)
        assert -1 <= found.interval.low <= found.interval.high <= 1  # type: ignore[operator]


def test_calibration_bins() -> None:
    x, y, sequence = clustered(6, n=40, slope=2)
    bins = calibration(x, y, sequence, np.zeros(40), PLAN)
    assert len(bins) == 10
    assert sum(b.n_tokens for b in bins) == len(x)
    assert {b.n_tokens for b in bins} <= {len(x) // 10, len(x) // 10 + 1}
    order = np.argsort(x)
    assert bins[0].outcome == pytest.approx(y[order[: bins[0].n_tokens]].mean())
    for a, b in pairwise(bins):
        assert a.high < b.low
        assert a.outcome < b.outcome
    for b in bins:
        assert b.low <= b.mean <= b.high
        assert b.interval.low < b.outcome < b.interval.high  # type: ignore[operator]
    tied = calibration(np.round(x / 3), y, sequence, np.zeros(40), PLAN)
    assert len(tied) < 10
    assert sum(b.n_tokens for b in tied) == len(x)


def test_ratio_intervals() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, 40, 30)
    mean = rng.normal(2, 1, 30)
    absent = tokens * (np.arange(30) < 9)
    values = np.stack([tokens * mean, absent * mean], axis=1)
    found = ratio_intervals(values, np.stack([tokens, absent], axis=1), np.zeros(30), PLAN)
    point = (tokens * mean).sum() / tokens.sum()
    assert found[0].low < point < found[0].high  # type: ignore[operator]
    assert found[1].reason == "9 sequences are too few for an interval: 10 or more are needed"
    percentile = ratio_intervals(
        values, np.stack([tokens, absent], axis=1), np.zeros(30), Plan("percentile", resamples=400)
    )
    assert percentile[0].method == "percentile bootstrap over sequences"
    assert percentile[0].high - percentile[0].low < found[0].high - found[0].low  # type: ignore[operator]


def test_coverage_roughly() -> None:
    """A quick look at the slow test below: 100 samples, standard error 2 points."""
    assert coverage("weak", 40, 100, seed=3) >= 0.90


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [20, 100])
def test_coverage(case: str, n: int) -> None:
    """1,000 samples: the standard error of a coverage of 95% is 0.7 points."""
    assert 0.935 <= coverage(case, n, 1000, seed=11) <= 0.99
