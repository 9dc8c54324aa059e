"""Families: found by listing the folder, right for a config, and clear about what they do not serve."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_rows import ROWS, Row

from mlx_moebench.errors import ModelLoadError, UnsupportedModelError
from mlx_moebench.families import by_model_type, families, family_for
from mlx_moebench.families.base import module_at, setting, softmax

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_specs_follow_from_the_config(row: Row) -> None:
    specs = family_for(row.config).specs(row.config)
    assert [(s.layer, s.moe_layer, s.router, s.n_experts, s.top_k) for s in specs] == row.specs
    assert len({spec.name for spec in specs}) == len(specs)


def test_every_family_has_a_row() -> None:
    assert sorted(families()) == sorted(row.model_type for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_every_built_in_setting_has_another_value_in_its_row(row: Row) -> None:
    family = family_for(row.config)
    assert row.refused.keys() == family.built_in.keys()
    for key, value in row.refused.items():
        with pytest.raises(ModelLoadError, match=f"{key} = .* numbers would be those of another model"):
            family.check(row.config | {key: value})


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


def test_no_test_lists_families_by_hand() -> None:
    """What is tested for several families is tested for every row: a list of names would leave the next one out."""
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name == "test_fourbit.py":  # its architectures are those that may have no family
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
            first = [item.elts[0] if isinstance(item, ast.Tuple) and item.elts else item for item in items]
            names = [item.value for item in first if isinstance(item, ast.Constant) and item.value in families()]
            assert len(names) < 2, f"{path.name}, line {node.lineno} lists {names}"


def test_two_families_may_not_claim_one_model_type() -> None:
    olmoe = families()["olmoe"]
    with pytest.raises(ValueError, match="'olmoe' is claimed by olmoe and other"):
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
    assert f"supported: {', '.join(sorted(families()))})" in str(caught.value)


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
    for part in ("nearest, 'olmoe'", "'mlp.gate'", "'mlp.switch_mlp'", "CONTRIBUTING.md, 'Adding a family'"):
        assert part in message


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
    with pytest.raises(ModelLoadError, match=f"has {written} = 0; it must be 1 or more"):
        either.specs(config | {written: 0})
    del config[written]
    assert either.renamed(config) == {}
    with pytest.raises(ModelLoadError, match="lacks 'num_experts' or 'num_local_experts'; add it"):
        either.specs(config)


def test_softmax_survives_extreme_logits() -> None:
    p = softmax(np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(p, [[1, 0, 0], [1 / 3] * 3], atol=1e-7)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_gate_weights(row: Row, normalised: bool) -> None:
    z = np.log(np.array([[[0.5, 0.1, 0.3, 0.1]]], dtype=np.float32))
    indices = np.array([[[2, 0]]], dtype=np.uint32)
    config = row.config | {"norm_topk_prob": normalised}
    for form in family_for(config).routers:
        g = form.weights(z, indices, config)
        of_chosen = normalised or form.distribution == "softmax_then_topk_derived"
        np.testing.assert_allclose(g, [[[0.375, 0.625]]] if of_chosen else [[[0.3, 0.5]]], rtol=1e-6)
        assert np.isfinite(form.weights(1e4 * z, indices, config)).all()


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
g = form.weights(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1, 2), np.int64), {})
assert g.tolist() == [[[0.25, 0.25]]]
assert not [name for name in sys.modules if name.split(".")[0] in {"mlx", "mlx_lm", "torch"}]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
