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


def add(sums: ContributionSums, unit: object, indices: np.ndarray, weights: np.ndarray, y: np.ndarray) -> None:
    made = token_outputs(y)
    sums.add(np.asarray(unit), indices, weights, np.asarray(made.products), np.asarray(made.peaks))


def test_sums_are_those_of_single_tokens() -> None:
    rng = np.random.default_rng(0)
    p, k, d, e = 17, 4, 5, 7
    y = rng.normal(size=(p, k, d)).astype(np.float32)
    y[0, 1] = 0  # an expert that returns nothing
    indices = np.stack([rng.permutation(e - 1)[:k] for _ in range(p)])
    weights = rng.random((p, k)).astype(np.float32)
    unit = rng.integers(0, 3, p)
    sums = ContributionSums(e, k, 3)
    add(sums, unit[:9], indices[:9], weights[:9], y[:9])
    add(sums, unit[9:], indices[9:], weights[9:], y[9:])
    add(sums, unit[:0], indices[:0], weights[:0], y[:0])
    norm, reap, tokens, peak = np.zeros(e), np.zeros(e), np.zeros(e), np.zeros(e)
    pairs, entropy, ordered = np.zeros((2, e, e)), np.zeros(3), np.zeros(k)
    alike = np.zeros((3, 2))
    for t in range(p):
        alike[unit[t]] += by_hand(y[t].astype(np.float64))
        g = weights[t].astype(np.float64) / weights[t].sum(dtype=np.float64)
        entropy[unit[t]] += -(g * np.log(g)).sum()
        ordered += sorted(g, reverse=True)
        for slot, expert in enumerate(indices[t]):
            size = np.linalg.norm(y[t, slot].astype(np.float64))
            norm[expert] += size
            reap[expert] += weights[t, slot] * size
            tokens[expert] += 1
            peak[expert] = max(peak[expert], np.abs(y[t, slot]).max())
            for other in range(k):
                if other != slot:
                    there = np.linalg.norm(y[t, other].astype(np.float64)) * size
                    pairs[:, expert, indices[t, other]] += 1, y[t, slot] @ y[t, other] / there if there else 0.0
    np.testing.assert_allclose(sums.ean, norm, rtol=1e-6)
    np.testing.assert_allclose(sums.reap[:-1], reap[:-1] / tokens[:-1], rtol=1e-6)
    assert np.isnan(sums.reap[-1])  # nobody chose it
    np.testing.assert_array_equal(sums.total("tokens"), tokens)
    np.testing.assert_allclose(sums.frequency, tokens / p)
    np.testing.assert_allclose(sums.peak, peak)
    np.testing.assert_allclose(sums.of_units("signed"), alike[:, 0], rtol=1e-5)
    np.testing.assert_allclose(sums.of_units("relu"), alike[:, 1], rtol=1e-5)
    np.testing.assert_allclose(sums.of_units("entropy"), entropy, rtol=1e-6)
    np.testing.assert_allclose(sums.sorted_weights, ordered, rtol=1e-6)
    np.testing.assert_allclose(sums.pairs, pairs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(sums.of_units("tokens"), np.bincount(unit, minlength=3))
    for n in range(3):
        assert set(np.nonzero(sums.chosen[n])[0]) == set(indices[unit == n].ravel())


def test_one_expert_a_token_has_no_pairs() -> None:
    sums = ContributionSums(2, 1, 1)
    add(sums, [0, 0], np.zeros((2, 1), np.int64), np.ones((2, 1), np.float32), np.ones((2, 1, 3), np.float32))
    assert sums.of_units("pairs").tolist() == [0.0]
    assert sums.of_units("entropy").tolist() == [0.0]
    assert not sums.pairs.any()


def test_outputs_of_opposite_sign() -> None:
    y = np.array([[[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]]], np.float32)
    sums = ContributionSums(3, 3, 1)
    add(sums, [0], np.array([[0, 1, 2]]), np.ones((1, 3), np.float32), y)
    np.testing.assert_allclose(sums.of_units("signed"), [-1 / 3], atol=1e-6)
    np.testing.assert_allclose(sums.of_units("relu"), [0.0], atol=1e-6)
    assert sums.pair_similarity[0, 1] == pytest.approx(-1)
    assert np.isnan(sums.pair_similarity[0, 0])


def test_columns_without_weights_of_their_own_are_counted_and_not_looked_at() -> None:
    y = np.array([[[3.0, 4.0], [np.nan, 1.0]], [[3.0, 4.0], [0.0, 1.0]]], np.float32)
    sums = ContributionSums(3, 2, 1, np.array([True, True, False]))
    add(sums, [0, 0], np.array([[0, 2], [0, 1]]), np.ones((2, 2), np.float32), y)
    assert sums.total("tokens").tolist() == [2.0, 1.0, 1.0]
    assert sums.ean.tolist() == [10.0, 1.0, 0.0]
    assert sums.of_units("pairs").tolist() == [1.0]
    assert sums.pairs[0, 0].tolist() == [0.0, 1.0, 0.0]


def test_super_experts_stand_above_the_median_of_those_that_ran() -> None:
    sums = ContributionSums(6, 1, 1)
    sums.peak[:] = [1.0, 1.0, 1.0, 10.0, 10.1, 0.0]
    assert sums.super_experts() == (10.0, [4])
    assert sums.super_experts(9.0) == (9.0, [3, 4])
    assert ContributionSums(3, 1, 1).super_experts()[1] == []


def test_what_is_not_finite_is_refused() -> None:
    y = np.ones((2, 1, 3), np.float32)
    y[1] = np.nan
    indices, weights = np.zeros((2, 1), np.int64), np.ones((2, 1), np.float32)
    sums = ContributionSums(2, 1, 1)
    add(sums, [0], indices[:1], weights[:1], y[:1])
    with pytest.raises(ValueError, match="not finite"):
        add(sums, [0, 0], indices, weights, y)
    assert sums.n_tokens == 1
