"""Taps on one model: several at a time, errors, detaching; tests/test_every_family.py has what all models share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

from watching import Recorder, classes, is_tapped

from mlx_moebench.errors import RoutingError, UnsupportedModelError
from mlx_moebench.families import family_for
from mlx_moebench.instrument import attach, capture, detach, is_traced, routers_of, routing_from

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
from mlx_lm.models import llama  # isort: skip
from mlx_lm.tuner.utils import linear_to_lora_layers  # isort: skip

IDS = [[5, 17, 250, 3, 88, 41, 9], [301, 2, 2, 76, 130, 4, 12]]
LORA = {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["mlp.gate"]}


@pytest.fixture
def ids() -> mx.array:
    return mx.array(IDS)


def test_routers_of_states_the_facts(tiny_model: nn.Module) -> None:
    specs = routers_of(tiny_model)
    assert [(s.layer, s.moe_layer, s.router) for s in specs] == [(0, 0, "mlp"), (1, 1, "mlp"), (2, 2, "mlp")]
    assert {(s.n_experts, s.top_k, s.distribution, s.router_bits) for s in specs} == {(8, 2, "softmax", 32)}
    tiny_model.set_dtype(mx.bfloat16)
    assert {s.router_bits for s in routers_of(tiny_model)} == {16}


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


@pytest.mark.usefixtures("cpu")
def test_is_traced_lets_real_errors_through() -> None:
    ones = mx.ones((2, 2, 2), mx.bfloat16)
    unsupported = mx.gather_mm(ones[0], ones, rhs_indices=mx.array([0]))
    with pytest.raises(RuntimeError, match="float32"):
        is_traced(unsupported)
