"""The notebooks run, and print what is stored in them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from printed import split

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))


def outputs(notebook: Any) -> list[str]:
    """What every cell printed, and the kinds of what it drew, in order."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            printed = output.get("text", output.get("data", {}).get("text/plain", ""))
            kinds = sorted(kind for kind in output.get("data", ()) if kind.startswith("image/"))
            found.append(" ".join([output["output_type"], *kinds, "".join(printed)]))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs_and_no_place(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    printed = "\n".join(outputs(notebook))
    assert printed
    assert not re.search(r"/(home|root|tmp|work|Users|usr)/", printed)
    assert "Warning" not in printed


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of Jupyter's own libraries
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_stored(path: Path) -> None:
    """The words are the same, and so are the numbers up to the rounding of another machine."""
    from make_notebooks import executed

    stored, fresh = outputs(json.loads(path.read_text(encoding="utf-8"))), outputs(executed(path))
    assert len(fresh) == len(stored)
    for before, after in zip(map(split, stored), map(split, fresh), strict=True):
        assert after[0] == before[0]
        assert after[1] == pytest.approx(before[1], rel=0.02, abs=2e-3)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """docs/mkdocs_hook.py, without mkdocs, of which it only names two classes."""
    for name in ("mkdocs", "mkdocs.structure"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "mkdocs.structure.files", SimpleNamespace(File=None, Files=None))
    spec = importlib.util.spec_from_file_location("mkdocs_hook", ROOT / "docs" / "mkdocs_hook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_site_shows_text_code_and_outputs(path: Path, hook: Any) -> None:
    page, notebook = hook.notebook_page(path), json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert "".join(cell["source"]) in page
        for output in cell.get("outputs", ()):
            assert "".join(output.get("text", "")).strip() in page
    assert page.count("data:image/png") == sum(" image/png " in output for output in outputs(notebook))
    assert page.count("```") % 2 == 0
