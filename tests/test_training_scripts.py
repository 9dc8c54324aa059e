"""The scripts that train: intervals over seeds, and each script from its command line to its file."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmlu_files import write_mmlu
from scipy import stats

ROOT = Path(__file__).parents[1]
MATH = (
    "If a train travels {a} kilometres in {b} hours, how fast is it? We divide {a} by {b} and write the answer down. "
)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder scripts/ can be imported from."""
    pytest.importorskip("mlx.core", reason="needs MLX")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_intervals_over_seeds_are_students(scripts: None) -> None:
    interval = import_module("run_rescue").interval
    values = np.random.default_rng(0).normal(0.3, 0.1, 5)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(list(values))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["p_value"] == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert interval([0.5, 0.5, 0.5])["p_value"] is None, "seeds that do not differ test nothing"
    assert interval([0.1])["low"] is None
    assert "one seed" in interval([0.1])["reason"]


def test_the_grid_of_ablations_has_a_control_and_every_combination(scripts: None) -> None:
    ablations = import_module("run_ablations")
    control, *grid = ablations.combinations()
    assert control["weight"] == 0
    sizes = [len(getattr(ablations, name)) for name in ("SIGNALS", "SCOPES", "FLOORS", "WEIGHTS")]
    assert len(grid) == np.prod(sizes) == len({tuple(combination.values()) for combination in grid})


def test_the_best_of_many_combinations_is_adjusted(scripts: None) -> None:
    ablations = import_module("run_ablations")
    rows = [{"n_eff_p": p, "load_entropy_p": p} for p in (0.03, None, 0.04, 0.9)]
    ablations.with_q(rows)
    assert [line["n_eff_q"] for line in rows] == pytest.approx([0.06, None, 0.06, 0.9])


def test_the_committed_ablations_are_of_that_grid(scripts: None) -> None:
    with (ROOT / "results" / "ablation_comparison.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = ("signal", "scope", "floor", "weight")
    grid = [tuple(str(c[name]) for name in names) for c in import_module("run_ablations").combinations()]
    assert [(r["signal"], r["scope"], str(float(r["floor"])), str(float(r["weight"]))) for r in rows] == grid


def write_texts(folder: Path) -> Path:
    """Texts long enough for windows of 129 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, rows in (("train", 16), ("valid", 10), ("test", 10)):
        texts = [(MATH * 12).format(a=rng.integers(9), b=rng.integers(9)) for _ in range(rows)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.nightly
def test_biased_gates_collapse_and_are_compared_with_their_control(tmp_path: Path) -> None:
    biased = tmp_path / "biased"
    done = run("bias_gates.py", "--out", biased, "--experts", 2, "--bias", 8)
    assert done.returncode == 0, done.stderr
    texts = write_texts(tmp_path / "runs" / "texts")
    assert texts.exists()
    results = tmp_path / "results"
    options = ["--corpus", tmp_path, "--biased", biased, "--runs", tmp_path / "runs", "--results", results]
    done = run("run_rescue.py", *options, "--seeds", 1, "--variants", "load")
    assert done.returncode == 0, done.stderr
    case: Any = json.loads((results / "ldiv_rescue.json").read_text())["cases"]["biased"]
    assert case["before"]["n_eff"] < 4
    assert case["variants"]["load"]["load_entropy"]["difference"]["value"] > 0


@pytest.mark.slow
def test_mmlu_before_and_after_training(tmp_path: Path) -> None:
    from mlx_moebench.data.mmlu import PRESETS

    subjects, _ = PRESETS["12x25"]
    mmlu = write_mmlu(tmp_path / "mmlu", dict.fromkeys(subjects, 3))
    common = ["--mmlu", mmlu, "--preset", "12x25", "--shots", 0, "--data", write_texts(tmp_path / "texts")]
    common += ["--seeds", 2, "--iters", 2, "--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    done = run("run_mmlu_ldiv_comparison.py", *common, "--ldiv-only")
    assert done.returncode == 2
    assert "--ldiv-only needs" in done.stderr
    done = run("run_mmlu_ldiv_comparison.py", *common)
    assert done.returncode == 0, done.stderr
    results: Any = json.loads((tmp_path / "results" / "mmlu_ldiv_comparison.json").read_text())
    assert list(results["runs"]) == ["base", "control-0", "ldiv-0", "control-1", "ldiv-1"]
    assert results["runs"]["base"]["results"]["n"] == 36
    assert results["over_seeds"]["ldiv against control"]["macro"]["seeds"] == 2
    assert run("run_mmlu_ldiv_comparison.py", *common, "--ldiv-only").returncode == 0
