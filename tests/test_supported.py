"""``models``: what it says follows from the family files and the tests, and needs no MLX."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from family_rows import CONFIGS, ROWS, Row
from rich.console import Console

from mlx_moebench.errors import UnsupportedModelError
from mlx_moebench.families import families
from mlx_moebench.show.tables.models import (
    TESTED,
    described,
    described_rows,
    print_described,
    render,
    supported,
    unsupported_in_mlx_lm,
)


@pytest.mark.parametrize("where", TESTED.values())
def test_what_is_said_to_be_tested_is_tested_for_every_family(where: str) -> None:
    module, _, name = where.partition(".")
    test = getattr(importlib.import_module(module), name)
    # These fixtures run a test once for every model type; those of a form among them, the others if slow.
    if {"make_any", "shared_model", "form_model", "make_form"} & set(inspect.signature(test).parameters):
        return
    cases = [case for mark in test.pytestmark if mark.name == "parametrize" for case in mark.args[1]]
    assert set(CONFIGS) <= set(map(model_type_of, cases))


def model_type_of(case: Any) -> Any:
    """Of one set of parameters, whose first is a row or its name."""
    while isinstance(case, tuple) and not isinstance(case, Row):
        case = getattr(case, "values", case)[0]
    return case.model_type if isinstance(case, Row) else case


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
    aliases = {alias for row in ROWS for alias in row.aliases} | {
        kind for family in families().values() for kind in family.wrapped
    }
    of_mlx = {name for name, family in families().items() if not family.only_torch and family.routers}
    assert {name for name, family in families().items() if family.module} == of_mlx - files - aliases


def test_what_mlx_lm_has_beyond() -> None:
    assert unsupported_in_mlx_lm() == []


def test_every_file_of_mlx_lm_that_defines_experts_is_served_or_marked() -> None:
    import mlx_lm

    sources = {p.stem: p.read_text(encoding="utf-8") for p in (Path(mlx_lm.__file__).parent / "models").glob("*.py")}
    of_its_own = re.compile(r"\bSwitch(GLU|MLP|Linear)\(|\bexperts = \[")
    defining = {name for name, source in sources.items() if of_its_own.search(source)} - {"switch_layers"}
    assert len(defining) >= 44
    assert defining <= families().keys()
    measured = {name for name in defining if not families()[name].unavailable}
    assert defining - measured <= {row.model_type for row in ROWS if row.unrunnable}
    assert measured <= set(CONFIGS)


def test_a_model_of_mlx_lm_that_nobody_knows_would_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: family for name, family in families().items() if name != "olmoe"}
    monkeypatch.setattr("mlx_moebench.show.tables.models.families", lambda: known)
    # Not dense models or helpers.
    assert "olmoe" in (unsupported_in_mlx_lm() or [])
    assert not {"llama", "switch_layers", "base", *known} & set(unsupported_in_mlx_lm() or [])


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_fits_a_terminal(width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(render(supported()))
    text = captured.get()
    assert max(map(len, text.splitlines())) <= width
    for word in ("prism_hadamard_qwen35", "num_experts_per_token", "MLX, torch", "measured on", "mx.compile"):
        assert word in text


def test_one_family_is_described_whole() -> None:
    console = Console(width=100, file=io.StringIO())
    with console.capture() as captured:
        print_described(described("deepseek_v3"), console)
    text = captured.get()
    for word in ("sigmoid_groups_raw.py", "mlp.gate", "routed_scaling_factor", "experts of dropped groups", "Kimi-K2"):
        assert word in text
    assert "own port" in dict(described_rows(described("jetmoe")))["computed by"]
    assert "hidden_act" in dict(described_rows(described("olmoe")))["refused on MLX unless"]
    unknown = "No family serves model_type 'qwen3moe'. Did you mean 'qwen3_moe'"
    with pytest.raises(UnsupportedModelError, match=unknown):
        described("qwen3moe")


@pytest.mark.parametrize("model_type", list(families()))
def test_every_model_type_can_be_described(model_type: str) -> None:
    rows = dict(described_rows(described(model_type)))
    assert model_type in rows["model types"]
    assert ("why not" in rows) or rows["measured on"] != "not"


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
