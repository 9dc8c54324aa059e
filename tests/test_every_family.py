"""What the taps promise, for every model type: outputs, choices, weights, conversions, transformations, threads."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

from conftest import build_tiny, few_forms, row_of
from family_rows import RUNNABLE, Row
from watching import Recorder, Watch, classes, forms, gates, is_linear, is_tapped, places, top_of, unwatch, watch

from mlx_moebench.families.base import module_at
from mlx_moebench.instrument import attach, capture, is_traced, routers_of
from mlx_moebench.routing.tally import log_distribution
from mlx_moebench.routing.tokens import token_routing
from mlx_moebench.train.lora import lora_keys

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
from mlx.utils import tree_flatten, tree_unflatten  # isort: skip
from mlx_lm.generate import generate_step  # isort: skip
from mlx_lm.models.switch_layers import QuantizedSwitchLinear  # isort: skip
from mlx_lm.tuner.lora import LoRASwitchLinear  # isort: skip
from mlx_lm.tuner.utils import linear_to_lora_layers, remove_lora_layers  # isort: skip

IDS = [[5, 17, 250, 3, 88, 41, 9], [301, 2, 2, 76, 130, 4, 12]]
LORA = {"rank": 4, "scale": 20.0, "dropout": 0.0}
with_variants = pytest.mark.parametrize(
    ("row", "change"),
    [
        pytest.param(row, change, id=f"{row.model_type}-{n}" if n else row.model_type)
        for row in RUNNABLE
        for n, change in enumerate(({}, *row.variants))
    ],
)


@pytest.fixture
def ids() -> mx.array:
    return mx.array(IDS)


def linear(model: nn.Module) -> nn.Module:
    """The model, or a skipped test where its gates are no linear layers."""
    if not is_linear(model):
        pytest.skip("its gates hold their weight themselves: nothing quantises or adapts them")
    return model


# -- what is seen ----------------------------------------------------------------------------------------------------


def test_taps_change_no_output_and_no_parameter(shared_model: nn.Module, ids: mx.array) -> None:
    model = shared_model
    before, keys, kinds = model(ids), tree_flatten(model.parameters()), classes(model)
    trainable = [k for k, _ in tree_flatten(model.trainable_parameters())]
    recorder = Recorder()
    with capture(model, recorder) as taps:
        assert mx.array_equal(model(ids), before)
        assert [k for k, _ in tree_flatten(model.parameters())] == [k for k, _ in keys]
        assert [k for k, _ in tree_flatten(model.trainable_parameters())] == trainable
        assert all(type(gate).__name__.endswith("Tapped") for gate in gates(model))
    assert classes(model) == kinds
    assert not is_tapped(model)
    assert mx.array_equal(model(ids), before)
    assert [number for number, *_ in recorder.calls] == list(range(len(taps.specs)))
    assert {shape for *_, shape in recorder.calls} == {(2, 7)}
    assert taps.specs == tuple(routers_of(model))
    row = row_of(model)
    assert [(s.layer, s.moe_layer, s.router, s.n_experts - row.zero_experts, s.top_k) for s in taps.specs] == row.specs


@with_variants
def test_logits_and_indices_are_what_the_modules_saw(row: Row, change: dict[str, Any], ids: mx.array) -> None:
    model, recorder = build_tiny(model_type=row.model_type, **change), Recorder()
    watched = [Watch(*place) for place in places(model)]
    with capture(model, recorder):
        model(ids)
    assert len(recorder.calls) == len(watched)
    for (_, logits, indices, _), seen, form in zip(recorder.calls, watched, forms(model), strict=True):
        (x, *_), returned = seen.gate[0]
        logits, indices = logits.reshape(-1, logits.shape[-1]), indices.reshape(-1, indices.shape[-1])
        if form.seam == "linear":
            assert mx.array_equal(logits, returned.reshape(logits.shape))
        else:
            weight = np.array(module_at(seen.block_module, form.gate.partition(".")[2]).weight, np.float64)
            z = np.array(x, np.float64).reshape(-1, weight.shape[-1]) @ weight.T
            np.testing.assert_allclose(np.array(logits), z, atol=1e-5)
            assert mx.array_equal(indices, returned[0].reshape(indices.shape))
        received = seen.received(indices.shape[-1])
        # A zero expert is no expert: in its place expert 0 is called, with weight 0.
        assert mx.array_equal(received, mx.where(indices < logits.shape[-1] - row.zero_experts, indices, 0))
    assert not is_tapped(model)


def mixed_in(seen: Watch) -> mx.array | float:
    """The share of its experts' sum in a block's output, where the block learns it: 1 for all but one family."""
    mixture = getattr(seen.block_module, "coefficient", None)
    return 1.0 if mixture is None else mx.softmax(mixture(seen.block[0][0][0]), axis=-1)[..., :1]


@with_variants
def test_block_output_is_the_weighted_sum_of_expert_outputs(row: Row, change: dict[str, Any], ids: mx.array) -> None:
    model, recorder = build_tiny(model_type=row.model_type, **change), Recorder()
    watched = [Watch(*place) for place in places(model)]
    # In latent experts the sum is what is projected up again.
    after = {
        name: watch(module)
        for name, module in model.named_modules()
        if name.endswith(("fc2_latent_proj", "routed_expert_norm"))
    }
    with capture(model, recorder) as taps:
        model(ids)
    sums = [calls[0][0][0] for _, calls in sorted(after.items())]
    for number, logits, indices, _ in recorder.calls:
        seen, spec = watched[number], taps.specs[number]
        g = taps.routing(number, logits, indices, mx.ones(ids.shape, dtype=mx.bool_)).weights.reshape(-1, spec.top_k)
        x, output = seen.block[0][0][0], seen.block[0][1]
        y = seen.outputs(spec.top_k)
        output, rest = (made[0] if isinstance(made, tuple) else made for made in (output, seen.silent()))
        if row.zero_experts:
            is_zero = indices.reshape(g.shape) >= spec.n_experts - row.zero_experts
            assert is_zero.any()
            assert not is_zero.all()
            y = mx.where(is_zero[..., None], x.reshape(-1, 1, 64), y)
            # Without experts, what is left are the zero experts.
            np.testing.assert_allclose(rest.reshape(-1, 64), ((g * is_zero)[..., None] * y).sum(-2), atol=1e-5)
            rest = mx.zeros_like(output)
        if row.scales_input:
            np.testing.assert_allclose(seen.experts[0][0][0].reshape(-1, 64), g * x.reshape(-1, 64), atol=1e-6)
            expected = y.sum(axis=-2)
        else:
            expected = (g[..., None] * y).sum(axis=-2)
        actual = sums[number].reshape(expected.shape) if sums else (output - rest).reshape(-1, 64)
        np.testing.assert_allclose(
            mixed_in(seen) * expected.reshape(*ids.shape, -1), actual.reshape(*ids.shape, -1), atol=1e-5
        )
        # Wrong weights would show: the experts contribute, and not evenly.
        assert mx.abs(output - rest).max() > 1e-2
        assert spec.top_k == 1 or (g.max(axis=-1) - g.min(axis=-1)).max() > 0.1


@with_variants
def test_what_was_ranked_ranks_what_was_chosen(row: Row, change: dict[str, Any], ids: mx.array) -> None:
    model, recorder = build_tiny(model_type=row.model_type, **change), Recorder()
    with capture(model, recorder) as taps:
        model(ids)
    for number, logits, indices, _ in recorder.calls:
        routing = taps.routing(number, logits, indices, mx.ones(ids.shape, dtype=mx.bool_))
        k = indices.shape[-1]
        p = np.array(log_distribution(routing.logits, routing.distribution)[1])
        np.testing.assert_allclose(p.sum(axis=-1), 1, atol=1e-5)
        assert routing.distribution == taps.specs[number].distribution
        ranked = p if routing.selection is None else np.array(routing.selection)
        ordered, margin = np.sort(ranked, axis=-1), np.array(token_routing(routing).selection_margin)
        np.testing.assert_array_equal(margin, ordered[..., -k] - ordered[..., -k - 1])
        # Between equal scores, such as the fill of dropped groups, any may win.
        untied = margin > 0
        assert untied.mean() > 0.5
        np.testing.assert_array_equal(top_of(ranked, k)[untied], np.sort(np.array(routing.indices), axis=-1)[untied])


@with_variants
def test_where_scores_are_biased_or_limited_the_best_logits_are_not_what_was_chosen(
    row: Row, change: dict[str, Any]
) -> None:
    """A choice that is made again of the logits, or of p, is wrong for many tokens; the captured one never is."""
    ids = mx.array(np.random.default_rng(0).integers(1, 320, (3, 12)))
    model, recorder = build_tiny(model_type=row.model_type, **change), Recorder()
    watched = [Watch(*place) for place in places(model)]
    with capture(model, recorder) as taps:
        model(ids)
    n = wrong = 0
    for (number, logits, indices, _), seen in zip(recorder.calls, watched, strict=True):
        routing = taps.routing(number, logits, indices, mx.ones(ids.shape, dtype=mx.bool_))
        spec = taps.specs[number]
        k, e = spec.top_k, spec.n_experts - row.zero_experts
        received = np.sort(np.where(top_of(routing.logits, k) < e, top_of(routing.logits, k), 0), axis=-1)
        actual = np.sort(np.array(seen.received(k)).reshape(received.shape), axis=-1)
        captured = np.array(routing.indices)
        np.testing.assert_array_equal(np.sort(np.where(captured < e, captured, 0), axis=-1), actual)
        again = (received != actual).any(axis=-1)
        # p ranks as the logits do, whatever the rule.
        p = log_distribution(routing.logits, routing.distribution)[1]
        np.testing.assert_array_equal(top_of(p, k), top_of(routing.logits, k))
        n, wrong = n + again.size, wrong + int(again.sum())
        if place_bias := row.places[0].bias:
            bias = module_at(model.layers[spec.layer], place_bias)
            assert bias.min() < 0 < bias.max()
    ranked_otherwise = routing.selection is not None
    assert wrong > 0.1 * n if ranked_otherwise else wrong == 0


# -- counts, phases, threads -----------------------------------------------------------------------------------------


def test_every_router_counts_tokens_times_k(shared_model: nn.Module) -> None:
    model, ids = shared_model, np.random.default_rng(3).integers(1, 320, (3, 9))
    with attach(model) as stats:
        model(mx.array(ids))
    for number, spec in enumerate(stats.specs):
        assert stats.totals(number).counts.sum() == ids.size * spec.top_k
        assert (stats.pairs(number) == stats.pairs(number).T).all()
    frame, report = stats.to_dataframe(), stats.report()
    assert list(zip(frame["layer"], frame["router"], strict=True)) == [(s.layer, s.router) for s in stats.specs]
    assert set(frame["n_tokens"]) == {ids.size}
    assert [r["distribution"] for r in report["routers"]] == [s.distribution for s in stats.specs]
    # The next router is the one that runs next, be it in the same block.
    moves = [stats.transition_counts(number) for number in range(len(stats.specs) - 1)]
    assert all(m.sum() == ids.size * s.top_k**2 for m, s in zip(moves, stats.specs, strict=False))
    assert not is_tapped(model)


def test_generation_is_unchanged_and_every_step_is_seen(shared_model: nn.Module) -> None:
    def tokens() -> list[int]:
        steps = generate_step(mx.array(IDS[0]), shared_model, max_tokens=3, prefill_step_size=3)
        return [int(token) for token, _ in steps]

    expected, recorder = tokens(), Recorder()
    with capture(shared_model, recorder), attach(shared_model) as stats:
        assert tokens() == expected
    # Nobody said what was prompt: whichever layers have a cache, it is neither that nor generated.
    assert [stats.phase_stats(phase).n_tokens for phase in ("prefill", "decode")] == [0, 0]
    assert stats.phase_stats("unsplit").n_tokens == len(IDS[0]) + 3  # MLX is one step ahead
    for router in range(len(routers_of(shared_model))):
        shapes = [shape for number, *_, shape in recorder.calls if number == router]
        assert shapes[:4] == [(1, 3), (1, 3), (1, 1), (1, 1)]


def test_one_attached_inside_another_and_both_count(form_model: nn.Module, ids: mx.array) -> None:
    kinds, before = classes(form_model), form_model(ids)
    with attach(form_model) as outer:
        form_model(ids)
        with attach(form_model) as inner:
            assert mx.array_equal(form_model(ids), before)
        form_model(ids)
    assert (outer.n_tokens, inner.n_tokens) == (3 * ids.size, ids.size)
    assert classes(form_model) == kinds


def test_what_another_thread_ran_and_closed_is_read_in_this_one(form_model: nn.Module, ids: mx.array) -> None:
    """Arrays of MLX are evaluated in the thread that made them: so it is the thread that measures that closes."""
    before, made = np.array(form_model(ids)), []

    def run() -> None:
        with attach(form_model) as stats:
            made.append((np.array(form_model(ids)), stats))

    thread = Thread(target=run)
    thread.start()
    thread.join()
    ((after, stats),) = made
    np.testing.assert_array_equal(after, before)
    assert [stats.totals(n).counts.sum() for n in range(len(stats.specs))] == [ids.size * s.top_k for s in stats.specs]
    assert not is_tapped(form_model)


def test_weights_saved_while_tapped_load_into_an_untapped_model(
    make_form: Callable[..., Any], ids: mx.array, tmp_path: Path
) -> None:
    model, other, third = make_form(), make_form(seed=1), make_form(seed=1)
    with capture(model, Recorder()):
        model.save_weights(str(tmp_path / "w.safetensors"))
        other.load_weights(str(tmp_path / "w.safetensors"))
    assert mx.array_equal(model(ids), other(ids))
    assert not mx.array_equal(model(ids), third(ids))


# -- conversions -----------------------------------------------------------------------------------------------------


def packed(path: str, module: nn.Module) -> bool:
    """What can be quantised, without layers whose weight mlx-lm uses as an array (Kimi K3)."""
    can = hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0
    return can and not path.endswith("res_proj")


def test_quantising_a_tapped_model_keeps_the_taps(make_form: Callable[..., Any], ids: mx.array) -> None:
    model, reference, recorder = make_form(), make_form(), Recorder()
    nn.quantize(reference, group_size=32, bits=8, class_predicate=packed)
    with capture(model, recorder):
        nn.quantize(model, group_size=32, bits=8, class_predicate=packed)
        assert mx.array_equal(model(ids), reference(ids))
    first = recorder.take()
    assert classes(model) == classes(reference)
    # A gate with a weight of its own stays as it is.
    bits = 8 if all(form.seam == "linear" for form in forms(model)) else 32
    assert {isinstance(gate, nn.QuantizedLinear) for gate in gates(model)} == {bits == 8}
    assert {s.router_bits for s in routers_of(model)} == {bits}
    assert any(isinstance(module, QuantizedSwitchLinear | nn.QuantizedLinear) for module in model.modules())
    assert len(first) == len(routers_of(model))
    with capture(model, recorder):
        model(ids)
    for (_, z, i, _), (_, z2, i2, _) in zip(first, recorder.take(), strict=True):
        assert mx.array_equal(z, z2)
        assert mx.array_equal(i, i2)


def on_gates(model: nn.Module) -> dict[str, Any]:
    """Settings of LoRA on every gate."""
    return LORA | {"keys": sorted({form.gate for form in forms(model)})}


@pytest.mark.parametrize("quantised", [False, True])
def test_lora_on_a_tapped_gate_records_the_adapted_logits(
    form_model: nn.Module, ids: mx.array, quantised: bool
) -> None:
    model = linear(form_model)
    if quantised:
        nn.quantize(model, group_size=32, bits=8, class_predicate=packed)
    recorder, specs = Recorder(), routers_of(model)
    with capture(model, recorder):
        plain = model(ids)
        before = recorder.take()[0][1]
        linear_to_lora_layers(model, len(model.layers), on_gates(model))
        for gate in gates(model):
            assert type(gate).__name__ == "LoRALinearTapped"
            gate.lora_b = mx.random.normal(gate.lora_b.shape, key=mx.random.key(7)) / 20
        assert routers_of(model) == specs
        seen = [watch(gate) for gate in gates(model)]
        adapted = model(ids)
        after = recorder.take()
        unwatch(model)
        assert [number for number, *_ in after] == list(range(len(specs)))
        assert all(mx.array_equal(logits, calls[0][1]) for (_, logits, _, _), calls in zip(after, seen, strict=True))
        assert mx.abs(after[0][1] - before).max() > 0.1

        fused = [(k, m.fuse(dequantize=True)) for k, m in model.named_modules() if hasattr(m, "fuse")]
        model.update_modules(tree_unflatten(fused))
        assert {type(gate).__name__ for gate in gates(model)} == {"LinearTapped"}
        np.testing.assert_allclose(model(ids), adapted, atol=1e-3)
        assert not mx.allclose(plain, adapted, atol=1e-3)
        for (_, fused_logits, _, _), (_, logits, _, _) in zip(recorder.take(), after, strict=True):
            np.testing.assert_allclose(fused_logits, logits, atol=1e-3)
    assert not is_tapped(model)


def test_quantising_under_lora_and_removing_lora_keep_the_taps(form_model: nn.Module, ids: mx.array) -> None:
    model = linear(form_model)
    recorder, count = Recorder(), len(routers_of(model))
    with capture(model, recorder):
        linear_to_lora_layers(model, len(model.layers), on_gates(model))
        nn.quantize(model, group_size=32, bits=8, class_predicate=packed)
        assert all(isinstance(gate.linear, nn.QuantizedLinear) for gate in gates(model))
        model(ids)
        assert len(recorder.take()) == count
        remove_lora_layers(model)
        model(ids)
        assert len(recorder.take()) == count
    assert not is_tapped(model)


def test_lora_and_fusing_of_all_linear_layers_keep_the_taps(form_model: nn.Module, ids: mx.array) -> None:
    model, recorder, count = form_model, Recorder(), len(routers_of(form_model))
    adapted_gates = is_linear(model)
    with capture(model, recorder):
        keys = lora_keys(model, -1, None, [])
        linear_to_lora_layers(model, len(model.layers), LORA | {"keys": keys})
        if adapted_gates:  # once, not once for the tap and once for the layer in it
            assert {type(gate.linear).__name__ for gate in gates(model)} == {"LinearTapped"}
        for module in model.modules():
            if isinstance(module, LoRASwitchLinear):
                module.lora_b = mx.random.normal(module.lora_b.shape, key=mx.random.key(7)) / 100
        adapted = model(ids)
        assert len(recorder.take()) == count
        fused = [(k, m.fuse(dequantize=True)) for k, m in model.named_modules() if hasattr(m, "fuse")]
        model.update_modules(tree_unflatten(fused))
        np.testing.assert_allclose(model(ids), adapted, atol=1e-3)
        assert len(recorder.take()) == count
    assert not is_tapped(model)


# -- transformations -------------------------------------------------------------------------------------------------


def test_gradients_are_unchanged_and_what_was_seen_stays_readable(form_model: nn.Module, ids: mx.array) -> None:
    def loss(model: nn.Module) -> mx.array:
        return (model(ids) ** 2).mean()

    row = row_of(form_model)
    if row.no_gradient:
        with pytest.raises(ValueError, match=re.escape(row.no_gradient)):
            nn.value_and_grad(form_model, loss)(form_model)
        return
    step, recorder = nn.value_and_grad(form_model, loss), Recorder()
    mx.eval(form_model(ids))  # Kimi K3 keeps products of its weights from its first forward on
    value, gradients = step(form_model)
    mx.eval(value, gradients)
    with capture(form_model, recorder):
        tapped_value, tapped_gradients = step(form_model)
        mx.eval(tapped_value, tapped_gradients)
    assert mx.array_equal(value, tapped_value)
    for (name, a), (_, b) in zip(tree_flatten(gradients), tree_flatten(tapped_gradients), strict=True):
        assert mx.array_equal(a, b)
        for place in row.places:
            if name.endswith(f".{place.gate}.weight"):
                assert mx.abs(a).max() > 0, f"no gradient reaches {name}"
            if place.bias and name.endswith(f".{place.bias}"):
                assert mx.abs(a).max() == 0, "it only chooses"
    assert len(recorder.calls) == len(routers_of(form_model))
    assert not is_traced(*(array for _, z, i, _ in recorder.calls for array in (z, i)))
    assert np.isfinite(np.array(recorder.calls[0][1])).all()


def test_under_gradient_checkpointing_the_sink_is_called_again(form_model: nn.Module, ids: mx.array) -> None:
    def forward(parameters: Any) -> mx.array:
        form_model.update(parameters)
        return (form_model(ids) ** 2).mean()

    if row_of(form_model).no_gradient:
        pytest.skip("MLX has no gradient of it: the test above")
    parameters, recorder = form_model.trainable_parameters(), Recorder()
    mx.eval(form_model(ids))
    expected, expected_gradients = mx.value_and_grad(forward)(parameters)
    with capture(form_model, recorder):
        value, gradients = mx.value_and_grad(mx.checkpoint(forward))(parameters)
        mx.eval(value, gradients)
    assert mx.array_equal(value, expected)
    for (_, a), (_, b) in zip(tree_flatten(gradients), tree_flatten(expected_gradients), strict=True):
        assert mx.array_equal(a, b)
    assert [number for number, *_ in recorder.calls] == [*range(len(routers_of(form_model)))] * 2
    assert not is_traced(*(logits for _, logits, _, _ in recorder.calls))


@pytest.fixture
def compiling() -> Iterator[None]:
    if mx.default_device() == mx.Device(mx.cpu) and shutil.which("g++") is None:
        pytest.skip("mx.compile on a CPU needs g++")
    mx.enable_compile()
    yield
    mx.disable_compile()


@few_forms
@pytest.mark.usefixtures("compiling")
def test_compiling_is_unchanged_and_placeholders_are_recognised(form_model: nn.Module, ids: mx.array) -> None:
    def forward(x: mx.array) -> mx.array:
        return form_model(x)

    if reason := row_of(form_model).uncompilable:
        with pytest.raises(ValueError, match=reason):
            mx.compile(forward)(ids)
        with capture(form_model, Recorder()), pytest.raises(ValueError, match=reason):
            mx.compile(lambda x: forward(x))(ids)
        assert not is_tapped(form_model)
        return
    count = len(routers_of(form_model))
    plain = mx.compile(forward)(ids)
    inside: list[bool] = []
    recorder = Recorder()

    def sink(number: int, logits: mx.array, indices: mx.array, shape: tuple[int, ...]) -> None:
        inside.append(is_traced(logits, indices))
        recorder(number, logits, indices, shape)

    with capture(form_model, sink):
        compiled = mx.compile(lambda x: forward(x))
        assert mx.array_equal(compiled(ids), plain)
        assert inside == [True] * count
        assert mx.array_equal(compiled(ids), plain)  # Python does not run again
        assert len(recorder.calls) == count
        assert all(is_traced(logits) and is_traced(indices) for _, logits, indices, _ in recorder.take())
        form_model(ids)
        assert not any(is_traced(logits, indices) for _, logits, indices, _ in recorder.take())
    assert mx.array_equal(compiled(ids), plain)
