"""Taps: they see what the routers did, change nothing, survive conversions and come off without a trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench.errors import RoutingError, UnsupportedModelError
from mlx_moebench.families import family_for
from mlx_moebench.instrument import capture, detach, is_traced, routers_of, routing_from

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
from mlx.utils import tree_flatten, tree_unflatten  # isort: skip
from mlx_lm.generate import generate_step  # isort: skip
from mlx_lm.models import llama  # isort: skip
from mlx_lm.tuner.utils import linear_to_lora_layers, remove_lora_layers  # isort: skip

IDS = [[5, 17, 250, 3, 88, 41, 9], [301, 2, 2, 76, 130, 4, 12]]
LORA = {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["mlp.gate"]}


class Recorder:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, mx.array, mx.array, tuple[int, ...]]] = []

    def __call__(self, number: int, logits: mx.array, indices: mx.array, shape: tuple[int, ...]) -> None:
        self.calls.append((number, logits, indices, shape))

    def take(self) -> list[tuple[int, mx.array, mx.array, tuple[int, ...]]]:
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def ids() -> mx.array:
    return mx.array(IDS)


@pytest.fixture
def compiling() -> Iterator[None]:
    if mx.default_device() == mx.Device(mx.cpu) and shutil.which("g++") is None:
        pytest.skip("mx.compile on a CPU needs g++")
    mx.enable_compile()
    yield
    mx.disable_compile()


def classes(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def gate_input(model: nn.Module, ids: mx.array) -> mx.array:
    """What the gate of layer 0 is called with, computed beside the model's own forward. [B * S, D]."""
    layer, h = model.layers[0], model.model.embed_tokens(ids)
    h = h + layer.self_attn(layer.input_layernorm(h), "causal", None)
    return layer.post_attention_layernorm(h).reshape(-1, h.shape[-1])


def is_tapped(model: nn.Module) -> bool:
    return any("_moebench_tap" in vars(m) or type(m).__name__.endswith("Tapped") for m in model.modules())


def test_routers_of_states_the_facts(tiny_model: nn.Module) -> None:
    specs = routers_of(tiny_model)
    assert [(s.layer, s.moe_layer, s.router) for s in specs] == [(0, 0, "mlp"), (1, 1, "mlp"), (2, 2, "mlp")]
    assert {(s.n_experts, s.top_k, s.distribution, s.router_bits) for s in specs} == {(8, 2, "softmax", 32)}
    tiny_model.set_dtype(mx.bfloat16)
    assert {s.router_bits for s in routers_of(tiny_model)} == {16}


def test_taps_change_no_output_and_no_parameter(tiny_model: nn.Module, ids: mx.array) -> None:
    before, keys, kinds = tiny_model(ids), tree_flatten(tiny_model.parameters()), classes(tiny_model)
    trainable = [k for k, _ in tree_flatten(tiny_model.trainable_parameters())]
    recorder = Recorder()
    with capture(tiny_model, recorder) as taps:
        assert mx.array_equal(tiny_model(ids), before)
        assert [k for k, _ in tree_flatten(tiny_model.parameters())] == [k for k, _ in keys]
        assert [k for k, _ in tree_flatten(tiny_model.trainable_parameters())] == trainable
        assert "LinearTapped(input_dims=64" in repr(tiny_model.layers[0].mlp.gate)
    assert classes(tiny_model) == kinds
    assert not is_tapped(tiny_model)
    assert mx.array_equal(tiny_model(ids), before)
    assert [number for number, *_ in recorder.calls] == [0, 1, 2]
    assert {shape for *_, shape in recorder.calls} == {(2, 7)}
    assert len(taps.specs) == 3


def test_logits_are_what_the_gate_returned(tiny_model: nn.Module, ids: mx.array) -> None:
    recorder = Recorder()
    with capture(tiny_model, recorder):
        tiny_model(ids)
    expected = tiny_model.layers[0].mlp.gate(gate_input(tiny_model, ids))
    np.testing.assert_allclose(recorder.calls[0][1], expected, atol=1e-5)


@pytest.mark.parametrize("normalised", [False, True])
def test_block_output_is_the_weighted_sum_of_expert_outputs(
    make_tiny: Callable[..., Any], ids: mx.array, normalised: bool
) -> None:
    model = make_tiny(norm_topk_prob=normalised)
    block, recorder = model.layers[1].mlp, Recorder()
    received: list[tuple[mx.array, mx.array]] = []

    class Spy(type(block.switch_mlp)):  # type: ignore[misc]
        def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
            y = super().__call__(x, indices)
            received.append((indices, y))
            return y

    block.switch_mlp.__class__ = Spy
    x = mx.random.normal((2, 7, 64), key=mx.random.key(1))
    with capture(model, recorder) as taps:
        output = block(x)
    assert type(block.switch_mlp) is Spy
    number, logits, indices, shape = recorder.calls[0]
    assert (number, shape) == (1, (14,))  # the block ran alone, so only the flattened shape is known
    assert mx.array_equal(indices, received[0][0])
    routing = taps.routing(number, logits, indices, mx.ones((2, 7), dtype=mx.bool_))
    y = received[0][1].reshape(2, 7, 2, 64)
    np.testing.assert_allclose((routing.weights[..., None] * y).sum(axis=-2), output, atol=1e-5)


