"""The table of models: every sparse model of mlx-lm has a row, and what the rows say is so in the models they build."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

from conftest import build_tiny, built
from family_rows import BY_TYPE, CONFIGS, ROWS, RUNNABLE, Row, vocab_size

from mlx_moebench.families import families
from mlx_moebench.families.base import module_at

import mlx.core as mx  # isort: skip
from mlx.utils import tree_flatten  # isort: skip
from mlx_lm import models, utils  # isort: skip
from mlx_lm.models.cache import make_prompt_cache  # isort: skip
from mlx_lm.models.switch_layers import SwitchLinear  # isort: skip

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
each_that_runs = pytest.mark.parametrize("row", RUNNABLE, ids=lambda row: row.model_type)

IDS = [[7 * i % 320 for i in range(12)], [(11 * i + 5) % 320 for i in range(12)]]

pytestmark = pytest.mark.usefixtures("cpu")


@cache
def logits_of(model_type: str) -> Any:
    return built(model_type)(mx.array(IDS))


def test_every_sparse_model_of_mlx_lm_has_a_row() -> None:
    """Its modules that speak of experts, and those that import one of these."""
    sources = {path.stem: path.read_text(encoding="utf-8") for path in Path(models.__path__[0]).glob("*.py")}
    pattern = r"(?m)^from \.(\w+) import|^from \. import (.+)$"
    imports = {
        name: set(re.findall(r"\w+", " ".join(map(" ".join, re.findall(pattern, source)))))
        for name, source in sources.items()
    }
    sparse = {name for name, source in sources.items() if re.search(r"experts\b|SwitchMLP", source)} - {"switch_layers"}
    while more := {name for name in sources if imports[name] & sparse} - sparse:
        sparse |= more
    assert sparse == {name for name in BY_TYPE if not families()[name].module}


def test_aliases_are_those_of_mlx_lm() -> None:
    aliases = {alias: row.model_type for row in ROWS for alias in row.aliases}
    assert aliases == {alias: name for alias, name in utils.MODEL_REMAPPING.items() if name in BY_TYPE}
    of_architecture = {"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]}
    for config, name in [({"model_type": a}, n) for a, n in aliases.items()] + [(of_architecture, "bailing_moe_v3")]:
        assert utils._get_classes(config)[0].__module__ == f"mlx_lm.models.{name}"
    with pytest.raises(ValueError, match="hunyuan_v1_moe not supported"):
        utils._get_classes({"model_type": "hunyuan_v1_moe"})


@each_row
def test_configs_fit_the_tests(row: Row) -> None:
    assert row.config["model_type"] == row.model_type
    assert row.config["eos_token_id"] == 0
    assert vocab_size(row.config) == 320
    before = deepcopy(row.config)
    build_tiny(model_type=row.model_type)
    assert row.config == before


@each_row
def test_paths_lead_to_routers_in_the_sparse_layers_alone(row: Row) -> None:
    layers = built(row.model_type).layers
    assert max(row.layers) < len(layers)
    for index, layer in enumerate(layers):
        for (_, n_experts, _), place in zip(row.routers, row.places, strict=True):
            gate, experts = module_at(layer, place.gate), module_at(layer, place.experts)
            if index not in row.layers:
                assert gate is None
                assert experts is None
                assert not place.bias or module_at(layer, place.bias) is None
                continue
            assert module_at(layer, place.block) is not None
            n_rows = n_experts + row.zero_experts
            assert gate.weight.shape == (n_rows, 64)
            if place.bias:
                assert module_at(layer, place.bias).shape == (n_rows,)
            if isinstance(experts, list):
                assert len(experts) == n_experts
            else:
                # Its own, not those of a module inside, which would be called with fewer arguments; or what the lab
                # gives the numbers of networks, where it was given those of columns.
                networks = experts.get("ffn", experts)
                switches = [child for child in networks.children().values() if isinstance(child, SwitchLinear)]
                assert {switch.num_experts for switch in switches} == {n_experts}


# What decides which blocks are sparse, beyond the rows' own configs; inside text_config where the row has one.
SPARSE = [
    ("qwen2_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [0]}, [0, 1, 2]),
    ("qwen3_next", {"mlp_only_layers": [3]}, [1]),
    ("qwen3_5_moe", {"num_experts": 0}, []),
    ("hunyuan", {"num_experts": 1}, []),
    ("ernie4_5_moe", {"moe_layer_start_index": [2, 1], "moe_layer_end_index": [1, 2]}, [1, 2]),
    ("ernie4_5_moe", {"moe_layer_end_index": None, "moe_layer_interval": 2}, [1, 3]),
    ("deepseek", {"n_routed_experts": None}, []),
    ("deepseek_v3", {"moe_layer_freq": 2}, [2]),
    ("glm4_moe", {"moe_layer_freq": 2}, [1, 2]),
    ("jamba", {"expert_layer_period": 3, "expert_layer_offset": 2}, [1]),
    ("granitemoehybrid", {"num_local_experts": 0}, []),
    ("gemma4_text", {"enable_moe_block": False}, []),
    ("llama4", {"interleave_moe_layer_step": 1}, [0, 1, 2, 3]),
    (
        "nemotron_h",
        {"hybrid_override_pattern": None, "layers_block_type": ["moe", "mlp", "mamba", "attention", "moe"]},
        [0, 4],
    ),
    ("nemotron_h", {"layers_block_type": ["moe", "mlp", "mamba", "attention", "moe"]}, [2, 4]),
    ("afmoe", {"num_dense_layers": 2}, [2]),
    ("kimi_linear", {"first_k_dense_replace": 0, "mlp_layer_types": ["dense", "sparse", "sparse"]}, [0, 1, 2]),
    ("minimax_m3_vl", {"mlp_layer_types": None, "moe_layer_freq": [1, 0, 1]}, [0, 2]),
    ("minimax_m3_vl", {"mlp_layer_types": None}, [0, 1, 2]),
    ("step3p5", {"moe_layers_enum": None, "mlp_layer_types": ["dense", "dense", "dense", "sparse"]}, [1, 2, 3]),
    ("laguna", {"mlp_layer_types": None}, [1, 2]),
]


@pytest.mark.parametrize(("model_type", "change", "layers"), SPARSE)
def test_what_makes_a_block_sparse(model_type: str, change: dict[str, Any], layers: list[int]) -> None:
    row = BY_TYPE[model_type]
    if text := row.config.get("text_config"):
        change = {"text_config": text | change}
    model = build_tiny(model_type=model_type, **change)
    assert [i for i, layer in enumerate(model.layers) if module_at(layer, row.places[0].gate)] == layers


def test_bailing_moe_scales_whatever_its_config_says() -> None:
    changed = build_tiny(model_type="bailing_moe", moe_router_enable_routed_scaling=False)(mx.array(IDS))
    assert mx.array_equal(changed, logits_of("bailing_moe"))


def test_deepseek_v2_needs_a_scaled_rope() -> None:
    with pytest.raises(AttributeError, match="NoneType"):
        build_tiny(model_type="deepseek_v2", rope_scaling=None)


@each_row
def test_what_decides_is_random(row: Row) -> None:
    """A gate or a bias of all zeros, and scales of all ones, would hide many a fault."""
    layers = built(row.model_type).layers
    drawn: list[Any] = []
    for index in row.layers:
        for place in row.places:
            drawn.append(module_at(layers[index], place.gate).weight)
            assert 1.5 < (drawn[-1].std() * 64**0.5).item() < 2.5
            if place.bias:
                drawn.append(module_at(layers[index], place.bias))
                assert drawn[-1].min().item() < 0 < drawn[-1].max().item()
        drawn += [module_at(layers[index], path) for path in row.random]
    assert all(array.var().item() > 0.01 for array in drawn)


@each_row
def test_nothing_else_in_a_sparse_block_is_left_as_built(row: Row) -> None:
    """What is the same everywhere is a norm, or belongs to a shared expert that is packed as zeros."""
    layer = built(row.model_type).layers[row.layers[0]]
    for name in {path.partition(".")[0] for place in row.places for path in (place.block, place.gate)}:
        for path, array in tree_flatten(layer[name].parameters()):
            if not re.search(r"norm|\bshared_expert\.", path) and array.size > 1:
                assert array.var().item() > 0, f"{name}.{path}"


@each_that_runs
def test_logits_are_finite(row: Row) -> None:
    logits = logits_of(row.model_type)
    assert logits.shape == (2, 12, 320)
    assert mx.isfinite(logits).all().item()


@each_that_runs
def test_a_cache_changes_nothing(row: Row) -> None:
    model, whole = built(row.model_type), logits_of(row.model_type)
    kept = make_prompt_cache(model)
    pieces = [model(mx.array(IDS)[:, piece], cache=kept) for piece in (slice(0, 7), slice(7, 11), slice(11, 12))]
    assert mx.abs(mx.concatenate(pieces, axis=1) - whole).max().item() < 1e-4
    # The second piece alone, without what the cache holds, is something else.
    assert mx.abs(model(mx.array(IDS)[:, 7:]) - whole[:, 7:]).max().item() > 1e-2


def watch(module: Any, seen: Callable[[Any, tuple[Any, ...], Any], None]) -> None:
    """Call ``seen(module, arguments, result)`` whenever ``module`` is called."""

    class Watched(type(module)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            result = super().__call__(*args, **kwargs)
            seen(self, args, result)
            return result

    module.__class__ = Watched


@each_that_runs
def test_experts_are_called_with_indices_and_the_block_returns_hidden_states(row: Row) -> None:
    model = build_tiny(model_type=row.model_type)
    chosen: list[Any] = []
    returned: list[Any] = []
    looped = False
    for index in row.layers:
        for place in row.places:
            experts = module_at(model.layers[index], place.experts)
            if looped := isinstance(experts, list):
                continue
            watch(experts, lambda module, args, result: chosen.append(args[1]))
            watch(module_at(model.layers[index], place.block), lambda module, args, result: returned.append(result))
    model(mx.array(IDS))
    if looped:
        return
    assert len(returned) == len(chosen) == len(row.specs)
    for indices, output, (_, _, _, n_experts, top_k) in zip(chosen, returned, row.specs, strict=True):
        # Some blocks flatten the tokens first.
        assert indices.shape in ((2, 12, top_k), (24, top_k))
        assert indices.min().item() >= 0
        assert indices.max().item() < n_experts
        assert len(set(indices.flatten().tolist())) > top_k, "the gate makes a difference"
        assert (output[0] if isinstance(output, tuple) else output).shape == (2, 12, 64)


@pytest.mark.parametrize(
    ("row", "change"),
    [pytest.param(row, v, id=f"{row.model_type}-{n}") for row in ROWS for n, v in enumerate(row.variants)],
)
def test_variants_matter(row: Row, change: dict[str, Any]) -> None:
    logits = build_tiny(model_type=row.model_type, **change)(mx.array(IDS))
    assert mx.isfinite(logits).all().item()
    assert mx.abs(logits - logits_of(row.model_type)).max().item() > 1e-3


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.fill is not None and row.bias], ids=lambda row: row.model_type
)
def test_fill_of_dropped_groups(row: Row) -> None:
    """With scores below 0, experts of dropped groups are chosen where these are filled with 0, and only there."""
    model = build_tiny(model_type=row.model_type)
    [place], index = row.places, row.layers[-1]
    layer = model.layers[index]
    parent, _, name = place.bias.rpartition(".")
    # The first two groups are kept, whatever the logits.
    kept = mx.array([-2.0] * 8 + [-4.0] * 8)
    setattr(module_at(layer, parent), name, kept)
    chosen: list[Any] = []
    watch(module_at(layer, place.experts), lambda module, args, result: chosen.append(args[1]))
    model(mx.array(IDS))
    [indices] = chosen
    assert (indices >= 8).all().item() if row.fill == 0 else (indices < 8).all().item()
    assert row.fill in (0.0, -math.inf)


@pytest.mark.skipif(mx.metal.is_available(), reason="on Apple's GPU its kernels run")
@pytest.mark.parametrize("row", [row for row in ROWS if row.unrunnable], ids=lambda row: row.model_type)
def test_what_cannot_run_cannot(row: Row) -> None:
    with pytest.raises(RuntimeError, match="No Metal back-end"):
        mx.eval(built(row.model_type)(mx.array(IDS)))
    with pytest.raises(RuntimeError, match="No Metal back-end"):
        mx.eval(module_at(built(row.model_type).layers[0], row.places[0].block)(mx.zeros((1, 2, 64))))
    assert row.model_type not in CONFIGS
