"""docs/first_hour.md runs, block by block in one folder, and prints what it shows."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from printed import missing

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "first_hour.md"
BLOCK = re.compile(r"^```(.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Step(NamedTuple):
    """A block that runs, and the one below it that shows what is printed, if there is one."""

    language: str
    code: str
    shown: str | None


def steps() -> Iterator[Step]:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for (language, code), (below, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language != "text":
            yield Step(language, code, shown if below == "text" else None)


def shell(code: str, place: Path) -> str:
    """What bash prints, with `mlx-moebench` that of this interpreter; a command that fails ends the test."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(place), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "COLUMNS": "100",
    }
    command = ["bash", "-e", "-u", "-o", "pipefail", "-c", code]
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ran.returncode == 0, f"{code}\n{ran.stdout}"
    return ran.stdout


def python(code: str, names: dict[str, Any]) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), names)
    return printed.getvalue()


@pytest.mark.slow
def test_every_block_runs_and_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlx", reason="MLX is not installed")
    programs, here = tmp_path / "bin", tmp_path / "hour"
    programs.mkdir()
    here.mkdir()
    program = programs / "mlx-moebench"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlx_moebench "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.chdir(here)
    names: dict[str, Any] = {"__name__": "__main__"}
    for step in steps():
        if "--backend torch" in step.code and find_spec("torch") is None:
            continue
        printed = shell(step.code, programs) if step.language == "bash" else python(step.code, names)
        if step.shown is not None:
            assert missing(step.shown, printed) is None, f"{step.code}\nprints\n{printed}"
    for page in ("mine.html", "corpora.html"):
        assert "<script src" not in (here / page).read_text(encoding="utf-8")


def test_every_block_is_one_that_runs_or_what_it_prints() -> None:
    languages = [language for language, _ in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]
    assert set(languages) == {"bash", "python", "text"}
    assert not any(pair == ("text", "text") for pair in pairwise(languages))
    assert languages[0] != "text"
    assert sum(step.shown is not None for step in steps()) == languages.count("text")


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        ("a 1.00\nb 2", None),
        ("a 1.01\n\nb    2", None),
        ("...\nb 2", None),
        ("a 1\n...", None),
        ("a 1.1\nb 2", "a 1.1"),
        ("b 2", "b 2"),
        ("a 1\nc 2", "c 2"),
        ("a 1", "b 2 (printed, and not shown)"),
        ("...\na 1\n...\na 1", "a 1"),
    ],
)
def test_what_is_shown_is_compared(shown: str, line: str | None) -> None:
    assert missing(shown, "a 1\nb 2\n") == line
