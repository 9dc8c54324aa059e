"""Parity with transformers, family by family: the same random weights, the same routing, the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_rows import BY_TYPE, CONFIGS, ROWS
from mlx_lm.utils import load_model
from transformers_models import random_transformers, torch

from mlx_moebench import load
from mlx_moebench.errors import ModelLoadError
from mlx_moebench.families import families
from mlx_moebench.instrument import capture
from torch_fallback.caches import cache_argument, returned_cache

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
from mlx.utils import tree_flatten  # isort: skip
from mlx_lm.models.cache import make_prompt_cache  # isort: skip


NEAR_TIE = 1e-6
TOLERANCE = 1e-5
PROMPT = 11  # tokens of a row that fill the cache in one forward; the rest follow one by one

# What mlx-lm is known to compute differently, and why. The test below proves that it still does.
EXPECTED_DIFFERENCES = {
    ("qwen2_moe", "norm_topk_prob"): "mlx-lm ignores it and never renormalises; Qwen1.5-MoE-A2.7B sets it to false",
}

Routed = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of one router: logits [T, E], chosen experts [T, K], gate weights [T, K]."""


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(5).integers(1, 320, (2, 24))


def watch_routers(model: Any, model_type: str) -> list[Routed]:
    """The list to which every later forward of a transformers model adds each router, in running order.

    Read here once more, without the code of `torch_fallback.capture`: a hook for every form of a router's output.
    """
    routed: list[Routed] = []

    def logits_weights_indices(_module: Any, _inputs: Any, output: Any) -> None:
        logits, weights, indices = output
        assert not np.allclose(logits.sum(-1), 1), "router_logits were already softmaxed"
        routed.append((logits.numpy(), indices.numpy(), weights.numpy()))

    def sorted_by_expert(module: Any, _inputs: Any, output: Any) -> None:
        # Selections come sorted by expert: which selection each is, and how many every expert got.
        order, _rows, gates, counts, logits = output
        shape = (len(logits), module.top_k)
        indices, weights = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
        indices.flat[order.numpy()] = np.repeat(np.arange(module.num_experts), counts)
        weights.flat[order.numpy()] = gates.numpy()
        routed.append((logits.numpy(), indices, weights))

    hooks = {hook.__name__: hook for hook in (logits_weights_indices, sorted_by_expert)}
    for layer, _, router, *_ in BY_TYPE[model_type].specs:
        form = families()[model_type].form(router)
        model.model.layers[layer].get_submodule(form.torch_gate).register_forward_hook(hooks[form.torch_output])
    return routed


def forward(model: Any, ids: np.ndarray) -> tuple[np.ndarray, list[Routed]]:
    """The logits of our model, and what each router did."""
    routed: list[Routed] = []
    mask = mx.ones(ids.shape, dtype=mx.bool_)

    def sink(number: int, logits: mx.array, indices: mx.array, _shape: tuple[int, ...]) -> None:
        routing = taps.routing(number, logits, indices, mask)
        arrays = (routing.logits, routing.indices, routing.weights)
        routed.append(tuple(np.array(a).reshape(mask.size, -1) for a in arrays))  # type: ignore[arg-type]

    with capture(model, sink) as taps:
        return np.array(model(mx.array(ids))), routed


