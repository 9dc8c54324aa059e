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
from mlx_moebench.families import RouterForm, family_for
from mlx_moebench.families.base import module_at
from mlx_moebench.instrument import attach, capture, config_of, detach, is_traced, routers_of, routing_from

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
from mlx.utils import tree_flatten, tree_unflatten  # isort: skip
from mlx_lm.generate import generate_step  # isort: skip
from mlx_lm.models import llama  # isort: skip
from mlx_lm.models.switch_layers import QuantizedSwitchLinear  # isort: skip
from mlx_lm.tuner.lora import LoRASwitchLinear  # isort: skip
from mlx_lm.tuner.utils import linear_to_lora_layers, remove_lora_layers  # isort: skip

IDS = [[5, 17, 250, 3, 88, 41, 9], [301, 2, 2, 76, 130, 4, 12]]
LORA = {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["mlp.gate"]}
RENORMALISED = {"norm_topk_prob": True}


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


def forms(model: nn.Module) -> list[RouterForm]:
    """The form of each router, in running order."""
    family = family_for(config_of(model))
    return [family.form(spec.router) for spec in routers_of(model)]


def gates(model: nn.Module) -> list[nn.Module]:
    """The gate of each router, in running order."""
    layers = [model.layers[spec.layer] for spec in routers_of(model)]
    return [module_at(layer, form.gate) for layer, form in zip(layers, forms(model), strict=True)]


def lora(model: nn.Module) -> dict[str, Any]:
    """Settings of LoRA on every gate."""
    return LORA | {"keys": sorted({form.gate for form in forms(model)})}


def watch(module: nn.Module) -> list[tuple[tuple[Any, ...], mx.array]]:
    """The list to which ``module`` adds the arguments and the output of every later call."""
    calls: list[tuple[tuple[Any, ...], mx.array]] = []

    class Watched(type(module)):  # type: ignore[misc]
        def __call__(self, *args: Any) -> mx.array:
            y = super().__call__(*args)
            calls.append((args, y))
            return y

    module.__class__ = Watched
    return calls


def beside_the_experts(block: nn.Module, experts: nn.Module, arguments: tuple[Any, ...]) -> mx.array:
    """What a block adds to the weighted sum of its experts, a shared expert or a bias: its output while they give 0."""

    class Silent(type(experts)):  # type: ignore[misc]
        def __call__(self, *args: Any) -> mx.array:
            return mx.zeros_like(super().__call__(*args))

    before, experts.__class__ = type(experts), Silent
    rest: mx.array = block(*arguments)
    experts.__class__ = before
    return rest


def is_tapped(model: nn.Module) -> bool:
    return any("_moebench_tap" in vars(m) or type(m).__name__.endswith("Tapped") for m in model.modules())


def test_routers_of_states_the_facts(tiny_model: nn.Module) -> None:
    specs = routers_of(tiny_model)
    assert [(s.layer, s.moe_layer, s.router) for s in specs] == [(0, 0, "mlp"), (1, 1, "mlp"), (2, 2, "mlp")]
    assert {(s.n_experts, s.top_k, s.distribution, s.router_bits) for s in specs} == {(8, 2, "softmax", 32)}
    tiny_model.set_dtype(mx.bfloat16)
    assert {s.router_bits for s in routers_of(tiny_model)} == {16}


def test_taps_change_no_output_and_no_parameter(any_model: nn.Module, ids: mx.array) -> None:
    before, keys, kinds = any_model(ids), tree_flatten(any_model.parameters()), classes(any_model)
    trainable = [k for k, _ in tree_flatten(any_model.trainable_parameters())]
    recorder = Recorder()
    with capture(any_model, recorder) as taps:
        assert mx.array_equal(any_model(ids), before)
        assert [k for k, _ in tree_flatten(any_model.parameters())] == [k for k, _ in keys]
        assert [k for k, _ in tree_flatten(any_model.trainable_parameters())] == trainable
        assert "LinearTapped(input_dims=64" in repr(gates(any_model)[0])
    assert classes(any_model) == kinds
    assert not is_tapped(any_model)
    assert mx.array_equal(any_model(ids), before)
    assert [number for number, *_ in recorder.calls] == list(range(len(taps.specs)))
    assert {shape for *_, shape in recorder.calls} == {(2, 7)}
    assert taps.specs == tuple(routers_of(any_model))


def test_logits_and_indices_are_what_the_modules_saw(any_model: nn.Module, ids: mx.array) -> None:
    recorder = Recorder()
    seen = [watch(gate) for gate in gates(any_model)]
    received = [
        watch(module_at(any_model.layers[spec.layer], form.experts))
        for spec, form in zip(routers_of(any_model), forms(any_model), strict=True)
    ]
    with capture(any_model, recorder):
        any_model(ids)
    for (_, logits, indices, _), gate, experts in zip(recorder.calls, seen, received, strict=True):
        assert mx.array_equal(logits, gate[0][1])
        assert mx.array_equal(indices, experts[0][0][1])
    assert not is_tapped(any_model)


