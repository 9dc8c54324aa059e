"""Families: found by listing the folder, right for a config, and clear about what they do not serve."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from family_rows import BY_TYPE, CONFIGS, ROWS, Row

from mlx_moebench.errors import ModelLoadError, MoebenchError, UnsupportedModelError
from mlx_moebench.families import Config, Key, by_model_type, families, family_for, setting
from mlx_moebench.families.base import module_at
from mlx_moebench.families.settings import value_of

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_specs_follow_from_the_config(row: Row) -> None:
    specs = family_for(row.config).specs(row.config)
    assert [(s.layer, s.moe_layer, s.router, s.n_experts - row.zero_experts, s.top_k) for s in specs] == row.specs
    assert {s.kinds for s in specs} == {
        (*("ffn",) * row.routers[0][1], *("copy",) * row.zero_experts) if row.zero_experts else None
    }
    assert len({spec.name for spec in specs}) == len(specs)


def test_every_family_has_a_row() -> None:
    """Its own, or that of the model which mlx-lm loads for it."""
    named = {row.model_type for row in ROWS} | {alias for row in ROWS for alias in row.aliases}
    of_mlx = {kind: family for kind, family in families().items() if not family.only_torch and family.routers}
    assert named | {kind for family in of_mlx.values() for kind in family.wrapped} == set(of_mlx)
    assert named <= set(families())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_every_built_in_setting_has_another_value_in_its_row(row: Row) -> None:
    family = family_for(row.config)
    assert row.refused.keys() == family.built_in.keys()
    for key, value in row.refused.items():
        section, _, inner = key.rpartition(".")
        config = row.config | ({section: row.config[section] | {inner: value}} if section else {key: value})
        with pytest.raises(ModelLoadError, match=f"{key} = .* numbers would be those of another model"):
            family.check(config)


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"decoder_sparse_step": None, "mlp_only_layers": None}, [0, 1, 2, 3, 4, 5]),
        ({"decoder_sparse_step": 2}, [1, 3, 5]),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [0, 3]}, [1, 5]),
        ({"mlp_only_layers": [0, 5]}, [1, 2, 3, 4]),
    ],
)
def test_qwen2_moe_may_have_dense_blocks(config: dict[str, Any], layers: list[int]) -> None:
    config |= {"model_type": "qwen2_moe", "num_hidden_layers": 6, "num_experts": 60, "num_experts_per_tok": 4}
    specs = family_for(config).specs(config)
    assert [(spec.layer, spec.moe_layer) for spec in specs] == [(layer, n) for n, layer in enumerate(layers)]


def strings(path: Path) -> Iterator[ast.Constant]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))


# AllenAI's counts of OLMoE name no model_type, so the file that reads them does.
@pytest.mark.parametrize("package", ["mlx_moebench", "torch_fallback"])
def test_only_the_families_folder_names_families(package: str) -> None:
    files = (ROOT / package).rglob("*.py")
    named = {path.relative_to(ROOT) for path in files for node in strings(path) if node.value in families()}
    assert {path for path in named if path.parent.name != "families"} <= {Path("mlx_moebench/data/importers/olmoe.py")}


# Architectures that may have no family; settings that one family alone reads; tables of other libraries' models.
LISTS = (
    "test_fourbit.py",
    "test_checkpoints.py",
    "test_rows.py",
    "torch_rows.py",
    "mended_weights.py",
    "test_parity.py",
    "test_torch_models.py",
    "test_vlm.py",
    "test_written_configs.py",
    "vlm_models.py",
)


def test_no_test_lists_families_by_hand() -> None:
    """What is tested for several families is tested for every row: a list of names would leave the next one out."""
    for path in (ROOT / "tests").rglob("*.py"):
        if path.parent.name == "family_rows":  # the table itself
            continue
        if path.name in LISTS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
            first = [item.elts[0] if isinstance(item, ast.Tuple) and item.elts else item for item in items]
            names = [item.value for item in first if isinstance(item, ast.Constant) and item.value in families()]
            assert len(names) < 2, f"{path.name}, line {node.lineno} lists {names}"


def test_two_families_may_not_claim_one_model_type() -> None:
    olmoe = families()["olmoe"]
    with pytest.raises(MoebenchError, match="'olmoe' is claimed by olmoe and other"):
        by_model_type([olmoe, replace(olmoe, name="other")])


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "num_hidden_layers": 2},
        {"model_type": "llama", "num_experts": None, "num_local_experts": 0},
        {"model_type": "gemma3", "text_config": {"hidden_size": 8}},
        {"model_type": None},
        {},
    ],
)
def test_dense_models_are_named_as_dense(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="is dense: its config names no experts") as caught:
        family_for(config)
    assert "choose a sparse model (mlx-moebench models lists them)" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"model_type": "olmo4_moe", "num_experts": 32}, "num_experts=32"),
        ({"model_type": "olmo4", "num_local_experts": 8}, "num_local_experts=8"),
        ({"model_type": "olmo4", "n_routed_experts": 160}, "n_routed_experts=160"),
        ({"model_type": "olmo4", "moe_num_experts": [64, 64]}, "moe_num_experts="),
        ({"model_type": "olmo4", "text_config": {"num_experts_per_tok": 4}}, "num_experts_per_tok=4"),
    ],
)
def test_unknown_sparse_models_are_named_with_the_way_forward(config: dict[str, Any], count: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        family_for(config)
    message = str(caught.value)
    assert repr(config["model_type"]) in message
    assert count in message
    looks_for = r"the nearest, '(\w+)', looks for '([\w.]+)' with '([\w.]+)' in each sparse block"
    nearest, gate, experts = re.search(looks_for, message).groups()  # type: ignore[union-attr]
    assert (gate, experts) == (families()[nearest].routers[0].gate, families()[nearest].routers[0].experts)
    assert message.endswith("see CONTRIBUTING.md, 'Adding a family'.")


def test_a_missing_setting_is_named() -> None:
    config = {"model_type": "olmoe", "num_hidden_layers": 2, "num_experts": 8}
    with pytest.raises(ModelLoadError, match="'olmoe' model lacks 'num_experts_per_tok'"):
        family_for(config).specs(config)


def test_settings_are_also_found_in_the_text_config() -> None:
    assert setting({"num_experts": None, "text_config": {"num_experts": 4}}, "num_experts") == 4


@pytest.mark.parametrize("written", ["num_experts", "num_local_experts"])
def test_a_setting_that_writers_call_otherwise(written: str) -> None:
    """transformers 5 writes num_local_experts where mlx-lm reads num_experts."""
    either = replace(families()["olmoe"], n_experts=("num_experts", "num_local_experts"))
    config = {"model_type": "olmoe", "num_hidden_layers": 2, written: 8, "num_experts_per_tok": 2}
    assert {spec.n_experts for spec in either.specs(config)} == {8}
    assert {spec.n_experts for spec in either.specs({"model_type": "olmoe", "text_config": config} | config)} == {8}
    assert either.renamed(config) == ({} if written == "num_experts" else {"num_experts": 8})
    with pytest.raises(ModelLoadError, match=f"chooses num_experts_per_tok = 9 of {written} = 8 experts"):
        either.specs(config | {"num_experts_per_tok": 9})
    with pytest.raises(ModelLoadError, match=f"has {written} = 0; it must be a whole number of 1 or more"):
        either.specs(config | {written: 0})
    del config[written]
    assert either.renamed(config) == {}
    with pytest.raises(ModelLoadError, match="lacks 'num_experts' or 'num_local_experts'; add it"):
        either.specs(config)


def test_module_at_walks_a_dotted_path() -> None:
    class Block:
        mlp = type("Mlp", (), {"gate": "here"})

    assert module_at(Block(), "mlp.gate") == "here"
    assert module_at(Block(), "mlp.router") is None
    assert module_at(Block(), "attention.router.gate") is None


def test_families_import_and_compute_without_mlx() -> None:
    code = """
