"""Experts grouped on a CPU: what mlx-lm computes, for every model; their gradient; what is left out; the switches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

from conftest import build_tiny
from watching import Recorder, classes, is_tapped

from mlx_moebench import allocator, blas
from mlx_moebench.data import Batch
from mlx_moebench.environment import environment
from mlx_moebench.instrument import attach, capture, cpu_path, detach, grouped
from mlx_moebench.instrument.capture import experts_of
from mlx_moebench.instrument.cpu_path import GroupedGLU, GroupedMLP, leave_cpu_path, only_routing, use_cpu_path
from mlx_moebench.instrument.grouped import gathered_experts, grouped_experts
from mlx_moebench.measure.on_mlx import MLX
from mlx_moebench.models import load, load_checkpoint

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
from mlx.utils import tree_flatten, tree_unflatten  # isort: skip
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP  # isort: skip
from mlx_lm.tuner.utils import linear_to_lora_layers  # isort: skip

pytestmark = [
    pytest.mark.usefixtures("on_cpu"),
    pytest.mark.skipif(not cpu_path.has_cpu_path(), reason="experts are grouped on a Linux CPU only"),
]
IDS = mx.array(np.random.default_rng(0).integers(1, 256, (3, 11)))


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Group whatever the size."""
    monkeypatch.setattr(cpu_path, "WORTH_IT", 1)
    monkeypatch.setattr(cpu_path, "UNPACKED", 0)
    before = mx.default_device()
    mx.set_default_device(mx.Device(mx.cpu))
    yield
    mx.set_default_device(before)


def choices_and_output(model: nn.Module) -> tuple[list[mx.array], mx.array]:
    recorder = Recorder()
    with capture(model, recorder):
        output = model(IDS)
    return [mx.sort(indices, axis=-1) for _, _, indices, _ in recorder.calls], output


def check_same(model: nn.Module, calls: list[int] | None = None) -> None:
    """Grouped and not, a model gives the same choices and the same outputs up to rounding."""
    kinds = classes(model)
    stock, expected = choices_and_output(model)
    use_cpu_path(model)
    try:
        is_grouped = [isinstance(experts, GroupedGLU | GroupedMLP) for experts in experts_of(model)]
        assert is_grouped == [kind in (SwitchGLU, SwitchMLP) for kind in map(grandparent, experts_of(model))]
        grouped, output = choices_and_output(model)
    finally:
        leave_cpu_path(model)
    assert classes(model) == kinds
    assert all(mx.array_equal(x, y) for x, y in zip(stock, grouped, strict=True))
    np.testing.assert_allclose(np.array(output), np.array(expected), rtol=0, atol=2e-5 * mx.abs(expected).max().item())


def grandparent(experts: nn.Module) -> type:
    """The class that mlx-lm gave to experts."""
    return next((kind for kind in (SwitchGLU, SwitchMLP) if isinstance(experts, kind)), type(experts))


def test_every_model_gives_the_same_outputs_and_choices(shared_model: nn.Module) -> None:
    check_same(shared_model)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_experts_give_the_same(make_form: Callable[..., Any], bits: int) -> None:
    model = make_form()
    allowed = getattr(model, "quant_predicate", None) or (lambda path, module: True)
    own = {path for path, module in model.named_modules() if allowed(path, module) is not False}
    nn.quantize(model, 32, bits, class_predicate=lambda path, module: path in own and packs(module))
    check_same(model)


def packs(module: nn.Module) -> bool:
    """Whether its weight can be quantised in groups of 32."""
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


def weights(e: int = 5, h: int = 6, d: int = 7, seed: int = 0) -> list[mx.array]:
    mx.random.seed(seed)
    return [mx.random.normal(shape) for shape in ((e, h, d), (e, h, d), (e, d, h))]