@pytest.mark.parametrize("config", [{}, RENORMALISED], ids=["as-in-the-row", "renormalised"])
def test_block_output_is_the_weighted_sum_of_expert_outputs(
    make_any: Callable[..., Any], ids: mx.array, config: dict[str, Any]
) -> None:
    model = make_any(**config)
    recorder, layers = Recorder(), [model.layers[spec.layer] for spec in routers_of(model)]
    blocks = [module_at(layer, form.gate.rpartition(".")[0]) for layer, form in zip(layers, forms(model), strict=True)]
    experts = [module_at(layer, form.experts) for layer, form in zip(layers, forms(model), strict=True)]
    outputs, received = [watch(block) for block in blocks], [watch(module) for module in experts]
    with capture(model, recorder) as taps:
        model(ids)
    assert [number for number, *_ in recorder.calls] == list(range(len(blocks)))
    for number, logits, indices, _ in recorder.calls:
        routing = taps.routing(number, logits, indices, mx.ones(ids.shape, dtype=mx.bool_))
        (_, y), (arguments, output) = received[number][0], outputs[number][0]
        rest = beside_the_experts(blocks[number], experts[number], arguments)
        expected = (routing.weights[..., None] * y.reshape(*routing.weights.shape, -1)).sum(axis=-2) + rest
        np.testing.assert_allclose(expected, output, atol=1e-5)
        # Wrong weights would show: the experts contribute, and not evenly.
        assert mx.abs(output - rest).max() > 1e-2
        assert (routing.weights.max(axis=-1) - routing.weights.min(axis=-1)).max() > 0.1


def test_a_block_alone_knows_only_the_flattened_shape(tiny_model: nn.Module) -> None:
    recorder = Recorder()
    with capture(tiny_model, recorder):
        tiny_model.layers[1].mlp(mx.zeros((2, 7, 64)))
    number, _, _, shape = recorder.calls[0]
    assert (number, shape) == (1, (14,))


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
    make_any: Callable[..., Any], ids: mx.array, tmp_path: Path
) -> None:
    model, other = make_any(seed=0), make_any(seed=1)
    with capture(model, Recorder()):
        model.save_weights(str(tmp_path / "w.safetensors"))
        other.load_weights(str(tmp_path / "w.safetensors"))
    assert mx.array_equal(model(ids), other(ids))


def test_quantising_a_tapped_model_keeps_the_taps(make_any: Callable[..., Any], ids: mx.array) -> None:
    model, reference, recorder = make_any(), make_any(), Recorder()
    nn.quantize(reference, group_size=32, bits=8)
    with capture(model, recorder):
        nn.quantize(model, group_size=32, bits=8)
        assert mx.array_equal(model(ids), reference(ids))
    first = recorder.take()
    assert classes(model) == classes(reference)
    assert all(isinstance(gate, nn.QuantizedLinear) for gate in gates(model))
    assert any(isinstance(module, QuantizedSwitchLinear) for module in model.modules())
    assert {s.router_bits for s in routers_of(model)} == {8}
    assert len(first) == len(routers_of(model))
    with capture(model, recorder):
        model(ids)
    for (_, z, i, _), (_, z2, i2, _) in zip(first, recorder.take(), strict=True):
        assert mx.array_equal(z, z2)
        assert mx.array_equal(i, i2)


@pytest.mark.parametrize("quantised", [False, True])
def test_lora_on_a_tapped_gate_records_the_adapted_logits(any_model: nn.Module, ids: mx.array, quantised: bool) -> None:
    if quantised:
        nn.quantize(any_model, group_size=32, bits=8)
    recorder, specs = Recorder(), routers_of(any_model)
    with capture(any_model, recorder):
        plain = any_model(ids)
        before = recorder.take()[0][1]
        linear_to_lora_layers(any_model, 3, lora(any_model))
        for gate in gates(any_model):
            assert type(gate).__name__ == "LoRALinearTapped"
            gate.lora_b = mx.random.normal(gate.lora_b.shape, key=mx.random.key(7)) / 20
        assert routers_of(any_model) == specs
        seen = [watch(gate) for gate in gates(any_model)]
        adapted = any_model(ids)
        after = recorder.take()
        assert [number for number, *_ in after] == list(range(len(specs)))
        assert all(mx.array_equal(logits, calls[0][1]) for (_, logits, _, _), calls in zip(after, seen, strict=True))
        assert mx.abs(after[0][1] - before).max() > 0.1

        fused = [(k, m.fuse(dequantize=True)) for k, m in any_model.named_modules() if hasattr(m, "fuse")]
        any_model.update_modules(tree_unflatten(fused))
        assert {type(gate).__name__ for gate in gates(any_model)} == {"LinearTapped"}
        assert mx.allclose(any_model(ids), adapted, atol=1e-3)
        assert not mx.allclose(plain, adapted, atol=1e-3)
        for (_, fused_logits, _, _), (_, logits, _, _) in zip(recorder.take(), after, strict=True):
            np.testing.assert_allclose(fused_logits, logits, atol=1e-3)
    assert not is_tapped(any_model)


