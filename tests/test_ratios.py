"""Intervals of ratios of sums over sequences: too few, too unequal, rare."""

from __future__ import annotations

import numpy as np
import pytest
from audit_tokens import loss, overlap
from scipy.stats import chi2

from mlx_moebench.options import Plan
from mlx_moebench.routing.intervals.ranks import rank_correlations
from mlx_moebench.routing.intervals.ratios import rate_intervals, ratio_intervals

PLAN = Plan(resamples=400)


def column(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_one_long_sequence_is_not_an_interval() -> None:
    sizes = column([2000.0, *[20.0] * 30])
    means = np.random.default_rng(0).normal(1, 0.1, sizes.shape)
    (interval,) = ratio_intervals(means * sizes, sizes, np.zeros(31), PLAN)
    assert interval.low is None
    assert interval.reason == "31 sequences are so unequal in length that they count for 1.0: 10 or more are needed"
    sequence = np.repeat(np.arange(31), sizes[:, 0].astype(int))
    x = np.random.default_rng(1).standard_normal(len(sequence))
    (rho,), mean = rank_correlations(x[:, None], x**2, sequence, np.zeros(31), PLAN)
    assert rho.interval == mean.interval
    assert rho.interval.reason == interval.reason


def test_a_rare_share_has_the_interval_of_a_poisson_count() -> None:
    """Three sequences of 100 with one event each: the exact limits of a count of 3."""
    events, tokens = column([1.0] * 3 + [0.0] * 97), column([50.0] * 100)
    for over, turn in ((events, lambda x: x), (tokens - events, lambda x: 1 - x)):
        (interval,) = rate_intervals(over, tokens, np.zeros(100), PLAN)
        assert interval.method == "gamma interval of a rare share"
        ends = sorted((turn(interval.low), turn(interval.high)))
        assert ends == pytest.approx([chi2.ppf(0.025, 6) / 2 / 5000, chi2.ppf(0.975, 8) / 2 / 5000])


def test_what_no_sequence_shows_has_a_reason() -> None:
    tokens = column([50.0] * 20)
    for over, end in ((0 * tokens, 0), (tokens, 1)):
        (interval,) = rate_intervals(over, tokens, np.zeros(20), PLAN)
        assert interval.low is None
        assert interval.reason == f"it is {end} in all 20 sequences, and resampling them cannot leave {end}"


def test_sequences_that_are_all_or_nothing_are_resampled() -> None:
    tokens = column([50.0] * 12)
    (interval,) = rate_intervals(tokens * (np.arange(12) < 6)[:, None], tokens, np.zeros(12), PLAN)
    assert interval.method == "BCa bootstrap over sequences"


def test_rare_shares_are_covered() -> None:
    """The bootstrap alone covered 54%; 120 samples, standard error 2 points."""
    cell = dict(overlap())["0.001, equal, S 20"](120, 1)
    assert cell["metrics"]["differ"]["inside"] >= 0.9
    assert cell["metrics"]["differ"]["outside"] == 0


def test_tenths_of_a_score_that_tells_the_loss_are_covered() -> None:
    """With edges taken as fixed, 89%; 40 samples of ten tenths."""
    cell = dict(loss())["strong, equal, distinct, S 40"](40, 1)
    assert cell["metrics"]["tenth"]["inside"] >= 0.925
    assert cell["metrics"]["tenth"]["outside"] == 0