UNEVEN = [[3, 1], [3, 3], [3, 0], [3, 1], [0, 3]]
"""A token that has one expert twice, an expert that all tokens have, two that none has."""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block", [2, 256])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients(monkeypatch: pytest.MonkeyPatch, threads: int, block: int, frozen: bool) -> None:
    numpy_blas = blas.numpy_threads()
    if numpy_blas is None:
        pytest.skip("the threads of this NumPy's BLAS cannot be set")
    monkeypatch.setattr(grouped, "BLOCK", block)
    x, indices, every = mx.random.normal((5, 7), key=mx.random.key(1)), mx.array(UNEVEN), weights()
    cotangent = mx.random.normal((5, 2, 7), key=mx.random.key(2))

    def loss(experts: Callable[..., mx.array], **options: Any) -> Callable[..., mx.array]:
        return lambda x, *weights: (experts(x, indices, *weights, **options) * cotangent).sum()

    at = (0,) if frozen else (0, 1, 2, 3)
    before = numpy_blas.count
    numpy_blas.limit(threads)
    try:
        one = mx.value_and_grad(loss(grouped_experts, frozen=frozen), at)(x, *every)
        again = mx.value_and_grad(mx.checkpoint(loss(grouped_experts, frozen=frozen)), at)(x, *every)
        assert numpy_blas.count == threads
    finally:
        numpy_blas.limit(before)
    expected = mx.value_and_grad(loss(gathered_experts), at)(x, *every)
    for value, slopes in (one, again):
        np.testing.assert_allclose(value.item(), expected[0].item(), rtol=1e-5)
        for ours, theirs in zip(slopes, expected[1], strict=True):
            np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=2e-5)


def test_large_inputs_overflow_to_zero() -> None:
    _, up, down = weights(e=1, h=2, d=2)
    x, gate = mx.full((1, 2), 100.0), mx.full((1, 2, 2), -1.0)
    y = grouped_experts(x, mx.zeros((1, 1), dtype=mx.uint32), gate, up, down)
    assert mx.array_equal(y, mx.zeros_like(y))
    slope = mx.grad(lambda x: grouped_experts(x, mx.zeros((1, 1), dtype=mx.uint32), gate, up, down).sum())(x)
    assert mx.array_equal(slope, mx.zeros_like(slope))


def test_nothing_is_computed_of_placeholders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "_forward", None)
    model = build_tiny()
    expected = model(IDS)
    use_cpu_path(model)
    seen = []

    def traced(ids: mx.array) -> mx.array:
        seen.append(ids)
        return model(ids)

    mx.enable_compile()
    try:
        output = mx.compile(traced)(IDS)
        mx.eval(output)
    except RuntimeError as error:
        if "compil" not in str(error):
            raise
        pytest.skip("there is no C++ compiler")
    finally:
        mx.disable_compile()
    assert len(seen) == 1
    np.testing.assert_allclose(np.array(output), np.array(expected), atol=2e-5)


def test_taps_and_groups_in_either_order() -> None:
    model, other = build_tiny(), build_tiny()
    kinds = classes(model)
    use_cpu_path(model)
    mine = classes(model)
    first = attach(model)
    second = attach(other)
    use_cpu_path(other)
    assert mx.array_equal(model(IDS), other(IDS))
    leave_cpu_path(other)
    assert is_tapped(other)
    other(IDS)
    assert second.n_tokens == 2 * first.n_tokens == 2 * IDS.size
    detach(model)
    assert classes(model) == mine
    detach(other)
    assert classes(other) == kinds
    leave_cpu_path(model)
    assert classes(model) == kinds


