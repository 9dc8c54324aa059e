"""What experts add: against a computation token by token, from outputs that were captured without taps."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_moebench.routing.contributions import ContributionSums, token_outputs


def by_hand(y: np.ndarray) -> tuple[float, float]:
    """Mean cosine, and mean positive cosine, over pairs of outputs [K, D]."""
    cosines = [
        float(y[a] @ y[b] / (np.linalg.norm(y[a]) * np.linalg.norm(y[b]))) if y[a].any() and y[b].any() else 0.0
        for a in range(len(y))
        for b in range(a)
    ]
    return float(np.mean(cosines)), float(np.mean([max(c, 0) for c in cosines]))


def test_sums_are_those_of_single_tokens() -> None:
    rng = np.random.default_rng(0)
    b, s, k, d, e = 3, 6, 4, 5, 7
    y = rng.normal(size=(b, s, k, d)).astype(np.float32)
    y[0, 0, 1] = 0  # an expert that returns nothing
    indices = np.stack([rng.permutation(e - 1)[:k] for _ in range(b * s)]).reshape(b, s, k)
    weights = rng.random((b, s, k)).astype(np.float32)
    mask = np.arange(s) < np.array([[6], [4], [1]])
    sums = ContributionSums(e)
    sums.add((5, 9, 5), mask, indices, weights, token_outputs(y), np.asarray)
    assert sums.keys == [5, 9]
    assert sums.tokens == [7, 4]
    norm, reap, tokens, peak, alike = np.zeros(e), np.zeros(e), np.zeros(e), np.zeros(e), np.zeros(2)
    for row, t in zip(*np.nonzero(mask), strict=True):
        alike += by_hand(y[row, t].astype(np.float64))
        for slot, expert in enumerate(indices[row, t]):
            size = np.linalg.norm(y[row, t, slot].astype(np.float64))
            norm[expert] += size
            reap[expert] += weights[row, t, slot] * size
            tokens[expert] += 1
            peak[expert] = max(peak[expert], np.abs(y[row, t, slot]).max())
    np.testing.assert_allclose(sums.ean, norm, rtol=1e-6)
    np.testing.assert_allclose(sums.reap[:-1], reap[:-1] / tokens[:-1], rtol=1e-6)
    assert np.isnan(sums.reap[-1])  # nobody chose it
    np.testing.assert_array_equal(sums.total("tokens"), tokens)
    np.testing.assert_allclose(sums.peak, peak)
    np.testing.assert_allclose(np.sum(sums.similarity, axis=0), alike, rtol=1e-5)


def test_one_expert_a_token_has_no_pairs() -> None:
    made = token_outputs(np.ones((1, 2, 1, 3), np.float32))
    assert made.signed.tolist() == [[0.0, 0.0]]
    assert made.relu.tolist() == [[0.0, 0.0]]


def test_outputs_of_opposite_sign() -> None:
    y = np.array([[[[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]]]], np.float32)
    made = token_outputs(y)
    np.testing.assert_allclose(made.signed, [[-1 / 3]], atol=1e-6)
    np.testing.assert_allclose(made.relu, [[0.0]], atol=1e-6)


def test_super_experts_stand_above_the_median_of_those_that_ran() -> None:
    sums = ContributionSums(6)
    sums.peak[:] = [1.0, 1.0, 1.0, 10.0, 10.1, 0.0]
    assert sums.super_experts() == [4]
    assert sums.super_experts(9.0) == [3, 4]
    assert ContributionSums(3).super_experts() == []


def test_what_is_not_finite_is_refused_and_padding_is_not_looked_at() -> None:
    y = np.ones((1, 2, 1, 3), np.float32)
    y[0, 1] = np.nan
    one = np.zeros((1, 2, 1), np.int64), np.ones((1, 2, 1), np.float32)
    sums = ContributionSums(2)
    sums.add((0,), np.array([[True, False]]), *one, token_outputs(y), np.asarray)
    with pytest.raises(ValueError, match="not finite"):
        sums.add((0,), np.array([[True, True]]), *one, token_outputs(y), np.asarray)
    assert sums.tokens == [1]