def test_routing_has_the_shape_of_the_batch(tiny_model: nn.Module, ids: mx.array) -> None:
    recorder = Recorder()
    mask = mx.array([[True] * 7, [True] * 4 + [False] * 3])
    with capture(tiny_model, recorder) as taps:
        tiny_model(ids)
    routing = taps.routing(*recorder.calls[2][:3], mask)
    assert routing.logits.shape == (2, 7, 8)
    assert routing.indices.shape == routing.weights.shape == (2, 7, 2)
    assert routing.logits.dtype == routing.weights.dtype == mx.float32
    assert mx.array_equal(routing.mask, mask)
    assert mx.array_equal(routing.logits.reshape(14, 8), recorder.calls[2][1])


@pytest.mark.parametrize(
    ("logits", "indices", "mask"),
    [((14, 8), (14, 2), (2, 6)), ((14, 8), (13, 2), (2, 7)), ((7, 2, 8), (7, 2, 2), (2, 7)), ((14, 8), (14, 2), (14,))],
)
def test_sizes_that_do_not_fit_are_refused(
    logits: tuple[int, ...], indices: tuple[int, ...], mask: tuple[int, ...], tiny_config: dict[str, Any]
) -> None:
    form = family_for(tiny_config).routers[0]
    with pytest.raises(RoutingError, match=r"does not fit a mask of shape \(") as caught:
        routing_from(form, tiny_config, mx.zeros(logits), mx.zeros(indices, dtype=mx.uint32), mx.ones(mask))
    assert str(mask) in str(caught.value)


def test_weights_saved_while_tapped_load_into_an_untapped_model(
    make_tiny: Callable[..., Any], ids: mx.array, tmp_path: Path
) -> None:
    model, other = make_tiny(seed=0), make_tiny(seed=1)
    with capture(model, Recorder()):
        model.save_weights(str(tmp_path / "w.safetensors"))
        other.load_weights(str(tmp_path / "w.safetensors"))
    assert mx.array_equal(model(ids), other(ids))


def test_quantising_a_tapped_model_keeps_the_taps(make_tiny: Callable[..., Any], ids: mx.array) -> None:
    model, reference, recorder = make_tiny(), make_tiny(), Recorder()
    nn.quantize(reference, group_size=32, bits=8)
    with capture(model, recorder):
        nn.quantize(model, group_size=32, bits=8)
        assert mx.array_equal(model(ids), reference(ids))
    first = recorder.take()
    assert classes(model) == classes(reference)
    assert isinstance(model.layers[0].mlp.gate, nn.QuantizedLinear)
    assert {s.router_bits for s in routers_of(model)} == {8}
    with capture(model, recorder):
        model(ids)
    for (_, z, i, _), (_, z2, i2, _) in zip(first, recorder.take(), strict=True):
        assert mx.array_equal(z, z2)
        assert mx.array_equal(i, i2)


@pytest.mark.parametrize("quantised", [False, True])
def test_lora_on_a_tapped_gate_records_the_adapted_logits(
    tiny_model: nn.Module, ids: mx.array, quantised: bool
) -> None:
    if quantised:
        nn.quantize(tiny_model, group_size=32, bits=8)
    recorder = Recorder()
    with capture(tiny_model, recorder):
        plain = tiny_model(ids)
        before = recorder.take()[0][1]
        linear_to_lora_layers(tiny_model, 3, LORA)
        for layer in tiny_model.layers:
            assert type(layer.mlp.gate).__name__ == "LoRALinearTapped"
            layer.mlp.gate.lora_b = mx.random.normal(layer.mlp.gate.lora_b.shape, key=mx.random.key(7)) / 20
        adapted = tiny_model(ids)
        number, logits, _, _ = recorder.take()[0]
        z = tiny_model.layers[0].mlp.gate(gate_input(tiny_model, ids))
        assert number == 0
        np.testing.assert_allclose(logits, z, atol=1e-5)
        assert mx.abs(logits - before).max() > 0.1
        assert {s.n_experts for s in routers_of(tiny_model)} == {8}
        assert {s.router_bits for s in routers_of(tiny_model)} == {8 if quantised else 32}

        fused = [(k, m.fuse(dequantize=True)) for k, m in tiny_model.named_modules() if hasattr(m, "fuse")]
        tiny_model.update_modules(tree_unflatten(fused))
        assert [type(layer.mlp.gate).__name__ for layer in tiny_model.layers] == ["LinearTapped"] * 3
        assert mx.allclose(tiny_model(ids), adapted, atol=1e-3)
        assert not mx.allclose(plain, adapted, atol=1e-3)
        np.testing.assert_allclose(recorder.take()[0][1], logits, atol=1e-4)
    assert not is_tapped(tiny_model)