def test_parameters_copies_and_adapters() -> None:
    model = build_tiny()
    keys = [key for key, _ in tree_flatten(model.parameters())]
    use_cpu_path(model)
    expected = model(IDS)
    assert [key for key, _ in tree_flatten(model.parameters())] == keys
    with attach(model):
        copied = deepcopy(model)
    assert not is_tapped(copied)
    assert mx.array_equal(copied(IDS), expected)
    names = ["mlp.switch_mlp.gate_proj", "mlp.switch_mlp.down_proj"]
    linear_to_lora_layers(copied, 2, {"rank": 2, "scale": 1.0, "dropout": 0.0, "keys": names})
    adapted = copied(IDS)  # lora_b is 0
    np.testing.assert_allclose(np.array(adapted), np.array(expected), atol=2e-5)
    fused = [(name, module.fuse()) for name, module in copied.named_modules() if hasattr(module, "fuse")]
    copied.update_modules(tree_unflatten(fused))
    assert mx.array_equal(copied(IDS), expected)


def test_training_a_grouped_model_has_the_gradient_of_a_stock_one() -> None:
    model = build_tiny()
    model.train()

    def loss(model: nn.Module) -> mx.array:
        return nn.losses.cross_entropy(model(IDS[:, :-1]), IDS[:, 1:]).mean()

    def gradient() -> dict[str, mx.array]:
        return dict(tree_flatten(nn.value_and_grad(model, loss)(model)[1]))

    for frozen in (False, True):
        if frozen:
            for experts in experts_of(model):
                experts.freeze()
        leave_cpu_path(model)
        expected = gradient()
        use_cpu_path(model)
        ours = gradient()
        assert expected.keys() == ours.keys()
        for name, slope in expected.items():
            np.testing.assert_allclose(np.array(ours[name]), np.array(slope), atol=1e-6, err_msg=name)


UNSUPPORTED = mx.ones((2, 1, 2), dtype=mx.bfloat16)


def broken(like: mx.array) -> mx.array:
    """An array that nobody can compute: experts in bfloat16 are not there on a CPU."""
    made = mx.gather_mm(UNSUPPORTED, mx.ones((1, 2, 2), dtype=mx.bfloat16), rhs_indices=mx.array([0, 0]))
    return mx.broadcast_to(made.astype(mx.float32).sum(), like.shape)


@pytest.mark.parametrize("is_grouped", [False, True])
def test_routing_alone_computes_neither_the_head_nor_the_last_experts(is_grouped: bool) -> None:
    model = build_tiny(tie_word_embeddings=False)
    reference = attach(model)
    model(IDS)
    reference.close()
    last = experts_of(model)[-1]
    for module in (last.gate_proj, last.up_proj, last.down_proj, model.lm_head, model.model.norm):
        module.weight = broken(module.weight)
    if is_grouped:
        use_cpu_path(model)
    ids = np.array(IDS)
    batch = Batch(ids, np.ones(ids.shape, dtype=bool), (0, 1, 2), (0, 0, 0), 0)
    checkpoint = type("Loaded", (), {"model": model})
    with attach(model) as stats:
        MLX().forward(checkpoint, batch, logits=False)
    for number in range(3):
        np.testing.assert_array_equal(stats.sums(number).counts, reference.sums(number).counts)
    detach(model)
    with pytest.raises((ValueError, RuntimeError)):
        mx.eval(MLX().forward(checkpoint, batch, logits=True))


def test_what_is_run_for_its_routing_is_right_when_it_is_read() -> None:
    model = build_tiny()
    expected = model(IDS)
    use_cpu_path(model)
    with only_routing():
        output = model(IDS)
    np.testing.assert_allclose(np.array(output), np.array(expected), atol=2e-5)


def test_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment()["experts"] == "grouped"
    assert isinstance(experts_of(load_checkpoint().model)[0], GroupedGLU)
    monkeypatch.setenv(cpu_path.ENVIRONMENT_VARIABLE, "off")
    assert environment()["experts"] == "stock"
    assert type(experts_of(load()[0])[0]) is SwitchGLU
    monkeypatch.setenv(allocator.ENVIRONMENT_VARIABLE, "off")
    assert not allocator.keep_freed_memory.__wrapped__()


def test_small_products_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    model = build_tiny()
    expected = model(IDS)
    use_cpu_path(model)
    assert mx.array_equal(model(IDS), expected)
