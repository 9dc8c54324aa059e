"""What `lab train` computes in NumPy on a CPU is what MLX computes: softmax, cross-entropy, grouped experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs MLX")
from mlx_moebench.instrument import cpu_path  # noqa: E402
from mlx_moebench.instrument.softmax import AT_A_TIME, cross_entropy, softmax  # noqa: E402
from mlx_moebench.lab import experts  # noqa: E402
from mlx_moebench.lab.decoder import Model  # noqa: E402
from mlx_moebench.lab.initial import initialise  # noqa: E402
from mlx_moebench.lab.objective import Objective  # noqa: E402
from mlx_moebench.lab.presets import DENSE, Preset, model_args  # noqa: E402
from mlx_moebench.lab.routers import router_names  # noqa: E402

import mlx.nn as nn  # isort: skip  # noqa: E402
from mlx.utils import tree_flatten  # isort: skip  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("cpu"),
    pytest.mark.skipif(not cpu_path.has_cpu_path(), reason="there is a path of its own on a Linux CPU only"),
]
SMALL = Preset(2, 16, 2, 8, 8, 4, 6, 1, 50, 12, 4, 2, 3, 0, 1.0, 1e-3)
ROWS = np.random.default_rng(0).integers(0, 50, (5, 13)).astype(np.int32)


@pytest.fixture(autouse=True)
def whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "WORTH_IT", 1)


def off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu_path.ENVIRONMENT_VARIABLE, "off")


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 2, AT_A_TIME // 64 + 3, 40)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_softmax(shape: tuple[int, ...], scale: float) -> None:
    """Against MLX's own, over several blocks, too, and at extreme scores."""
    x, weight = (mx.array(np.random.default_rng(n).normal(size=shape), dtype=mx.float32) for n in (0, 1))
    x = x * scale
    ours, theirs = (mx.value_and_grad(lambda x, f=f: (f(x) * weight).sum())(x) for f in (softmax, _softmax))
    np.testing.assert_allclose(ours[0].item(), theirs[0].item(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-6)
    np.testing.assert_allclose(softmax(x), _softmax(x), atol=1e-6)


def _softmax(x: Any) -> Any:
    return mx.softmax(x, axis=-1)


def test_hidden_scores_have_no_share_and_no_gradient() -> None:
    x = mx.array([[1.0, -np.inf, 2.0]])
    p = softmax(x)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-6)
    slope = mx.grad(lambda x: softmax(x)[0, 0])(x)
    assert p[0, 1] == slope[0, 1] == 0


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_cross_entropy(scale: float) -> None:
    rng = np.random.default_rng(0)
    logits = mx.array(rng.normal(size=(3, 700, 120)) * scale, dtype=mx.float32)
    targets, weight = mx.array(rng.integers(0, 120, (3, 700))), mx.array(rng.random((3, 700)), dtype=mx.float32)
    ours, theirs = (
        mx.value_and_grad(lambda z, f=f: (f(z, targets) * weight).sum())(logits)
        for f in (cross_entropy, nn.losses.cross_entropy)
    )
    assert cross_entropy(logits, targets).shape == (3, 700)
    np.testing.assert_allclose(ours[0].item(), theirs[0].item(), rtol=2e-6)
    np.testing.assert_allclose(ours[1], theirs[1], atol=2e-6)


def test_inside_compile_it_is_mlx() -> None:
    x, targets = mx.random.normal((4, 9)), mx.array([1, 2, 3, 4])
    mx.enable_compile()
    try:
        compiled: Callable[..., Any] = mx.compile(lambda x: softmax(x) * cross_entropy(x, targets)[:, None])
        np.testing.assert_allclose(compiled(x), softmax(x) * cross_entropy(x, targets)[:, None], atol=1e-6)
    finally:
        mx.disable_compile()


@pytest.mark.parametrize("router", [*router_names(), DENSE])
def test_a_model_has_the_loss_and_gradient_of_mlx(router: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of column, those without an expert included; 16 times the gates' weights, so that all are chosen."""
    args = model_args(SMALL, router)
    args.expert_dropout = 0.0  # random numbers would differ

    def loss_and_gradient() -> tuple[float, dict[str, Any]]:
        model = Model(args)
        initialise(model, args, 0)
        for layer in model.layers:
            if router == "tc_moe":
                layer.mlp.gate._offsets = layer.mlp.gate._offsets * 0
            if router != DENSE:
                layer.mlp.gate.weight = layer.mlp.gate.weight * 16
        model.train()
        (loss, _), gradient = nn.value_and_grad(model, Objective(model))(mx.array(ROWS))
        return loss.item(), dict(tree_flatten(gradient))

    ours = loss_and_gradient()
    off(monkeypatch)
    theirs = loss_and_gradient()
    assert ours[0] == pytest.approx(theirs[0], rel=2e-6)
    assert ours[1].keys() == theirs[1].keys()
    for name, value in theirs[1].items():
        np.testing.assert_allclose(ours[1][name], value, rtol=1e-3, atol=2e-6, err_msg=name)
