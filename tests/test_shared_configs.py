"""Configs and weight indexes of five public checkpoints: models built from them, and weights that land on their names.

An index names the weights and gives the bytes of all of them, not their shapes. Those are taken from the built model,
led back to what the checkpoint stores, and must sum to the index's bytes. Lazy zeros of these shapes then go through
mlx-lm's `sanitize`, and what comes out must have the names and the shapes of the model's parameters.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from mlx_moebench.families import family_for
from mlx_moebench.models.writers import mlx_settings, model_classes

mx = pytest.importorskip("mlx.core", reason="needs MLX")
from mlx.utils import tree_flatten  # noqa: E402

pytestmark = pytest.mark.shared_data

DATA = Path(os.environ.get("MOEBENCH_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "configs"
GRANITE, MIXTRAL, QWEN = "granite-3.1-1b-a400m", "mixtral-8x22b-wizardlm2", "qwen3.5-moe-reap-18b"

# name: (parameters, routers, E, K)
MODELS = {
    GRANITE: (1_334_628_352, 24, 32, 8),
    MIXTRAL: (140_620_634_112, 56, 8, 2),
    "mixtral-8x7b": (46_702_792_704, 32, 8, 2),
    "olmoe": (6_919_161_856, 16, 64, 8),
    QWEN: (18_543_997_568, 40, 128, 8),
}
BYTES = {GRANITE: 4, MIXTRAL: 2, QWEN: 2}  # of a stored number: that Granite's index is of a float32 checkpoint

Shapes = dict[str, tuple[int, ...]]


def read(name: str, file: str) -> dict[str, Any]:
    path = DATA / name / file
    if not path.exists():
        pytest.skip(f"no configs/{name}/{file} in the folder named by MOEBENCH_SHARED_DATA")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def config_of(name: str) -> dict[str, Any]:
    """Its config as the loader gives it to mlx-lm."""
    config = read(name, "config.json")
    return config | mlx_settings(family_for(config), config)


def built(name: str) -> Any:
    config = config_of(name)
    model_class, arguments = model_classes(family_for(config), config)
    return model_class(arguments.from_dict(config))


def shapes_of(model: Any) -> Shapes:
    return {name: array.shape for name, array in tree_flatten(model.parameters())}


def stored_shape(name: str, shapes: Shapes) -> tuple[int, ...]:
    """The shape of a weight as a checkpoint stores it, from those of the parameters that it becomes."""
    if name.startswith("model.language_model."):
        name = name.replace("model.language_model.", "language_model.model.")
    elif f"language_model.{name}" in shapes:
        name = f"language_model.{name}"
    if expert := re.fullmatch(r"(.*)\.experts\.\d+\.(\w+)\.weight", name):  # one expert of many
        part = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.get(expert[2], expert[2])
        return shapes[f"{expert[1]}.switch_mlp.{part}.weight"][1:]
    if name.endswith("input_linear.weight"):  # gate and up projections below one another
        experts, width, hidden = shapes[name.replace("input_linear", "switch_mlp.gate_proj")]
        return experts, 2 * width, hidden
    if name.endswith("output_linear.weight"):
        return shapes[name.replace("output_linear", "switch_mlp.down_proj")]
    if name.endswith("conv1d.weight"):  # PyTorch has the taps last
        channels, taps, one = shapes[name]
        return channels, one, taps
    return shapes[name]


def stored_weights(name: str, shapes: Shapes) -> dict[str, Any]:
    """Lazy zeros under every name of the index, of shapes that sum to its bytes."""
    index = read(name, "model.safetensors.index.json")
    weights = {weight: mx.zeros(stored_shape(weight, shapes)) for weight in index["weight_map"]}
    assert sum(array.size for array in weights.values()) * BYTES[name] == index["metadata"]["total_size"]
    return weights


def as_shapes(weights: dict[str, Any]) -> Shapes:
    return {name: array.shape for name, array in weights.items()}


@pytest.mark.parametrize("name", MODELS)
def test_parameters(name: str) -> None:
    assert sum(array.size for _, array in tree_flatten(built(name).parameters())) == MODELS[name][0]


@pytest.mark.parametrize("name", MODELS)
def test_routers_of_the_family(name: str) -> None:
    config = config_of(name)
    _, routers, experts, top_k = MODELS[name]
    specs = family_for(config).specs(config)
    assert [(spec.layer, spec.n_experts, spec.top_k) for spec in specs] == [(n, experts, top_k) for n in range(routers)]


@pytest.mark.parametrize("name", BYTES)
def test_weights_land_on_parameters(name: str) -> None:
    model = built(name)
    shapes = shapes_of(model)
    assert as_shapes(model.sanitize(stored_weights(name, shapes))) == shapes


def test_mlx_lm_alone_leaves_single_experts_of_qwen_as_they_are() -> None:
    """This checkpoint stores them one by one, and mlx-lm's own `sanitize` knows only fused ones."""
    model = built(QWEN)
    shapes = shapes_of(model)
    sanitized = as_shapes(type(model).__mro__[1].sanitize(model, stored_weights(QWEN, shapes)))
    left, missing = sanitized.keys() - shapes.keys(), shapes.keys() - sanitized.keys()
    assert len(left) == 40 * 128 * 3
    assert len(missing) == 40 * 3


def test_nothing_is_evaluated() -> None:
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = built(MIXTRAL)
    model.sanitize(stored_weights(MIXTRAL, shapes_of(model)))
    assert mx.get_peak_memory() - before < 1e6, "bytes that MLX allocated"