def test_quantising_under_lora_and_removing_lora_keep_the_taps(tiny_model: nn.Module, ids: mx.array) -> None:
    recorder = Recorder()
    with capture(tiny_model, recorder):
        linear_to_lora_layers(tiny_model, 3, LORA)
        nn.quantize(tiny_model, group_size=32, bits=8)
        assert isinstance(tiny_model.layers[0].mlp.gate.linear, nn.QuantizedLinear)
        tiny_model(ids)
        assert len(recorder.take()) == 3
        remove_lora_layers(tiny_model)
        tiny_model(ids)
        assert len(recorder.take()) == 3
    assert not is_tapped(tiny_model)


def test_a_tapped_gate_inside_lora_of_all_linear_layers_is_adapted_once(tiny_model: nn.Module, ids: mx.array) -> None:
    with capture(tiny_model, Recorder()):
        linear_to_lora_layers(tiny_model, 1, {**LORA, "keys": None})
        gate = tiny_model.layers[-1].mlp.gate
        assert type(gate.linear).__name__ == "LinearTapped"
        tiny_model(ids)


def test_a_gate_replaced_behind_the_tap_is_an_error_until_attached_again(tiny_model: nn.Module, ids: mx.array) -> None:
    recorder = Recorder()
    capture(tiny_model, recorder)
    linear_to_lora_layers(tiny_model, 3, LORA, use_dora=True)
    with pytest.raises(RoutingError, match=r"layer\.0\.mlp: .*tapped gate did not.*attach again"):
        tiny_model(ids)
    with capture(tiny_model, recorder):
        tiny_model(ids)
    assert len(recorder.take()) == 3
    assert not is_tapped(tiny_model)


def test_a_second_capture_replaces_the_first(tiny_model: nn.Module, ids: mx.array) -> None:
    kinds, first, second = classes(tiny_model), Recorder(), Recorder()
    old = capture(tiny_model, first)
    tiny_model(ids)
    new = capture(tiny_model, second)
    tiny_model(ids)
    assert (len(first.calls), len(second.calls)) == (3, 3)
    old.close()  # must not take off what is no longer its own
    tiny_model(ids)
    assert (len(first.calls), len(second.calls)) == (3, 6)
    new.close()
    new.close()
    assert classes(tiny_model) == kinds


def test_an_exception_inside_the_context_detaches(tiny_model: nn.Module, ids: mx.array) -> None:
    kinds = classes(tiny_model)

    def broken(number: int, logits: mx.array, indices: mx.array, shape: tuple[int, ...]) -> None:
        raise RuntimeError("sink")

    with pytest.raises(RuntimeError, match="sink"), capture(tiny_model, broken):
        tiny_model(ids)
    assert classes(tiny_model) == kinds
    assert not is_tapped(tiny_model)


def test_detach_takes_every_tap_off_and_is_harmless_without_any(tiny_model: nn.Module) -> None:
    kinds = classes(tiny_model)
    detach(tiny_model)
    capture(tiny_model, Recorder())
    assert is_tapped(tiny_model)
    detach(tiny_model)
    assert classes(tiny_model) == kinds
    assert not is_tapped(tiny_model)


def break_gate(model: nn.Module) -> None:
    model.layers[2].mlp.gate = nn.Linear(64, 5)


def break_gate_weight(model: nn.Module) -> None:
    model.layers[2].mlp.gate = nn.ReLU()


def break_block(model: nn.Module) -> None:
    model.layers[2].mlp = nn.Linear(64, 64)


def break_experts(model: nn.Module) -> None:
    del model.layers[2].mlp.switch_mlp


