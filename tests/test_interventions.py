"""Routers that are made to choose otherwise: what runs, what it is weighed with, and what is heard of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

from conftest import DAY_OR_NIGHT, NIGHTLY, build_tiny
from family_rows import BY_TYPE, FORMS, RUNNABLE, Row
from test_every_family import IDS, mixed_in
from watching import Recorder, Watch, forms, is_tapped, places, watch

from mlx_moebench.errors import MoebenchError
from mlx_moebench.instrument import attach, capture, routers_of
from mlx_moebench.instrument.changes import (
    InputNoise,
    Only,
    RandomExperts,
    Ranks,
    Reweighted,
    Temperature,
    Without,
)
from mlx_moebench.instrument.interventions import Choice, Said, changing, hearing_outputs
from mlx_moebench.instrument.taps import Swapped

import mlx.core as mx  # isort: skip


with_families = pytest.mark.parametrize(
    "row", [pytest.param(BY_TYPE[param.values[0]], id=param.values[0], marks=param.marks) for param in DAY_OR_NIGHT]
)
with_variants = pytest.mark.parametrize(
    ("row", "change"),
    [
        pytest.param(
            row,
            change,
            id=f"{row.model_type}-{n}" if n else row.model_type,
            marks=() if not n and row.model_type in FORMS.values() else NIGHTLY,
        )
        for row in RUNNABLE
        for n, change in enumerate(({}, *row.variants))
    ],
)


def unchanged(said: Said) -> Choice:
    return Choice(said.indices, said.routing().weights, said.logits)


def turned(said: Said) -> Choice:
    return Choice(said.indices[..., ::-1], said.routing().weights[..., ::-1], said.logits)


def made(row: Row, change: dict[str, Any]) -> Any:
    model = build_tiny(model_type=row.model_type, **change)
    if any(form.one_by_one for form in forms(model)):
        with pytest.raises(MoebenchError, match="one by one"), changing(model, unchanged):
            pass
        assert not is_tapped(model)
        pytest.skip("its blocks call the experts one by one")
    return model


@with_variants
def test_what_changes_nothing_is_bit_identical(row: Row, change: dict[str, Any]) -> None:
    model, ids = made(row, change), mx.array(IDS)
    before = model(ids)
    nobody = {number: np.zeros(spec.n_experts, bool) for number, spec in enumerate(routers_of(model))}
    for same in (lambda said: None, unchanged, Temperature(1.0), InputNoise(0.0, 0), Without(nobody), Only(turned, ())):
        with changing(model, same):
            assert mx.array_equal(model(ids), before), same
    assert not is_tapped(model)
    with changing(model, turned):
        np.testing.assert_allclose(np.array(model(ids)), np.array(before), atol=2e-5, rtol=1e-4)


CHANGES: dict[str, Any] = {
    "first dropped": Ranks(1),
    "first removed": Ranks(1, -1),
    "one more": Ranks(0, 1),
    "random first": RandomExperts(3),
    "all random": RandomExperts(3, all=True),
    "flat": Temperature(4.0),
    "noise": InputNoise(0.5, 1),
    "reweighted": Reweighted({n: np.linspace(0.5, 2.0, 64) for n in range(8)}),
}


@pytest.mark.parametrize("name", CHANGES)
@with_families
def test_the_block_sums_what_was_chosen_for_it(row: Row, name: str) -> None:
    """sum_j g'_j y_j of all experts computed apart, and what else the block gives."""
    model, ids, change = made(row, {}), mx.array(IDS), CHANGES[name]
    specs = routers_of(model)
    if name == "reweighted":
        change = Reweighted({n: np.linspace(0.5, 2.0, spec.n_experts) for n, spec in enumerate(specs)})
    fits = all(
        0 < spec.top_k + getattr(change, "more", 0) <= spec.n_experts - getattr(change, "first", 0) for spec in specs
    )
    if not fits or (row.scales_input and getattr(change, "more", 0)):
        with pytest.raises(MoebenchError, match=r"ranks|weighs what"), changing(model, change):
            model(ids)
        assert not is_tapped(model)
        return
    watched = [Watch(*place) for place in places(model)]
    latent = {n: watch(m) for n, m in model.named_modules() if n.endswith(("fc2_latent_proj", "routed_expert_norm"))}
    recorder, chosen = Recorder(), {}

    def noted(said: Said) -> Choice | None:
        chosen[said.number] = change(said)
        return chosen[said.number]

    with changing(model, noted), capture(model, recorder):
        model(ids)
    sums = [calls[0][0][0] for _, calls in sorted(latent.items())]
    differs = 0.0
    for number, _, indices, _ in recorder.calls:
        seen, spec, choice = watched[number], specs[number], chosen[number]
        k = choice.indices.shape[-1]
        assert mx.array_equal(indices.reshape(-1, k), choice.indices.reshape(-1, k))
        g, x = choice.weights.reshape(-1, k), seen.block[0][0][0]
        y = seen.outputs(k)
        output, rest = (one[0] if isinstance(one, tuple) else one for one in (seen.block[0][1], seen.silent()))
        if row.zero_experts:
            is_zero = choice.indices.reshape(-1, k) >= spec.n_experts - row.zero_experts
            y, rest = mx.where(is_zero[..., None], x.reshape(-1, 1, 64), y), mx.zeros_like(output)
        expected = y.sum(axis=-2) if row.scales_input else (g[..., None] * y).sum(axis=-2)
        actual = sums[number].reshape(expected.shape) if sums else (output - rest).reshape(-1, 64)
        expected = mixed_in(seen) * expected.reshape(*ids.shape, -1)
        np.testing.assert_allclose(expected, actual.reshape(expected.shape), atol=2e-5)
        differs += float(mx.abs(choice.weights).sum())
    assert differs > 0


