"""docs/definitions.md is what the docstrings say, and the examples of docs/footguns.md run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_moebench.routing import METRICS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_definitions

    yield make_definitions
    sys.modules.pop("make_definitions")


def test_the_page_is_current(script: object) -> None:
    page = script.page()  # type: ignore[attr-defined]
    assert (ROOT / "docs" / "definitions.md").read_text(encoding="utf-8") == page, (
        "run python scripts/make_definitions.py"
    )


def test_the_page_has_every_metric_once(script: object) -> None:
    page = script.page()  # type: ignore[attr-defined]
    for name in METRICS:
        assert page.count(f"**`{name}`**") == 1, name


def test_a_changed_docstring_makes_it_stale(script: object, monkeypatch: pytest.MonkeyPatch) -> None:
    before = script.page()  # type: ignore[attr-defined]
    function = METRICS["gini"].function
    monkeypatch.setattr(function, "__doc__", function.__doc__.replace("Unit: ratio", "Unit: share"))
    assert script.page() != before  # type: ignore[attr-defined]
    monkeypatch.setattr(function, "__doc__", "Gini.")
    with pytest.raises(SystemExit, match="The docstring of gini has no Formula"):
        script.page()  # type: ignore[attr-defined]


def examples() -> list[tuple[str, str]]:
    """(heading, code) of every Python block of the page."""
    text = (ROOT / "docs" / "footguns.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return [(s.splitlines()[0], block) for s in sections for block in re.findall(r"```python\n(.*?)```", s, re.DOTALL)]


def test_there_are_footguns() -> None:
    assert len(examples()) >= 10


def test_examples_of_footguns_run() -> None:
    """In one process, each in its own names; one that loads a model is only compiled."""
    for heading, code in examples():
        compiled = compile(code, heading, "exec")
        if "load(" not in code:
            exec(compiled, {})


def test_the_check_of_the_script_passes() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "make_definitions.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_page_of_families_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_families

    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert page == make_families.page(), "run python scripts/make_families.py"
    assert page.count("`deepseek_v3`") >= 2