def break_layers(model: nn.Module) -> None:
    model.model.layers = model.model.layers[:2]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (break_gate, r"Layer 2: 'mlp\.gate' should score 8 experts but has a weight with 5 rows"),
        (break_gate_weight, r"Layer 2: 'mlp\.gate' should score 8 experts but has no weight"),
        (break_block, r"Layer 2 of this model has no module 'mlp\.gate'"),
        (break_experts, r"Layer 2 of this model has no module 'mlp\.switch_mlp'"),
        (break_layers, r"expects a router in layer 2, but the model has 2 layers"),
    ],
)
def test_a_missing_router_is_named_and_nothing_is_half_attached(
    tiny_model: nn.Module, break_it: Callable[[nn.Module], None], message: str
) -> None:
    break_it(tiny_model)
    kinds = classes(tiny_model)
    with pytest.raises(UnsupportedModelError, match=message):
        capture(tiny_model, Recorder())
    assert classes(tiny_model) == kinds
    assert not is_tapped(tiny_model)


def test_dense_and_foreign_models_are_refused() -> None:
    dense = llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=16,
            num_hidden_layers=1,
            intermediate_size=16,
            num_attention_heads=2,
            rms_norm_eps=1e-5,
            vocab_size=16,
        )
    )
    with pytest.raises(UnsupportedModelError, match="'llama' is dense"):
        capture(dense, Recorder())
    with pytest.raises(UnsupportedModelError, match=r"Linear is not a language model as mlx-lm builds them"):
        routers_of(nn.Linear(2, 2))


def test_generation_is_unchanged_and_every_step_is_seen(tiny_model: nn.Module) -> None:
    def tokens() -> list[int]:
        steps = generate_step(mx.array(IDS[0]), tiny_model, max_tokens=4, prefill_step_size=3)
        return [int(token) for token, _ in steps]

    expected, recorder = tokens(), Recorder()
    with capture(tiny_model, recorder):
        assert tokens() == expected
    shapes = [shape for number, *_, shape in recorder.calls if number == 0]
    assert shapes[:4] == [(1, 3), (1, 3), (1, 1), (1, 1)]


def test_gradients_are_unchanged_and_what_was_seen_stays_readable(tiny_model: nn.Module, ids: mx.array) -> None:
    def loss(model: nn.Module) -> mx.array:
        return (model(ids) ** 2).mean()

    step, recorder = nn.value_and_grad(tiny_model, loss), Recorder()
    value, gradients = step(tiny_model)
    mx.eval(value, gradients)
    with capture(tiny_model, recorder):
        tapped_value, tapped_gradients = step(tiny_model)
        mx.eval(tapped_value, tapped_gradients)
    assert mx.array_equal(value, tapped_value)
    for (_, a), (_, b) in zip(tree_flatten(gradients), tree_flatten(tapped_gradients), strict=True):
        assert mx.array_equal(a, b)
    assert len(recorder.calls) == 3
    assert not is_traced(*(array for _, z, i, _ in recorder.calls for array in (z, i)))
    assert np.isfinite(np.array(recorder.calls[0][1])).all()


def test_under_gradient_checkpointing_the_sink_is_called_again(tiny_model: nn.Module) -> None:
    recorder = Recorder()
    h = mx.random.normal((2, 7, 64), key=mx.random.key(1))
    layer = nn.utils.checkpoint(tiny_model.layers[1])
    with capture(tiny_model, recorder):
        mx.eval(nn.value_and_grad(tiny_model, lambda: layer(h).sum())())
    assert [number for number, *_ in recorder.calls] == [1, 1]
    assert not is_traced(*(logits for _, logits, _, _ in recorder.calls))


@pytest.mark.usefixtures("compiling")
def test_compiling_is_unchanged_and_placeholders_are_recognised(tiny_model: nn.Module, ids: mx.array) -> None:
    def forward(x: mx.array) -> mx.array:
        return tiny_model(x)

    plain = mx.compile(forward)(ids)
    inside: list[bool] = []
    recorder = Recorder()

    def sink(number: int, logits: mx.array, indices: mx.array, shape: tuple[int, ...]) -> None:
        inside.append(is_traced(logits, indices))
        recorder(number, logits, indices, shape)

    with capture(tiny_model, sink):
        compiled = mx.compile(lambda x: forward(x))
        assert mx.array_equal(compiled(ids), plain)
        assert inside == [True] * 3
        assert mx.array_equal(compiled(ids), plain)  # Python does not run again
        assert len(recorder.calls) == 3
        assert all(is_traced(logits) and is_traced(indices) for _, logits, indices, _ in recorder.take())
        tiny_model(ids)
        assert not any(is_traced(logits, indices) for _, logits, indices, _ in recorder.take())
    assert mx.array_equal(compiled(ids), plain)


@pytest.mark.usefixtures("cpu")
def test_is_traced_lets_real_errors_through() -> None:
    ones = mx.ones((2, 2, 2), mx.bfloat16)
    unsupported = mx.gather_mm(ones[0], ones, rhs_indices=mx.array([0]))
    with pytest.raises(RuntimeError, match="float32"):
        is_traced(unsupported)
