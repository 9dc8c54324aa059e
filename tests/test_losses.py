"""Losses on the routing: values at balance, gradients against closed forms and differences, extremes, padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mlx_moebench.routing.record import Routing

mx = pytest.importorskip("mlx.core", reason="needs MLX")
from mlx_moebench.train import losses  # noqa: E402

B, S, E, K = 3, 5, 8, 2
SIGNALS = ("marginal", "token", "load")


def routing(z: Any, mask: Any = None, rule: Any = "softmax") -> Routing:
    indices = mx.argpartition(-mx.stop_gradient(z), kth=K - 1, axis=-1)[..., :K]
    mask = mx.ones(z.shape[:2], dtype=mx.bool_) if mask is None else mx.array(mask)
    return Routing(z, indices, mx.take_along_axis(z, indices, axis=-1), mask, rule)


def random_logits(seed: int = 0, spread: float = 2.0) -> Any:
    return mx.array(np.random.default_rng(seed).normal(size=(B, S, E)) * spread, dtype=mx.float32)


def balanced() -> Routing:
    """Every expert chosen equally often, with p uniform in the mean."""
    z = np.full((1, E, E), -3.0)
    for t in range(E):
        z[0, t, [t, (t + 1) % E]] = 3.0
    return routing(mx.array(z, dtype=mx.float32))


def floored(z: Any, floor: float, signal: Any, scope: Any = "batch", rule: Any = "softmax", mask: Any = None) -> Any:
    return losses.entropy_floor(losses.token_sums(routing(z, mask, rule), scope), floor, signal)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_balance_losses_are_one_at_balance_and_floors_zero(scope: Any) -> None:
    sums = losses.token_sums(balanced(), scope)
    assert losses.balance_loss(sums).item() == pytest.approx(1, abs=1e-6)
    assert losses.balance_loss(sums, load=mx.full((1, E), 1 / E)).item() == pytest.approx(1, abs=1e-6)
    for signal in ("marginal", "load"):
        assert losses.entropy_floor(sums, math.log(E) - 1e-6, signal).item() == 0
    assert losses.marginal_entropy(sums)[0].item() == pytest.approx(math.log(E), abs=1e-6)
    assert losses.load_entropy(sums)[0].item() == pytest.approx(math.log(E), abs=1e-6)


def test_one_expert_for_all_is_the_worst_balance() -> None:
    z = mx.zeros((2, 4, E)) + mx.array([40.0, 20.0] + [0.0] * (E - 2))
    sums = losses.token_sums(routing(z))
    assert losses.balance_loss(sums).item() == pytest.approx(E / K, rel=1e-6)  # f is 1/2 where P is 1
    assert losses.entropy_floor(sums, 1.0, "marginal").item() == pytest.approx(1, abs=1e-6)
    assert losses.entropy_floor(sums, 1.0, "load").item() == pytest.approx(1 - math.log(2), abs=1e-6)


def test_z_loss_is_the_mean_square_of_logsumexp() -> None:
    z = random_logits()
    expected = np.log(np.exp(np.array(z, dtype=np.float64)).sum(-1)) ** 2
    assert losses.router_z_loss(losses.token_sums(routing(z))).item() == pytest.approx(expected.mean(), rel=1e-5)


def p_of(z: np.ndarray[Any, Any], rule: str) -> np.ndarray[Any, Any]:
    score = 1 / (1 + np.exp(-z)) if rule == "sigmoid_normalised" else np.exp(z - z.max(-1, keepdims=True))
    out: np.ndarray[Any, Any] = score / score.sum(-1, keepdims=True)
    return out


@pytest.mark.parametrize("rule", ["softmax", "sigmoid_normalised"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_gradients_are_the_closed_forms(signal: Any, rule: Any) -> None:
    z = random_logits(1)
    gradient = np.array(mx.grad(lambda z: floored(z, math.log(E), signal, rule=rule))(z), dtype=np.float64)
    z64 = np.array(z, dtype=np.float64)
    p, n = p_of(z64, rule), B * S
    if signal == "token":
        log_p = np.log(p)
        expected = p * (log_p - (p * log_p).sum(-1, keepdims=True)) / n
    else:  # of the load, too: its gradient is that of the mean routing
        log_mean = np.log(p.mean((0, 1)))
        expected = p / n * (log_mean - (p * log_mean).sum(-1, keepdims=True))
    if rule == "sigmoid_normalised":
        expected = expected * (1 - 1 / (1 + np.exp(-z64)))
    np.testing.assert_allclose(gradient, expected, atol=2e-7)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("name", ["marginal", "token", "balance", "z"])
def test_gradients_agree_with_finite_differences(name: str, scope: Any) -> None:
    def loss(z: Any) -> Any:
        record = routing(z)
        sums = losses.token_sums(Routing(z, chosen, record.weights, record.mask), scope)
        if name == "balance":
            return losses.balance_loss(sums)
        return losses.router_z_loss(sums) if name == "z" else losses.entropy_floor(sums, 2.0, name)  # type: ignore[arg-type]

    with mx.stream(mx.cpu):
        z = random_logits(2).astype(mx.float64)
        chosen = routing(z).indices
        gradient = np.array(mx.grad(loss)(z))
        step = 3e-3  # large, because MLX computes exp and log in float64 to about 1e-10 only
        rng = np.random.default_rng(0)
        for b, s, e in zip(rng.integers(B, size=6), rng.integers(S, size=6), rng.integers(E, size=6), strict=True):
            move = np.zeros((B, S, E))
            move[b, s, e] = step
            up, down = (loss(z + mx.array(sign * move, dtype=mx.float64)).item() for sign in (1, -1))
            assert gradient[b, s, e] == pytest.approx((up - down) / (2 * step), abs=2e-6)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("rule", ["softmax", "sigmoid_normalised"])
def test_extreme_logits_give_finite_losses_and_gradients(signal: Any, rule: Any) -> None:
    z = random_logits(3, spread=1e4)
    value, gradient = mx.value_and_grad(lambda z: floored(z, 2.0, signal, rule=rule))(z)
    assert 0 <= value.item() <= 2
    assert mx.isfinite(gradient).all().item()
    sums = losses.token_sums(routing(z))
    assert all(mx.isfinite(x).all().item() for x in (losses.balance_loss(sums), losses.router_z_loss(sums)))


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_padding_counts_neither_in_values_nor_in_gradients(signal: Any, scope: Any) -> None:
    z = random_logits(4)
    padded = mx.concatenate([z, mx.full((B, 2, E), math.nan)], axis=1)
    mask = mx.concatenate([mx.ones((B, S)), mx.zeros((B, 2))], axis=1) > 0
    value, gradient = mx.value_and_grad(lambda z: floored(z, 2.0, signal, scope))(z)
    with_padding, its_gradient = mx.value_and_grad(lambda z: floored(z, 2.0, signal, scope, mask=mask))(padded)
    assert with_padding.item() == pytest.approx(value.item(), abs=1e-6)
    np.testing.assert_allclose(np.array(its_gradient[:, :S]), np.array(gradient), atol=1e-7)
    assert not np.array(its_gradient[:, S:]).any()


def test_a_sequence_without_a_token_does_not_count() -> None:
    z = random_logits(5)
    mask = mx.array([[True] * S, [True] * S, [False] * S])
    both = floored(z[:2], 2.0, "marginal", "sequence").item()
    assert floored(z, 2.0, "marginal", "sequence", mask=mask).item() == pytest.approx(both, abs=1e-6)


def test_the_load_fires_where_the_marginal_entropy_is_already_high() -> None:
    # p is nearly even for every token, yet the same two experts are chosen each time.
    z = mx.zeros((2, 4, E)) + mx.array([0.02, 0.01] + [0.0] * (E - 2))
    sums = losses.token_sums(routing(z))
    assert losses.entropy_floor(sums, 2.0, "token").item() == 0
    assert losses.entropy_floor(sums, 2.0, "marginal").item() == 0
    assert losses.entropy_floor(sums, 2.0, "load").item() == pytest.approx(2 - math.log(2), abs=1e-6)
    gradient = mx.grad(lambda z: floored(z, 2.0, "load"))(z)
    assert (gradient[..., 0] > 0).all().item()  # descent lowers the logit of the busiest expert
    assert (gradient[..., 2] < 0).all().item()  # and raises that of an idle one
