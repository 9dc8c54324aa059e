"""`tally`: known answers, a slow reference, padding, ties, extremes, and the same numbers from NumPy and MLX."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from routing_reference import random_routing, slow_tally

from mlx_moebench import RoutingStats
from mlx_moebench.errors import RoutingError
from mlx_moebench.routing import RouterSpec, Routing, selection_matrix, tally, transition_counts
from mlx_moebench.routing.tally import SCALARS, log_distribution

RULES = ("softmax", "softmax_then_topk_derived", "sigmoid_normalised")
COUNTS = ("n_tokens", "counts", "top1_counts", "non_finite", "pairs")
SUMS = ("p_sum", "scalars")


def host(result: Any) -> dict[str, np.ndarray]:
    return {f.name: np.asarray(getattr(result, f.name)) for f in fields(result)}


def on_mlx(r: Routing) -> Routing:
    import mlx.core as mx

    arrays = {f.name: getattr(r, f.name) for f in fields(r)}
    return replace(r, **{k: mx.array(v) for k, v in arrays.items() if isinstance(v, np.ndarray)})


def one_token(logits: list[float], indices: list[int], **more: Any) -> Routing:
    z = np.array([[logits]], np.float32)
    weights = np.full((1, 1, len(indices)), 1 / len(indices), np.float32)
    values = {"weights": weights, "mask": np.ones((1, 1), bool)} | more
    return Routing(logits=z, indices=np.array([[indices]], np.int32), **values)


def scalar(result: Any, name: str) -> float:
    return float(np.asarray(result.scalars)[0, SCALARS.index(name)])


def test_known_answer_top_2_of_4() -> None:
    # p = (.5, .25, .125, .125): every number below is by hand.
    r = one_token([math.log(4), math.log(2), 0, 0], [1, 0], weights=np.array([[[0.3, 0.6]]], np.float32))
    t = tally(r)
    assert t.counts.tolist() == [[1, 1, 0, 0]]
    assert t.top1_counts.tolist() == [[1, 0, 0, 0]]
    assert t.n_tokens.tolist() == [1]
    np.testing.assert_allclose(t.p_sum, [[0.5, 0.25, 0.125, 0.125]], rtol=1e-6)
    assert scalar(t, "entropy") == pytest.approx(1.75 * math.log(2), rel=1e-6)
    assert scalar(t, "topk_entropy") == pytest.approx(math.log(3) - 2 / 3 * math.log(2), rel=1e-6)
    assert scalar(t, "margin_prob") == pytest.approx(0.25, rel=1e-6)
    assert scalar(t, "margin_weight") == pytest.approx(1 / 3, rel=1e-6)
    assert scalar(t, "selection_margin") == pytest.approx(0.125, rel=1e-6)
    assert scalar(t, "z_squared") == pytest.approx(math.log(8) ** 2, rel=1e-6)
    assert scalar(t, "adjacent_pairs") == scalar(t, "adjacent_shared") == 0
    assert t.pairs.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_known_answer_sigmoid() -> None:
    # sigmoid(0) = 1/2, sigmoid(ln 3) = 3/4: p = (.4, .6).
    t = tally(one_token([0, math.log(3)], [1], distribution="sigmoid_normalised"))
    np.testing.assert_allclose(t.p_sum, [[0.4, 0.6]], rtol=1e-6)
    assert t.top1_counts.tolist() == [[0, 1]]
    assert scalar(t, "selection_margin") == pytest.approx(0.2, rel=1e-5)


def test_one_active_expert_has_no_gate_entropy() -> None:
    t = tally(random_routing(top_k=1))
    assert (t.counts == t.top1_counts).all()
    for name in ("topk_entropy", "margin_weight"):
        assert np.abs(t.scalars[:, SCALARS.index(name)]).max() == 0


def test_every_expert_active_leaves_no_rival() -> None:
    t = tally(random_routing(experts=4, top_k=4))
    assert (t.counts == t.n_tokens[:, None]).all()
    assert np.isnan(t.scalars[:, SCALARS.index("selection_margin")]).all()
    assert np.isfinite(np.delete(t.scalars, SCALARS.index("selection_margin"), axis=1)).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("top_k", "bias"), [(1, False), (2, False), (3, True)])
def test_matches_loops(rule: str, top_k: int, bias: bool) -> None:
    rng = np.random.default_rng(7)
    for seed in range(3):
        mask = rng.random((3, 40)) < 0.8
        r = random_routing(seed, (3, 40), 7, top_k, rule, mask, bias)
        got, want = host(tally(r)), slow_tally(r)
        for name, value in want.items():
            if name in COUNTS:
                np.testing.assert_array_equal(got[name], value, err_msg=name)
            else:
                np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=2e-5, err_msg=name)


def test_padding_never_counts_whatever_it_holds() -> None:
    rng = np.random.default_rng(1)
    mask = rng.random((4, 50)) < 0.6  # holes as well as tails
    clean = random_routing(2, (4, 50), mask=mask)
    logits, weights, indices = clean.logits.copy(), clean.weights.copy(), clean.indices.copy()
    logits[~mask] = rng.choice([np.nan, 1e30, -1e30], size=(int((~mask).sum()), 6))
    weights[~mask] = np.nan
    indices[~mask] = 5
    dirty = replace(clean, logits=logits, weights=weights, indices=indices)
    with np.errstate(over="ignore", invalid="ignore"):  # NumPy warns of what stands in the padding
        got = host(tally(dirty))
    for name, value in host(tally(clean)).items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert got["non_finite"].sum() == 0


def test_infinite_padding_does_not_leak() -> None:
    mask = np.array([[True, True, False]])
    r = random_routing(3, (1, 3), mask=mask)
    r.logits[0, 2] = np.inf
    with np.errstate(invalid="ignore"):
        t = tally(r)
    assert np.isfinite(t.scalars).all()
    assert np.isfinite(t.p_sum).all()
    assert t.p_sum.sum() == pytest.approx(2, rel=1e-6)
    assert t.non_finite.tolist() == [0]


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_ties_go_to_the_lowest_index(backend: str) -> None:
    r = one_token([1, 3, 3, 3], [3, 2])
    t = tally(on_mlx(r) if backend == "mlx" else r)
    assert np.asarray(t.top1_counts).tolist() == [[0, 0, 1, 0]]
    assert scalar(t, "margin_prob") == 0
    assert scalar(t, "selection_margin") == 0


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_top1_is_the_best_chosen_not_the_best(backend: str) -> None:
    # A bias chose experts 0 and 1 although 3 is the most probable.
    r = one_token([0, 1, 2, 5], [0, 1], selection=np.array([[[2, 2.5, 0.1, 0.9]]], np.float32))
    t = tally(on_mlx(r) if backend == "mlx" else r)
    assert np.asarray(t.top1_counts).tolist() == [[0, 1, 0, 0]]
    assert scalar(t, "selection_margin") == pytest.approx(2 - 0.9, rel=1e-6)
    p = np.exp([2.0, 5.0]) / np.exp([0.0, 1.0, 2.0, 5.0]).sum()
    assert scalar(t, "margin_prob") == pytest.approx(p[1] - p[0], rel=1e-5)
    without = tally(replace(r, selection=None))
    assert scalar(without, "selection_margin") < 0


def test_top1_is_chosen_even_where_p_vanishes() -> None:
    t = tally(one_token([1e4, 0, 0, 0], [3, 2], selection=np.array([[[0, 0, 1, 1]]], np.float32)))
    assert t.p_sum.tolist() == [[1, 0, 0, 0]]
    assert t.top1_counts.tolist() == [[0, 0, 1, 0]]


def test_dropped_groups_leave_no_rival() -> None:
    # Experts 2 and 3 were ruled out, 0 and 1 chosen: there was no margin to measure.
    t = tally(one_token([0, 1, 2, 3], [0, 1], selection=np.array([[[0.5, 0.6, -np.inf, -np.inf]]], np.float32)))
    assert math.isnan(scalar(t, "selection_margin"))
    t = tally(one_token([0, 1, 2, 3], [0, 1], selection=np.array([[[0.5, 0.6, 0.2, -np.inf]]], np.float32)))
    assert scalar(t, "selection_margin") == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_extreme_logits(backend: str) -> None:
    r = one_token([1e4, -1e4, 0, -np.inf], [0, 2])
    t = tally(on_mlx(r) if backend == "mlx" else r)
    assert np.asarray(t.p_sum).tolist() == [[1, 0, 0, 0]]
    assert scalar(t, "entropy") == 0
    assert scalar(t, "margin_prob") == 1
    assert scalar(t, "z_squared") == pytest.approx(1e8)
    assert int(np.asarray(t.non_finite)[0]) == 0


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_sigmoid_rule_is_stable(backend: str) -> None:
    # Every sigmoid(z) underflows, so that dividing by their sum would give NaN; in logarithms p = softmax(z).
    r = one_token([-1e4, -1e4 + 1, -1e4 + 1, -np.inf], [1, 2], distribution="sigmoid_normalised")
    t = tally(on_mlx(r) if backend == "mlx" else r)
    e = np.array([1, math.e, math.e, 0])
    np.testing.assert_allclose(np.asarray(t.p_sum), [e / e.sum()], rtol=1e-5)
    r = one_token([1e4, 1e4, 1e4, -1e4], [0, 1], distribution="sigmoid_normalised")
    t = tally(on_mlx(r) if backend == "mlx" else r)
    np.testing.assert_allclose(np.asarray(t.p_sum), [[1 / 3, 1 / 3, 1 / 3, 0]], rtol=1e-6)
    assert scalar(t, "entropy") == pytest.approx(math.log(3), rel=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["logits", "weights"])
def test_non_finite_is_counted_and_refused(backend: str, bad: float, field: str) -> None:
    r = random_routing(4, (2, 5))
    getattr(r, field)[1, 2, 0] = bad
    getattr(r, field)[1, 4, 1] = bad
    with np.errstate(invalid="ignore"):
        t = tally(on_mlx(r) if backend == "mlx" else r)
    assert np.asarray(t.non_finite).tolist() == [0, 2]
    stats = RoutingStats([RouterSpec(3, 0, "mlp", 6, 2)])
    with pytest.raises(RoutingError, match=r"Layer 3 \(mlp\) gave non-finite .* for 2 of 10 tokens"):
        stats.add(0, [("x", 0), ("x", 1)], t)
    assert stats.clusters == []


def test_a_column_of_minus_infinity_is_an_expert_never_chosen() -> None:
    r = random_routing(5, (2, 8), experts=5, top_k=2)
    logits = np.concatenate([r.logits, np.full((2, 8, 1), -np.inf, np.float32)], axis=-1)
    t, narrow = tally(replace(r, logits=logits)), tally(r)
    assert t.non_finite.sum() == 0
    np.testing.assert_array_equal(t.scalars, narrow.scalars)
    np.testing.assert_array_equal(t.p_sum[:, :5], narrow.p_sum)
    assert t.counts[:, 5].sum() == t.p_sum[:, 5].sum() == 0


def test_adjacent_tokens_share_a_row_and_no_gap() -> None:
    indices = np.array([[[0, 1], [1, 0], [1, 2], [3, 2]], [[3, 2], [0, 1], [0, 1], [0, 1]]], np.int32)
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 1]], bool)
    r = Routing(np.zeros((2, 4, 4), np.float32), indices, np.full((2, 4, 2), 0.5, np.float32), mask, selection=None)
    t = tally(r)
    shared, pairs = (t.scalars[:, SCALARS.index(f"adjacent_{x}")].tolist() for x in ("shared", "pairs"))
    # Row 0: {0,1}{1,0} 2, {1,0}{1,2} 1, {1,2}{3,2} 1. Row 1: the gap hides two neighbours. Never from row to row.
    assert shared == [4, 2]
    assert pairs == [3, 1]


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_sums_do_not_depend_on_the_batch(backend: str) -> None:
    lengths = [5, 33, 64, 100]
    width = 140
    mask = np.arange(width) < np.array(lengths)[:, None]
    r = random_routing(6, (4, width), 8, 2, mask=mask)

    def run(rows: list[int], upto: int) -> dict[str, np.ndarray]:
        part = replace(r, **{k: getattr(r, k)[rows][:, :upto] for k in ("logits", "indices", "weights", "mask")})
        return host(tally(on_mlx(part) if backend == "mlx" else part))

    whole = run([0, 1, 2, 3], width)
    for rows, upto in (([3, 1, 0, 2], width), ([2], 64), ([2], 77), ([0, 1], 33), ([3, 3], 100)):
        got = run(rows, upto)
        for name in ("n_tokens", "counts", "top1_counts"):
            np.testing.assert_array_equal(got[name], whole[name][rows], err_msg=name)
        for name in SUMS:
            np.testing.assert_allclose(got[name], whole[name][rows], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("shape", "experts", "top_k"), [((4, 37), 8, 2), ((2, 1000), 64, 8), ((3, 1), 5, 1)])
def test_numpy_and_mlx_agree(rule: str, shape: tuple[int, int], experts: int, top_k: int) -> None:
    rng = np.random.default_rng(8)
    mask = rng.random(shape) < 0.9
    r = random_routing(9, shape, experts, top_k, rule, mask, bias=True)
    ours, theirs = host(tally(r)), host(tally(on_mlx(r)))
    for name in (*COUNTS, "selected"):
        np.testing.assert_array_equal(theirs[name], ours[name], err_msg=name)
    for name in SUMS:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_long_rows_keep_their_precision(backend: str) -> None:
    # Equal terms round the same way each time: summed one by one in float32 they would end 1e-5 off.
    r = random_routing(10, (1, 1), 4, 2)
    many = replace(r, **{k: np.repeat(getattr(r, k), 4096, axis=1) for k in ("logits", "indices", "weights", "mask")})
    one, t = tally(r), tally(on_mlx(many) if backend == "mlx" else many)
    np.testing.assert_allclose(np.asarray(t.p_sum), 4096 * one.p_sum.astype(float), rtol=1e-5)
    assert scalar(t, "entropy") == pytest.approx(4096 * scalar(one, "entropy"), rel=1e-5)


def test_log_distribution_is_normalised() -> None:
    z = (10 * np.random.default_rng(0).standard_normal((50, 9))).astype(np.float32)
    for rule in RULES:
        log_p, p, log_sum = log_distribution(z, rule)  # type: ignore[arg-type]
        np.testing.assert_allclose(p, np.exp(log_p.astype(np.float64)), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(np.exp(log_p.astype(np.float64)).sum(-1), 1, rtol=1e-5)
        np.testing.assert_allclose(log_sum, np.log(np.exp(z.astype(np.float64)).sum(-1)), rtol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_pairs_and_transitions_match_loops(backend: str) -> None:
    rng = np.random.default_rng(11)
    mask = rng.random((3, 12)) < 0.7
    a, b = random_routing(12, (3, 12), 6, 2, mask=mask), random_routing(13, (3, 12), 5, 3, mask=mask)
    ta, tb = (tally(on_mlx(x) if backend == "mlx" else x) for x in (a, b))
    pairs, transitions = np.zeros((6, 6)), np.zeros((6, 5))
    for row, position in zip(*np.nonzero(mask), strict=True):
        for i in a.indices[row, position]:
            for j in a.indices[row, position]:
                pairs[i, j] += 1
            for j in b.indices[row, position]:
                transitions[i, j] += 1
    np.testing.assert_array_equal(np.asarray(ta.pairs), pairs)
    np.testing.assert_array_equal(np.asarray(transition_counts(ta.selected, tb.selected)), transitions)


def test_selection_matrix_ignores_order_and_type() -> None:
    for dtype in (np.int32, np.int64, np.uint32):
        got = selection_matrix(np.array([[3, 0], [1, 2]], dtype), 4)
        assert got.tolist() == [[True, False, False, True], [False, True, True, False]]


def test_a_repeated_expert_breaks_the_invariant() -> None:
    r = random_routing(14, (1, 6))
    r.indices[0, 3] = [2, 2]
    stats = RoutingStats([RouterSpec(0, 0, "mlp", 6, 2)])
    with pytest.raises(RoutingError, match=r"counted 11 selections for 6 tokens x 2 experts"):
        stats.add(0, [("x", 0)], tally(r))
