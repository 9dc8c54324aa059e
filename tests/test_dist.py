"""The wheel, as a user gets it: everything that the packages read is in it, and it works far from this tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from install import PINS, ROOT, extras, python_of

pytestmark = pytest.mark.slow

PACKAGES = ("mlx_moebench", "torch_fallback")


def environment() -> dict[str, str]:
    """This one with the pinned versions, and nothing of it that leads to the tree or to another environment."""
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"PIP_CONSTRAINT": str(PINS), "PIP_BUILD_CONSTRAINT": str(PINS)}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built: building writes into it."""
    tree = tmp_path_factory.mktemp("tree")
    for path in sorted(ROOT.iterdir()):
        if path.is_file():
            shutil.copy2(path, tree)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel made from it, as `make dist` makes them."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, tree, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of an environment that holds the wheel and what it requires, and no more."""
    venv = tmp_path_factory.mktemp("empty") / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=venv.parent)
    run(python_of(venv), "-m", "pip", "install", "--quiet", f"{wheel}{extras('core')}", cwd=venv.parent)
    return venv / "bin"


def test_the_wheel_has_every_file_of_the_packages(built: Path, wheel: Path) -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert sorted(here - names) == []
    assert sorted(name for name in names - here if ".dist-info/" not in name) == []
    assert len(list(built.glob("*.tar.gz"))) == 1


def test_the_wheel_measures_without_the_tree(installed: Path, tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert version in run(installed / "mlx-moebench", "--version", cwd=tmp_path)
    where = run(installed / "python", "-c", "import mlx_moebench; print(mlx_moebench.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    few = ("--max-samples", "4", "--max-length", "32", "--output", "few.json", "--plot", "few.png")
    table = run(installed / "mlx-moebench", "analyze", *few, cwd=tmp_path)
    assert table.startswith("moebench-nano on math: 4 sequences")
    report = json.loads((tmp_path / "few.json").read_text(encoding="utf-8"))
    assert len(report["routers"]) == 6
    run(installed / "mlx-moebench", "report", "few.json", "-o", "few.html", cwd=tmp_path)
    assert (tmp_path / "few.html").stat().st_size > 10_000


def test_torch_stays_optional_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    """`torch_fallback` is there; what it needs is not, and it says so."""
    code = (
        "import torch_fallback as t, mlx_moebench.errors as e\ntry: t.load\nexcept e.MissingExtraError as x: print(x)"
    )
    assert "mlx-moebench[torch]" in run(installed / "python", "-c", code, cwd=tmp_path)


def test_type_checkers_see_an_editable_install(tree: Path, tmp_path: Path) -> None:
    """setuptools' import hook is what they do not follow."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = python_of(tmp_path / "venv")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "-e", tree, cwd=tmp_path)
    user = tmp_path / "user.py"
    user.write_text(
        "import mlx_moebench\nreveal_type(mlx_moebench.RoutingStats.load('x').n_tokens)\n", encoding="utf-8"
    )
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\n", encoding="utf-8")
    options = ("--config-file", config, "--cache-dir", tmp_path / "cache", "--python-executable", python)
    assert 'type is "int"' in run(sys.executable, "-m", "mypy", *options, user, cwd=tmp_path)