import sys
class NoMlx:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"mlx", "mlx_lm", "torch", "transformers"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoMlx())
import numpy as np
from mlx_moebench.families import families
form = families()["olmoe"].routers[0]
g = form.rule.weights(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1, 2), np.int64), {})
assert g.tolist() == [[[0.25, 0.25]]]
assert not [name for name in sys.modules if name.split(".")[0] in {"mlx", "mlx_lm", "torch"}]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# -- settings --------------------------------------------------------------------------------------------------------


def test_a_setting_that_may_be_left_out() -> None:
    key = Key(("a", "b.c"), 7)
    cases: list[tuple[Config, Any]] = [
        ({}, 7),
        ({"a": None}, 7),
        ({"a": 0}, 0),
        ({"a": False}, False),
        ({"b": {"c": 3}}, 3),
        ({"b": {"c": 3}, "a": 2}, 2),
        ({"b": 3}, 7),
        ({"text_config": {"a": 5}}, 5),
        ({"text_config": {"a": 5}, "a": 4}, 4),
        ({"text_config": None}, 7),
    ]
    assert [value_of(config, key) for config, _ in cases] == [value for _, value in cases]
    assert value_of({"a": 1}, 3) == 3, "a number stands for itself"


def test_top_k_may_be_a_list_with_a_number_for_each_layer() -> None:
    config = CONFIGS["hunyuan"] | {"moe_topk": [1, 2, 3]}
    assert [spec.top_k for spec in family_for(config).specs(config)] == [1, 2, 3]
    with pytest.raises(ModelLoadError, match="has 2 values of moe_topk for"):
        family_for(config).specs(config | {"moe_topk": [1, 2]})