def test_what_has_no_place_is_added_where_the_weight_is_largest() -> None:
    """Weights of the block of exactly 0 carry nothing; outputs come back as if they did."""
    y = mx.random.normal((2, 3, 4, 5), key=mx.random.key(0))
    given = mx.array([[[0.0, 0.7, 0.3]] * 3] * 2)
    weights = mx.array([[[0.4, 0.1, 0.2, 0.3]] * 3] * 2)
    swapped = Swapped(mx.zeros((2, 3, 9)), mx.zeros((2, 3, 4), mx.int32), weights, given)
    raw, back = swapped.run(lambda x, i: y, mx.zeros((2, 3, 5)))
    assert mx.array_equal(raw, y)
    np.testing.assert_allclose((given[..., None] * back).sum(-2), (weights[..., None] * y).sum(-2), atol=1e-6)


@pytest.mark.parametrize("kind", [FORMS[form] for form in ("softmax_topk", "topk_softmax", "sigmoid_bias")])
def test_masking_an_expert_that_nobody_chose(kind: str) -> None:
    """Zero: bit-identical. Around: the same for those that normalise; else the others' weights grow by 1/(1 - p)."""
    model, ids, recorder = build_tiny(model_type=kind), mx.array([[5, 17]]), Recorder()
    with capture(model, recorder) as taps:
        before = model(ids)
    counts = [np.bincount(np.array(i).ravel(), minlength=z.shape[-1]) for _, z, i, _ in recorder.calls]
    unused = {n: c == 0 for n, c in enumerate(counts)}
    last = max(n for n, gone in unused.items() if gone.any())
    with changing(model, Without(unused, "zero")):
        assert mx.array_equal(model(ids), before)
    seen: dict[int, Choice | None] = {}
    around = Without({last: unused[last]})

    def noted(said: Said) -> Choice | None:
        seen[said.number] = around(said)
        return seen[said.number]

    with changing(model, noted):
        after = model(ids)
    _, z, i, _ = recorder.calls[last]
    mask = mx.ones(ids.shape, dtype=mx.bool_)
    old = np.array(taps.routing(last, z, i, mask).weights).reshape(-1, i.shape[-1])
    new = np.array(seen[last].weights).reshape(old.shape)  # type: ignore[union-attr]
    assert mx.array_equal(seen[last].indices.flatten(), i.flatten())  # type: ignore[union-attr]
    p = np.array(mx.softmax(z, axis=-1)).reshape(-1, z.shape[-1])
    grown = 1 / (1 - p[:, unused[last]].sum(-1, keepdims=True))
    normalises = np.allclose(old.sum(-1), old.sum(-1)[0], atol=1e-5)
    np.testing.assert_allclose(new, old if normalises else old * grown, rtol=1e-5)
    assert normalises or grown.max() > 1.001
    assert not normalises or np.allclose(after, before, atol=1e-5)


def by_hand() -> Any:
    """One token, four experts of logits 0, 1, 2, 3: softmax, top-2, not normalised."""
    return build_tiny(model_type="olmoe", num_experts=4, num_experts_per_tok=2, norm_topk_prob=False)


def test_dropping_ranks_by_hand() -> None:
    model, chosen = by_hand(), []
    z = mx.array([0.0, 1.0, 2.0, 3.0])
    p = np.exp([0.0, 1, 2, 3]) / np.exp([0.0, 1, 2, 3]).sum()

    def of_these(said: Said) -> Choice:
        fixed = Said(said.number, said.spec, mx.broadcast_to(z, said.logits.shape), said.indices, said.x, said._router)
        chosen.append((Ranks(1)(fixed), Ranks(2)(fixed), Ranks(1, -1)(fixed), Ranks(0, 1)(fixed)))
        return chosen[-1][0]

    with changing(model, of_these):
        model(mx.array([[7]]))
    for choices in chosen:
        for choice, experts in zip(choices, ([2, 1], [1, 0], [2], [3, 2, 1]), strict=True):
            assert choice.indices.flatten().tolist() == experts
            np.testing.assert_allclose(choice.weights.flatten(), p[experts], rtol=1e-5)


def test_statistics_are_of_what_ran() -> None:
    model, ids = build_tiny(model_type="olmoe"), mx.array(IDS)
    gone = {n: np.arange(spec.n_experts) < 2 for n, spec in enumerate(routers_of(model))}
    with changing(model, Without(gone)), attach(model) as stats:
        model(ids)
    for number, spec in enumerate(stats.specs):
        assert stats.totals(number).counts[:2].sum() == 0
        assert stats.totals(number).counts.sum() == ids.size * spec.top_k
    assert stats.report()["routers"][0]["dead_experts"] >= 2
    with changing(model, unchanged), pytest.raises(MoebenchError, match="changed already"), changing(model, unchanged):
        pass
    assert not is_tapped(model)


def test_outputs_are_those_the_experts_returned() -> None:
    model, ids, heard = build_tiny(model_type="deepseek_v3"), mx.array(IDS), []
    watched = [Watch(*place) for place in places(model)]
    with hearing_outputs(model, lambda *what: heard.append(what)), attach(model) as stats:
        model(ids)
    assert [number for number, *_ in heard] == list(range(len(stats.specs)))
    for (_, _, indices, y, shape), seen in zip(heard, watched, strict=True):
        assert shape == ids.shape
        assert mx.array_equal(y.reshape(-1, *y.shape[-2:]), seen.outputs(indices.shape[-1]))
    assert not is_tapped(model)
