"""Every example in a docstring runs, and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import mlx_moebench

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("mlx_moebench", "torch_fallback")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
SECTIONS = ("Parameters", "Returns", "Raises", "Examples")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name: str) -> None:
    if "import mlx" in Path(ROOT, *name.split(".")).with_suffix(".py").read_text(encoding="utf-8"):
        pytest.importorskip("mlx", reason="MLX is not installed")
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted
    assert not failed


@pytest.mark.parametrize("name", ["analyze", "attach", "compare", "profile"])
def test_the_main_functions_document_every_keyword(name: str) -> None:
    """Sections that the site renders, and a line for every parameter, unless `**choices` says where they are."""
    function = getattr(mlx_moebench, name)
    text = inspect.getdoc(function) or ""
    places = [text.index(f"\n{section}\n{'-' * len(section)}\n") for section in SECTIONS]
    assert places == sorted(places)
    if "**choices" in text:
        return
    listed = text[places[0] : places[1]] + text.partition("\nOther Parameters\n")[2].partition("\nRaises\n")[0]
    heads = [line.partition(" : ")[0] for line in listed.splitlines() if line and not line.startswith((" ", "-"))]
    assert {name for head in heads for name in head.split(", ")} == {
        "Parameters",
        *inspect.signature(function).parameters,
    }