def over_experts(routed: Routed, values: np.ndarray) -> np.ndarray:
    """Values per selection [T, K] as values per expert [T, E], zero where an expert was not chosen."""
    logits, indices, _ = routed
    result = np.zeros(logits.shape)
    np.put_along_axis(result, indices.astype(np.int64), values, axis=-1)
    return result


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64) - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def assert_same_choice(ours: list[Routed], theirs: list[Routed]) -> None:
    """Same chosen sets, near-ties listed, and routing distributions within 1e-5."""
    ties = []
    for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        p, k = softmax(our[0]), our[1].shape[-1]
        np.testing.assert_allclose(p, softmax(their[0]), atol=TOLERANCE, rtol=0)
        chosen = [over_experts(r, np.ones(r[1].shape)) for r in (our, their)]
        assert (chosen[0].sum(-1) == k).all()
        for token in np.flatnonzero((chosen[0] != chosen[1]).any(-1)):
            ordered = np.sort(p[token])[::-1]
            ties.append((number, int(token), float(ordered[k - 1] - ordered[k])))
    assert all(gap < NEAR_TIE for *_, gap in ties), f"chosen sets differ away from ties: {ties}"


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(
    ("model_type", "config"),
    [(row.model_type, changed) for row in ROWS for changed in ({}, *row.variants)],
    ids=str,
)
def test_routing_and_logits(tmp_path: Path, ids: np.ndarray, model_type: str, config: dict[str, Any]) -> None:
    theirs = random_transformers(tmp_path, model_type, **config)
    their_routing = watch_routers(theirs, model_type)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), use_cache=False).logits.numpy()
    model, _ = load(tmp_path)
    logits, routing = forward(model, ids)
    assert_same_choice(routing, their_routing)
    for our, their in zip(routing, their_routing, strict=True):
        np.testing.assert_allclose(over_experts(our, our[2]), over_experts(their, their[2]), atol=TOLERANCE, rtol=0)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_logits_with_a_cache(tmp_path: Path, ids: np.ndarray, model_type: str) -> None:
    theirs = random_transformers(tmp_path, model_type)
    model, _ = load(tmp_path)
    cache, expected, logits, past = make_prompt_cache(model), [], [], None
    for part in np.split(ids, range(PROMPT, ids.shape[1]), axis=1):
        with torch.no_grad():
            output = theirs(torch.tensor(part), use_cache=True, **{cache_argument(theirs): past})
        past = returned_cache(output)
        expected.append(output.logits.numpy())
        logits.append(np.array(model(mx.array(part), cache=cache)))
    np.testing.assert_allclose(np.hstack(logits), np.hstack(expected), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(np.hstack(logits), model(mx.array(ids)), atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("model_type", [name for name, family in families().items() if family.port])
def test_gradients_of_our_own_port(tmp_path: Path, ids: np.ndarray, model_type: str) -> None:
    theirs = random_transformers(tmp_path, model_type)
    (theirs(torch.tensor(ids), use_cache=False).logits ** 2).mean().backward()
    model, _ = load(tmp_path)
    _, gradients = nn.value_and_grad(model, lambda m: (m(mx.array(ids)) ** 2).mean())(model)
    expected = model.sanitize({name: mx.array(p.grad.numpy()) for name, p in theirs.named_parameters()})
    gradients = dict(tree_flatten(gradients))
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        atol = TOLERANCE * mx.abs(expected[name]).max().item()
        np.testing.assert_allclose(gradient, expected[name], atol=atol, rtol=0, err_msg=name)


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(("model_type", "setting"), list(EXPECTED_DIFFERENCES))
def test_expected_differences_are_still_there(tmp_path: Path, ids: np.ndarray, model_type: str, setting: str) -> None:
    theirs = random_transformers(tmp_path, model_type, **{setting: True})
    their_routing = watch_routers(theirs, model_type)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), use_cache=False).logits.numpy()
    with pytest.raises(ModelLoadError, match=setting):
        load(tmp_path)
    model, _ = load_model(tmp_path, model_config={"rope_theta": 700.0})
    logits, routing = forward(model, ids)
    # Up to the first block both compute the same, so its router chooses the same; only the weights differ.
    assert_same_choice(routing[:1], their_routing[:1])
    (_, _, ours), their = routing[0], their_routing[0]
    np.testing.assert_allclose(their[2].sum(-1), 1, atol=TOLERANCE)
    assert ours.sum(-1).min() < 0.9
    renormalised = over_experts(routing[0], ours / ours.sum(-1, keepdims=True))
    np.testing.assert_allclose(renormalised, over_experts(their, their[2]), atol=TOLERANCE, rtol=0)
    assert np.abs(logits - expected).max() > 0.01


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(
    ("model_type", "setting", "value"), [(row.model_type, *item) for row in ROWS for item in row.refused.items()]
)
def test_what_mlx_lm_would_compute_otherwise_is_refused(
    tmp_path: Path, model_type: str, setting: str, value: Any
) -> None:
    if setting == "rope_scaling":  # as transformers 5 calls it
        setting, value = "rope_parameters", value | {"rope_theta": 700.0}
    random_transformers(tmp_path, model_type, **{setting: value})
    with pytest.raises(ModelLoadError, match="numbers would be those of another model"):
        load(tmp_path)


@pytest.mark.usefixtures("cpu")
def test_rope_scaling_that_mlx_lm_has_reaches_it(tmp_path: Path, ids: np.ndarray) -> None:
    rope = {"rope_theta": 700.0, "rope_type": "linear", "factor": 4.0}
    theirs = random_transformers(tmp_path, "olmoe", rope_parameters=rope)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), use_cache=False).logits.numpy()
    model, _ = load(tmp_path)
    np.testing.assert_allclose(forward(model, ids)[0], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("cpu")
def test_dense_blocks_of_qwen2_moe_are_refused(tmp_path: Path) -> None:
    random_transformers(tmp_path, "qwen2_moe", decoder_sparse_step=2)
    with pytest.raises(ModelLoadError, match=r"config\.json and weights do not fit"):
        load(tmp_path)
