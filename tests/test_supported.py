"""``models``: what it says follows from the family files and the tests, and needs no MLX."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from family_rows import CONFIGS
from rich.console import Console

from mlx_moebench.families import families
from mlx_moebench.show.tables.models import TESTED, render, supported, unsupported_in_mlx_lm


@pytest.mark.parametrize("where", TESTED.values())
def test_what_is_said_to_be_tested_is_tested_for_every_family(where: str) -> None:
    module, _, name = where.partition(".")
    if module == "test_parity":
        pytest.importorskip("torch", reason="the extra `torch` is not installed")
    test = getattr(importlib.import_module(module), name)
    if {"any_model", "make_any"} & set(inspect.signature(test).parameters):
        return  # these fixtures run a test once per family
    values = [case for mark in test.pytestmark if mark.name == "parametrize" for case in mark.args[1]]
    assert set(CONFIGS) <= {case[0] if isinstance(case, tuple) else case for case in values}


def test_every_family_is_described() -> None:
    found = supported()
    assert sorted(name for family in found["families"] for name in family["model_types"]) == sorted(families())
    by_name = {family["name"]: family for family in found["families"]}
    assert [router["router"] for router in by_name["jetmoe"]["routers"]] == ["attention", "mlp"]
    assert by_name["jetmoe"]["implementation"] == "own port"
    assert by_name["olmoe"]["implementation"] == "mlx-lm"
    assert by_name["olmoe"]["built_in"] == {"clip_qkv": None, "hidden_act": "silu"}
    assert by_name["olmoe"]["routers"][0]["gate_weight"].startswith("g = softmax over all")
    assert by_name["mixtral"]["sparse_layers"] == "Every block."
    assert "decoder_sparse_step-th" in by_name["qwen2_moe"]["sparse_layers"]


def test_a_port_is_what_mlx_lm_lacks() -> None:
    import mlx_lm

    files = {path.stem for path in (Path(mlx_lm.__file__).parent / "models").glob("*.py")}
    assert {name for name, family in families().items() if family.port} == families().keys() - files


def test_what_mlx_lm_has_beyond() -> None:
    others = unsupported_in_mlx_lm()
    assert others is not None
    assert {"deepseek_v3", "dbrx", "qwen3_5_moe"} <= {*others, *families()}
    # Not dense models, helpers, or what is supported.
    assert not {"llama", "switch_layers", "base", *families()} & set(others)


def test_the_page_fits_a_terminal() -> None:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        console.print(render(supported()))
    text = captured.get()
    for word in ("block_sparse_moe.gate", "own port", "softmax_then_topk_derived", "Refused unless", "mx.compile"):
        assert word in text


def test_the_families_are_listed_without_mlx() -> None:
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('mlx', 'mlx_lm', 'torch', 'transformers'))\n"
        "from mlx_moebench.cli import main\n"
        "main(['models'] + sys.argv[1:])\n"
    )
    run = [sys.executable, "-c", code]
    found = json.loads(subprocess.run([*run, "--json"], capture_output=True, text=True, check=True).stdout)
    assert len(found["families"]) == len({family.name for family in families().values()})
    assert found["mlx_lm"]["sparse_but_not_supported"] is None
    assert "mlx-lm is not installed" in subprocess.run(run, capture_output=True, text=True, check=True).stdout
