"""What a stranger does who adds something: a copy of this tree, a few lines put into it, its own tests run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]


class Outcome(NamedTuple):
    """passed: ``file::test[parameters]`` of every test that passed; failed, skipped: the others. log: what was said."""

    passed: set[str]
    failed: set[str]
    skipped: set[str]
    log: str


def copy_tree(folder: Path) -> Path:
    """Copy what git knows or would take, and return ``folder``; skips the test where this is no checkout of git."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no checkout of git, which tells what belongs to the tree")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def insert(path: Path, before: str, text: str) -> None:
    """Put ``text`` in front of the one place in a file that reads ``before``."""
    content = path.read_text(encoding="utf-8")
    assert content.count(before) == 1, f"{before!r} is {content.count(before)} times in {path.name}"
    path.write_text(content.replace(before, text + before), encoding="utf-8")


def run_script(tree: Path, name: str) -> None:
    """A script of ``tree``, on its own packages."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run([sys.executable, str(tree / "scripts" / name)], cwd=tree, env=environment, check=True)


def run_tests(tree: Path, *arguments: str) -> Outcome:
    """pytest in ``tree``, which imports its own packages and no others of their name."""
    shared = os.environ.get("MOEBENCH_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    environment = os.environ | {"PYTHONPATH": str(tree), "MOEBENCH_SHARED_DATA": shared}
    where = subprocess.run(
        [sys.executable, "-c", "import mlx_moebench, torch_fallback; print(mlx_moebench.__file__)"],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(tree), where.stdout
    report = tree / "outcome.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml", str(report), *arguments]
    run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert report.exists(), run.stdout + run.stderr
    kinds: dict[str, set[str]] = {"passed": set(), "failed": set(), "skipped": set()}
    for case in ElementTree.parse(report).iter("testcase"):
        tags = {child.tag for child in case}
        kind = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        kinds[kind].add(f"{case.get('classname')}::{case.get('name')}")
    return Outcome(**kinds, log=run.stdout + run.stderr)
