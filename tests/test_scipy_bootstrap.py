"""The interval of a mean against `scipy.stats.bootstrap`: the same estimand, a ratio of sums over whole sequences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mlx_moebench.routing import Interval, Plan, Sums, get_metric
from mlx_moebench.routing.intervals.bootstrap import mean_intervals
from mlx_moebench.routing.tally import SCALARS

RESAMPLES = 20_000


def sequences(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, sum of entropies, shared experts) of n sequences: unequal lengths, skewed and correlated with them."""
    rng = np.random.default_rng(n)
    tokens = np.clip(rng.lognormal(4, 0.7, n).astype(int), 8, 512)
    level = np.clip(rng.exponential(0.6, n) + 0.8 * (tokens > 60), 0.05, 2.7)
    return tokens, level * tokens, rng.binomial(2 * (tokens - 1), 0.2 + 0.2 * rng.random(n))


def sums_of(tokens: np.ndarray, entropy: np.ndarray, shared: np.ndarray) -> Sums:
    scalars = np.zeros((len(tokens), len(SCALARS)))
    for name, values in (("entropy", entropy), ("adjacent_shared", shared), ("adjacent_pairs", tokens - 1)):
        scalars[:, SCALARS.index(name)] = values
    even = np.repeat(tokens[:, None] / 8, 16, axis=1)
    return Sums(16, 2, "softmax", tokens, even, even / 2, even / 2, scalars)


def interval(sums: Sums, method: str, name: str = "mean_entropy", seed: int = 0) -> Interval:
    plan = Plan(method, RESAMPLES, seed)  # type: ignore[arg-type]
    return mean_intervals([sums], np.zeros(len(sums.n_tokens)), plan, [get_metric(name)]).rows[0][name]


def ratio(x: np.ndarray, n: np.ndarray, axis: int = -1) -> np.ndarray:
    return x.sum(axis=axis) / n.sum(axis=axis)


@pytest.mark.parametrize("n", [20, 60, 200])
@pytest.mark.parametrize("name", ["mean_entropy", "adjacent_overlap"])
@pytest.mark.parametrize(("ours", "theirs"), [("percentile", "percentile"), ("bca", "BCa")])
def test_ends_agree(monkeypatch: pytest.MonkeyPatch, n: int, name: str, ours: str, theirs: str) -> None:
    """Without the widening, which SciPy has not: both ends within the Monte Carlo error of 20,000 resamples."""
    monkeypatch.setattr("mlx_moebench.routing.intervals.bootstrap.widening", lambda *arguments: 1.0)
    tokens, entropy, shared = sequences(n)
    top, bottom = (entropy, tokens) if name == "mean_entropy" else (shared, 2 * (tokens - 1))
    ci = interval(sums_of(tokens, entropy, shared), ours, name, seed=1)
    result = stats.bootstrap(
        (top, bottom),
        ratio,
        paired=True,
        vectorized=True,
        method=theirs,
        n_resamples=RESAMPLES,
        batch=2000,
        rng=np.random.default_rng(2),
    )
    reference = result.confidence_interval
    # No side of BCa is shorter than that of the normal interval.
    point, half = ratio(top, bottom), stats.norm.ppf(0.975) * result.standard_error if ours == "bca" else 0.0
    width = float(reference.high - reference.low)
    # The error of such a quantile is 0.5% of the width, of their difference 0.7%; BCa reaches further out.
    assert ci.low == pytest.approx(min(reference.low, point - half), abs=0.03 * width)
    assert ci.high == pytest.approx(max(reference.high, point + half), abs=0.03 * width)


def test_an_average_over_sequences_is_another_estimand() -> None:
    """The tolerance above tells a ratio of sums from a mean of ratios."""
    tokens, entropy, shared = sequences(60)
    own = interval(sums_of(tokens, entropy, shared), "percentile")
    other = stats.bootstrap((entropy / tokens,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=3)
    assert own.low is not None
    assert own.high is not None
    assert abs(own.low - other.confidence_interval.low) > 0.1 * (own.high - own.low)


def test_the_widening_is_all_that_sets_them_apart() -> None:
    tokens, entropy, shared = sequences(200)
    sums = sums_of(tokens, entropy, shared)
    plain, widened = (interval(sums, method) for method in ("percentile", "bca"))
    assert widened.high - widened.low > plain.high - plain.low  # type: ignore[operator]