def test_quantising_under_lora_and_removing_lora_keep_the_taps(any_model: nn.Module, ids: mx.array) -> None:
    recorder, count = Recorder(), len(routers_of(any_model))
    with capture(any_model, recorder):
        linear_to_lora_layers(any_model, 3, lora(any_model))
        nn.quantize(any_model, group_size=32, bits=8)
        assert all(isinstance(gate.linear, nn.QuantizedLinear) for gate in gates(any_model))
        any_model(ids)
        assert len(recorder.take()) == count
        remove_lora_layers(any_model)
        any_model(ids)
        assert len(recorder.take()) == count
    assert not is_tapped(any_model)


def test_lora_and_fusing_of_all_linear_layers_keep_the_taps(any_model: nn.Module, ids: mx.array) -> None:
    recorder, count = Recorder(), len(routers_of(any_model))
    with capture(any_model, recorder):
        linear_to_lora_layers(any_model, 3, LORA | {"keys": None})
        # Adapted once, not once for the tap and once for the layer in it.
        assert {type(gate.linear).__name__ for gate in gates(any_model)} == {"LinearTapped"}
        for module in any_model.modules():
            if isinstance(module, LoRASwitchLinear):
                module.lora_b = mx.random.normal(module.lora_b.shape, key=mx.random.key(7)) / 100
        adapted = any_model(ids)
        assert len(recorder.take()) == count
        fused = [(k, m.fuse(dequantize=True)) for k, m in any_model.named_modules() if hasattr(m, "fuse")]
        any_model.update_modules(tree_unflatten(fused))
        np.testing.assert_allclose(any_model(ids), adapted, atol=1e-3)
        assert len(recorder.take()) == count
    assert not is_tapped(any_model)


def test_a_gate_replaced_behind_the_tap_is_an_error_until_attached_again(tiny_model: nn.Module, ids: mx.array) -> None:
    recorder = Recorder()
    capture(tiny_model, recorder)
    linear_to_lora_layers(tiny_model, 3, LORA, use_dora=True)
    with pytest.raises(RoutingError, match=r"layer\.0\.mlp: .*tapped gate did not.*attach again"):
        tiny_model(ids)
    detach(tiny_model)
    with capture(tiny_model, recorder):
        tiny_model(ids)
    assert len(recorder.take()) == 3
    assert not is_tapped(tiny_model)


def test_every_capture_of_a_model_hears_until_it_is_closed(tiny_model: nn.Module, ids: mx.array) -> None:
    kinds, first, second = classes(tiny_model), Recorder(), Recorder()
    old = capture(tiny_model, first)
    tiny_model(ids)
    new = capture(tiny_model, second)
    tiny_model(ids)
    assert (len(first.calls), len(second.calls)) == (6, 3)
    old.close()  # must not take off what another needs
    tiny_model(ids)
    assert (len(first.calls), len(second.calls)) == (6, 6)
    new.close()
    new.close()
    assert classes(tiny_model) == kinds


def test_a_capture_that_was_detached_takes_off_no_later_one(tiny_model: nn.Module, ids: mx.array) -> None:
    first, second = Recorder(), Recorder()
    old = capture(tiny_model, first)
    detach(tiny_model)
    with capture(tiny_model, second):
        old.close()
        tiny_model(ids)
    assert (len(first.calls), len(second.calls)) == (0, 3)
    assert not is_tapped(tiny_model)


def test_one_attached_inside_another_and_both_count(any_model: nn.Module, ids: mx.array) -> None:
    kinds, before = classes(any_model), any_model(ids)
    with attach(any_model) as outer:
        any_model(ids)
        with attach(any_model) as inner:
            assert mx.array_equal(any_model(ids), before)
        any_model(ids)
    assert (outer.n_tokens, inner.n_tokens) == (3 * ids.size, ids.size)
    outer.check()
    inner.check()
    assert classes(any_model) == kinds


