"""What CONTRIBUTING.md promises to those who add something, tried in a copy of the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stranger import ROOT, Outcome, copy_tree, insert, run_script, run_tests

from mlx_moebench.families import forms

pytest.importorskip("mlx.core", reason="needs MLX")
pytest.importorskip("bitsandbytes", reason="the extra `torch` is not installed")

METRIC = '''

@metric(
    "load", "ratio", "plugin", low=lambda e, k: 1 / e, high=lambda e, k: 1 / k,
    label="Concentration of the load", even=Even("even load, 1/E", lambda e, k: 1 / e),
)  # fmt: skip
def hhi(s: Sums) -> Floats:
    """Herfindahl-Hirschman index of the load.

    Formula: sum_i f_i^2.
    Unit: ratio.
    Range: [1/E, 1/K]; 1/E when even.
    Null: no token.
    Source: Herfindahl 1950.
    """
    return np.asarray((s.load**2).sum(axis=-1))
'''


@pytest.mark.slow
@pytest.mark.nightly
def test_a_metric_is_one_function_and_one_row(tmp_path: Path) -> None:
    """With what is generated made again, the quick core passes, and the metric is in reports, tables and figures."""
    tree = copy_tree(tmp_path / "tree")
    home = tree / "mlx_moebench" / "routing" / "metrics" / "load.py"
    home.write_text(home.read_text(encoding="utf-8") + METRIC, encoding="utf-8")
    insert(
        tree / "tests" / "test_metrics.py",
        '    "n_eff": math.exp(H_LOAD),\n',
        '    "hhi": 0.16 + 0.09 + 0.04 + 0.01,\n',
    )
    for script in ("make_schemas.py", "make_definitions.py"):
        run_script(tree, script)
    # What is tested once for every model type has nothing to do with metrics, and takes minutes.
    families = ("every_family", "rows", "generation", "live_families", "quant", "precision", "family_commands")
    ignored = [f"--ignore={tree / 'tests' / f'test_{name}.py'}" for name in families]
    outcome = run_tests(tree, "-m", "not slow and not browser and not extra", *ignored)
    assert not outcome.failed, outcome.log
    assert len(outcome.passed) > 1000
    assert {name for name in outcome.passed if "hhi" in name} >= {"tests.test_metrics::test_known_answer[hhi]"}
    assert '"hhi"' in (tree / "mlx_moebench" / "routing" / "schema" / "routing_stats.schema.json").read_text("utf-8")
    assert "**`hhi`**" in (tree / "docs" / "definitions.md").read_text("utf-8")


def passed_for(outcome: Outcome, model_type: str) -> set[str]:
    """The tests, without their parameters, that passed for a family."""
    with_parameters = (re.fullmatch(r"([^\[]+)\[(.*)\]", name) for name in outcome.passed)
    return {match[1] for match in with_parameters if match and re.search(rf"\b{model_type}\b", match[2])}


EXAMPLE = ("mlx_moebench/families/sparsemixer.py", "tests/family_rows/sparsemixer.py")


def printed(name: str) -> str:
    """The file of that name in the worked example of CONTRIBUTING.md."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"`{re.escape(name)}`:\n\n```python\n(.*?)```", guide, re.DOTALL)
    return str(block)


@pytest.mark.parametrize("name", EXAMPLE)
def test_the_worked_example_is_what_the_tree_has(name: str) -> None:
    assert printed(name) == (ROOT / name).read_text(encoding="utf-8")


def test_every_form_is_in_the_starter_table() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [form.name for form in forms() if f"{form.name}.py" not in guide] == []


@pytest.mark.slow
def test_a_family_is_one_file_and_one_row(tmp_path: Path) -> None:
    """Every test that runs for a family of the table runs for the new one, in every file; none fails for its sake."""
    tree = copy_tree(tmp_path / "tree")
    for name in EXAMPLE:
        (tree / name).unlink()
    refused = run_tests(tree, "-k", "test_what_mlx_lm_has_beyond")
    assert refused.failed, "without it, mlx-lm has a model that nobody serves"
    for name in EXAMPLE:
        (tree / name).write_text(printed(name), encoding="utf-8")
    outcome = run_tests(
        tree, "-m", "not slow and not browser and not nightly", "-k",
        "phimoe or phixtral or test_families or test_supported or test_layout or test_rows",
    )  # fmt: skip
    assert not outcome.failed, outcome.log
    for_phixtral, for_the_new = passed_for(outcome, "phixtral"), passed_for(outcome, "phimoe")
    assert {name for name in for_phixtral - for_the_new if "slow" not in name} == set(), outcome.log
    files = {name.partition("::")[0].rpartition(".")[2] for name in for_the_new}
    assert {"test_families", "test_every_family", "test_parity", "test_rows", "test_torch_models"} <= files
    assert len(for_the_new) >= 25
