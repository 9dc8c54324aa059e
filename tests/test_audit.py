"""The audit of the statistics: it goes on where it stopped, and its tables stand between their lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from audit_cells import PARTS

AUDIT = Path(__file__).parents[1] / "benchmarks" / "audit.py"


def audit(*options: str) -> str:
    run = subprocess.run([sys.executable, str(AUDIT), *options], capture_output=True, text=True, check=True)
    return run.stdout + run.stderr


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    output, document = tmp_path / "audit.json", tmp_path / "doc.md"
    options = "--quick", "--sets", "4", "--output", str(output), "--part", "thirds", "counts"
    first = audit(*options)
    assert first.count("thirds: E 16") == 2
    assert "| routing | texts a third |" in first
    results: dict[str, Any] = json.loads(output.read_text())
    assert {part: len(cells) for part, cells in results.items()} == {"thirds": 2, "counts": 3}
    name = next(iter(results["counts"]))
    del results["counts"][name]
    output.write_text(json.dumps(results))
    again = audit(*options)
    assert f"counts: {name}" in again
    assert "thirds: E 16" not in again
    document.write_text(
        "before\n<!-- audit: counts -->\nold\n<!-- end -->\nafter\n<!-- audit: domains -->\nkept\n<!-- end -->\n"
    )
    audit(*options, "--docs", str(document))
    text = document.read_text()
    assert text.startswith("before\n<!-- audit: counts -->\n| sequences | cells |")
    assert "old" not in text
    assert text.endswith("<!-- end -->\nafter\n<!-- audit: domains -->\nkept\n<!-- end -->\n")


def test_cells_have_names_of_their_own() -> None:
    for part, cells in PARTS.items():
        names = [name for name, _ in cells()]
        assert len(names) == len(set(names)), part


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize(
    "name",
    [
        "E 8, K 1, steep, all, equal, S 20",
        "E 8, K 2, leader, all, pareto, S 40",
        "E 64, K 1, even, texts differ, equal, S 20",
        "E 64, K 8, mild, all, topic, S 40",
        "E 128, K 2, steep, topics, equal, S 20",
        "E 128, K 8, leader, texts differ, equal, S 40",
    ],
)
def test_intervals_hold_the_truth(name: str) -> None:
    measured = dict(PARTS["coverage"]())[name](400, 1)
    slack = 0.028  # two standard errors of 400 samples at 92%
    for metric, facts in measured["metrics"].items():
        assert facts["inside"] >= 0.92 - slack, metric
        assert facts["outside"] == 0, metric
    assert measured["metrics"]["mean_entropy"]["inside"] <= 0.975 + 0.016
    assert measured["bands"] >= 0.92 - slack
    if measured["lead"] >= 4 and name.endswith("S 40"):
        assert measured["metrics"]["top_share_token"]["width"] <= 1.25


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("shift", ["0.0", "0.3", "1.0"])
@pytest.mark.parametrize("shape", ["E 8, K 1, even, all, equal", "E 128, K 2, steep, texts differ, equal"])
def test_intervals_between_domains_hold_the_truth(shape: str, shift: str) -> None:
    measured = dict(PARTS["domains"]())[f"{shape}, shift {shift}, S 40"](400, 1)
    for metric, facts in measured["metrics"].items():
        assert facts["inside"] >= 0.92 - 0.028, metric
        assert facts["outside"] == 0, metric
    assert measured["disagree"] == 0