def test_what_one_is_told_of_a_batch_holds_for_all(tiny_model: nn.Module, ids: mx.array) -> None:
    mask = np.ones(ids.shape, dtype=bool)
    mask[1, 3:] = False
    with attach(tiny_model) as outer, attach(tiny_model) as inner:
        with inner.batch(mask=mask, prompt_lengths=[2, 2], ids=[7, 8]):
            tiny_model(ids)
        with outer.batch(mask=mask), inner.batch():  # each has its own
            tiny_model(ids)
        tiny_model(ids)
    for stats, whole in ((outer, mask.sum()), (inner, mask.size)):
        assert stats.n_tokens == 4 + whole + mask.size
        assert stats.phase_stats("decode").n_tokens == mask.sum() - 4
    assert {row for _, row in inner.clusters} >= {7, 8}


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


def test_every_router_counts_tokens_times_k(any_model: nn.Module) -> None:
    ids = np.random.default_rng(3).integers(1, 320, (3, 9))
    with attach(any_model) as stats:
        any_model(mx.array(ids))
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


def test_generation_is_unchanged_and_every_step_is_seen(any_model: nn.Module) -> None:
    def tokens() -> list[int]:
        steps = generate_step(mx.array(IDS[0]), any_model, max_tokens=4, prefill_step_size=3)
        return [int(token) for token, _ in steps]

    expected, recorder = tokens(), Recorder()
    with capture(any_model, recorder):
        assert tokens() == expected
    for router in range(len(routers_of(any_model))):
        shapes = [shape for number, *_, shape in recorder.calls if number == router]
        assert shapes[:4] == [(1, 3), (1, 3), (1, 1), (1, 1)]


def test_gradients_are_unchanged_and_what_was_seen_stays_readable(any_model: nn.Module, ids: mx.array) -> None:
    def loss(model: nn.Module) -> mx.array:
        return (model(ids) ** 2).mean()

    step, recorder = nn.value_and_grad(any_model, loss), Recorder()
    value, gradients = step(any_model)
    mx.eval(value, gradients)
    with capture(any_model, recorder):
        tapped_value, tapped_gradients = step(any_model)
        mx.eval(tapped_value, tapped_gradients)
    assert mx.array_equal(value, tapped_value)
    for (name, a), (_, b) in zip(tree_flatten(gradients), tree_flatten(tapped_gradients), strict=True):
        assert mx.array_equal(a, b)
        assert mx.abs(a).max() > 0, f"no gradient reaches {name}"
    assert len(recorder.calls) == len(routers_of(any_model))
    assert not is_traced(*(array for _, z, i, _ in recorder.calls for array in (z, i)))
    assert np.isfinite(np.array(recorder.calls[0][1])).all()


def test_under_gradient_checkpointing_the_sink_is_called_again(any_model: nn.Module) -> None:
    recorder = Recorder()
    h = mx.random.normal((2, 7, 64), key=mx.random.key(1))
    layer = nn.utils.checkpoint(any_model.layers[1])
    with capture(any_model, recorder):
        mx.eval(nn.value_and_grad(any_model, lambda: layer(h).sum())())
    ran = [n for n, spec in enumerate(routers_of(any_model)) if spec.layer == 1]
    assert [number for number, *_ in recorder.calls] == ran * 2
    assert not is_traced(*(logits for _, logits, _, _ in recorder.calls))


@pytest.mark.usefixtures("compiling")
def test_compiling_is_unchanged_and_placeholders_are_recognised(any_model: nn.Module, ids: mx.array) -> None:
    def forward(x: mx.array) -> mx.array:
        return any_model(x)

    count = len(routers_of(any_model))
    plain = mx.compile(forward)(ids)
    inside: list[bool] = []
    recorder = Recorder()

    def sink(number: int, logits: mx.array, indices: mx.array, shape: tuple[int, ...]) -> None:
        inside.append(is_traced(logits, indices))
        recorder(number, logits, indices, shape)

    with capture(any_model, sink):
        compiled = mx.compile(lambda x: forward(x))
        assert mx.array_equal(compiled(ids), plain)
        assert inside == [True] * count
        assert mx.array_equal(compiled(ids), plain)  # Python does not run again
        assert len(recorder.calls) == count
        assert all(is_traced(logits) and is_traced(indices) for _, logits, indices, _ in recorder.take())
        any_model(ids)
        assert not any(is_traced(logits, indices) for _, logits, indices, _ in recorder.take())
    assert mx.array_equal(compiled(ids), plain)


@pytest.mark.usefixtures("cpu")
def test_is_traced_lets_real_errors_through() -> None:
    ones = mx.ones((2, 2, 2), mx.bfloat16)
    unsupported = mx.gather_mm(ones[0], ones, rhs_indices=mx.array([0]))
    with pytest.raises(RuntimeError, match="float32"):
        is_traced(unsupported)
