"""Families of other packages: one that is really installed, and ones that are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIGS, build_tiny, save_checkpoint

from mlx_moebench import families as package
from mlx_moebench.errors import MoebenchError
from mlx_moebench.families import ENTRY_POINTS, Family, families

pytest.importorskip("mlx.core", reason="needs MLX")
pytest.importorskip("setuptools", reason="builds a package")

ROOT = Path(__file__).parents[1]

PROJECT = f"""
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "moebench-crab"
version = "1.0"

[project.entry-points."{ENTRY_POINTS}"]
crab = "moebench_crab:FAMILIES"

[tool.setuptools]
packages = ["moebench_crab"]
"""

FAMILY = '''
"""Crab routes as OLMoE does, under another name and with a model file of its own."""

from mlx_moebench.families import Family, Key, RouterForm, Rule

FAMILIES = (
    Family(
        name="crab",
        model_types=("crab",),
        routers=(
            RouterForm("mlp", "mlp.gate", "mlp.switch_mlp", Rule("softmax", normalise=Key("norm_topk_prob", False))),
        ),
        n_experts="num_claws",
        top_k="num_experts_per_tok",
        module="moebench_crab.model",
    ),
)
'''

MODEL = """
from dataclasses import dataclass

from mlx_lm.models import olmoe


@dataclass
class ModelArgs(olmoe.ModelArgs):
    num_claws: int = 0

    @classmethod
    def from_dict(cls, settings):
        return super().from_dict({**settings, "num_experts": settings["num_claws"]})


Model = olmoe.Model
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed a package with a family."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "moebench_crab").mkdir()
    (source / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (source / "moebench_crab" / "__init__.py").write_text(FAMILY, encoding="utf-8")
    (source / "moebench_crab" / "model.py").write_text(MODEL, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, cwd=source)
    return site


def run(site: Path, where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    command = [sys.executable, "-m", "mlx_moebench", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=where)


@pytest.mark.slow
def test_an_installed_family_is_listed_and_measured(site: Path, tmp_path: Path) -> None:
    listed = run(site, tmp_path, "models", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "crab" in [name for family in json.loads(listed.stdout)["families"] for name in family["model_types"]]
    config = {k: v for k, v in CONFIGS["olmoe"].items() if k != "num_experts"} | {"model_type": "crab", "num_claws": 8}
    folder = save_checkpoint(tmp_path / "crab", build_tiny(), config)
    measured = run(
        site, tmp_path, "analyze", "--model", str(folder), "--dataset", "math", "--max-samples", "3", "--json"
    )
    assert measured.returncode == 0, measured.stderr
    report = json.loads(measured.stdout)
    assert report["model"]["model_type"] == "crab"
    assert {(router["n_experts"], router["top_k"]) for router in report["routers"]} == {(8, 2)}


@pytest.mark.slow
def test_mlx_lm_opens_an_installed_family(site: Path, tmp_path: Path) -> None:
    config = {k: v for k, v in CONFIGS["olmoe"].items() if k != "num_experts"} | {"model_type": "crab", "num_claws": 8}
    folder = save_checkpoint(tmp_path / "crab", build_tiny(), config)
    options = ["--model", str(folder), "--prompt", "a router", "--max-tokens", "3", "--verbose", "False"]
    said = run(site, tmp_path, "mlx-lm", "generate", *options)
    assert said.returncode == 0, said.stderr


@pytest.mark.slow
def test_without_the_package_its_model_is_unknown(tmp_path: Path) -> None:
    config = CONFIGS["olmoe"] | {"model_type": "crab"}
    folder = save_checkpoint(tmp_path / "crab", build_tiny(), config)
    refused = run(tmp_path, tmp_path, "analyze", "--model", str(folder), "--dataset", "math")
    assert refused.returncode != 0
    assert "'crab' is a mixture of experts" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) <= 6


class Point:
    """An entry point whose ``load`` gives what it is told to."""

    name, value, dist = "crab", "moebench_crab:FAMILIES", None

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.mark.parametrize(
    ("loaded", "sentence"),
    [
        (ImportError("no module named 'claws'"), "cannot be imported .*no module named 'claws'.*update or uninstall"),
        (AttributeError("FAMILIES"), "cannot be imported"),
        ("crab", "neither a Family nor several"),
        ((), "neither a Family nor several"),
        ([1, 2], "neither a Family nor several"),
        (families()["olmoe"], "'olmoe' is claimed by olmoe and olmoe"),
    ],
)
def test_a_wrong_package_is_named(monkeypatch: pytest.MonkeyPatch, loaded: Any, sentence: str) -> None:
    monkeypatch.setattr(package, "entry_points", lambda group: [Point(loaded)])
    with pytest.raises(MoebenchError, match=sentence):
        package.by_model_type(family for form in (*package._own(), *package._of_packages()) for family in form.families)


def test_one_family_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    crab = Family("crab", ("crab",), families()["olmoe"].routers, "num_claws", "k")
    monkeypatch.setattr(package, "entry_points", lambda group: [Point(crab)])
    assert [form.families for form in package._of_packages()] == [(crab,)]
