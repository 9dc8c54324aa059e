"""How often intervals of a rank correlation contain the truth, on simulated tokens whose truth is known exactly.

A finite population of sequences of unequal length; score and outcome of a token share a part with the other tokens of
its sequence. The correlation over the whole population is the truth; samples of n sequences are drawn from it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlx_moebench.options import Plan
from mlx_moebench.routing.intervals.bootstrap import Interval
from mlx_moebench.routing.intervals.ranks import rank_correlations, spearman

CASES = {"none": 0.0, "weak": 0.2, "strong": 1.2}
"""How much of the score enters the outcome."""

Method = Callable[[np.ndarray, np.ndarray, np.ndarray, int, Plan], list[Interval]]


def population(case: str, clusters: int = 5000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(score, outcome, sequence) of every token; the score is skewed and rounded, so that some tie."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(48), 0.6, clusters).astype(int), 8, 256)
    sequence = np.repeat(np.arange(clusters), lengths)
    score = 0.7 * rng.standard_normal(clusters)[sequence] + rng.standard_normal(len(sequence))
    outcome = CASES[case] * score + 0.7 * rng.standard_normal(clusters)[sequence] + rng.gumbel(size=len(sequence))
    return np.round(np.exp(score / 2), 2), outcome, sequence


def pseudo_values(x: np.ndarray, y: np.ndarray, sequence: np.ndarray, n: int, plan: Plan) -> list[Interval]:
    return [rank_correlations(x[:, None], y, sequence, np.zeros(n), plan)[1].interval]


def ranked_once(x: np.ndarray, y: np.ndarray, sequence: np.ndarray, n: int, plan: Plan) -> list[Interval]:
    """The shortcut that is not taken: resample Pearson's correlation of ranks that stay as they are."""
    from scipy.stats import rankdata

    from mlx_moebench.routing.intervals.bootstrap import resample_weights

    a, b = rankdata(x) / len(x), rankdata(y) / len(y)
    columns = [np.ones_like(a), a, b, a * a, b * b, a * b]
    sums = np.stack([np.bincount(sequence, weights=c, minlength=n) for c in columns], axis=1)
    drawn = resample_weights(np.zeros(n), plan.resamples, plan.seed) @ sums
    mean_a, mean_b, aa, bb, ab = (drawn[:, i] / drawn[:, 0] for i in range(1, 6))
    rho = (ab - mean_a * mean_b) / np.sqrt((aa - mean_a**2) * (bb - mean_b**2))
    return [Interval(*np.quantile(rho, [0.025, 0.975]))]


def coverage(case: str, n: int, samples: int, method: Method = pseudo_values, seed: int = 0) -> float:
    """Share of the intervals from samples of n sequences that hold the correlation of the population."""
    x, y, sequence = population(case)
    truth = spearman(x, y)[0]
    starts = np.searchsorted(sequence, np.arange(sequence[-1] + 2))
    rng = np.random.default_rng(seed)
    held = given = 0
    for sample in range(samples):
        drawn = rng.integers(sequence[-1] + 1, size=n)
        tokens = np.concatenate([np.arange(starts[c], starts[c + 1]) for c in drawn])
        own = np.repeat(np.arange(n), starts[drawn + 1] - starts[drawn])
        (ci,) = method(x[tokens], y[tokens], own, n, Plan(resamples=600, seed=sample))
        if ci.low is None or ci.high is None:  # too unequal
            continue
        given += 1
        held += ci.low <= truth <= ci.high
    return held / given