def test_experts_that_differ_from_layer_to_layer_are_refused() -> None:
    config = CONFIGS["olmoe"] | {"num_experts": [8, 8, 4]}
    with pytest.raises(ModelLoadError, match=r"has num_experts = \[8, 8, 4\], a number for each layer"):
        family_for(config).specs(config)


def test_counts_may_stand_in_a_section() -> None:
    config = CONFIGS["dbrx"]
    assert {(s.n_experts, s.top_k) for s in family_for(config).specs(config)} == {(6, 3)}
    for section in (None, {"moe_top_k": 3}):
        with pytest.raises(ModelLoadError, match=r"lacks 'ffn_config\.moe_num_experts'"):
            family_for(config).specs(config | {"ffn_config": section})


# -- names -----------------------------------------------------------------------------------------------------------


def text(model_type: str, **changes: Any) -> dict[str, Any]:
    """The config of a row, with changes inside ``text_config`` where it has one."""
    config = CONFIGS[model_type]
    return config | ({"text_config": config["text_config"] | changes} if "text_config" in config else changes)


DENSE = [
    (text("gemma4_text", enable_moe_block=False), "gives experts to none of its 3 blocks"),
    (text("qwen3_5", num_experts=0), "num_experts = 0"),
    (text("qwen3_next", num_experts=None), "no num_experts"),
    (text("granitemoehybrid", num_local_experts=0), "num_local_experts = 0"),
    (text("jamba", num_experts=1), "num_experts = 1"),
    (text("deepseek_v3", n_routed_experts=None), "no n_routed_experts"),
    (text("deepseek_v2", n_routed_experts=None), "no n_routed_experts"),
    ({"model_type": "mistral3", "text_config": {"model_type": "mistral", "num_hidden_layers": 2}}, "no n_routed"),
]


@pytest.mark.parametrize(("config", "reason"), DENSE, ids=[config["model_type"] for config, _ in DENSE])
def test_dense_models_that_share_a_name_with_mixtures(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"This '{config['model_type']}' model is dense: .*{reason}"):
        family_for(config).specs(config)


@pytest.mark.parametrize("row", [row for row in ROWS if row.unrunnable], ids=lambda row: row.model_type)
def test_what_is_known_and_cannot_be_measured_says_why(row: Row) -> None:
    with pytest.raises(UnsupportedModelError, match=f"'{row.model_type}' cannot be measured: .*Metal kernel"):
        family_for(row.config).check(row.config)


def test_only_what_cannot_be_measured_is_left_out() -> None:
    assert {name for name in BY_TYPE if families()[name].unavailable} == BY_TYPE.keys() - CONFIGS.keys()


def test_an_architecture_may_tell_models_of_one_type_apart() -> None:
    config = {"model_type": "bailing_hybrid", "architectures": ["BailingMoeV2_5ForCausalLM"]}
    assert family_for(config).name == "bailing_hybrid"
    assert family_for(config | {"architectures": ["BailingMoeV3ForCausalLM"]}).name == "bailing_moe_v3"
    assert family_for(config | {"architectures": None}).name == "bailing_hybrid"
