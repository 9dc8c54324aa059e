"""Our scores of zero-shot tasks beside those of lm-evaluation-harness, of the same rows by the same model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx.core", reason="needs MLX")
pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

import datasets

from mlx_moebench.data.zeroshot import Questions, read_task
from mlx_moebench.evaluate.harness import evaluate_tasks
from mlx_moebench.evaluate.runs import ask, evaluate_runs
from mlx_moebench.options import Plan, Reading

pytestmark = [
    pytest.mark.usefixtures("cpu"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SHARED = Path(os.environ.get("MOEBENCH_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "zeroshot"
PLAN = Plan(resamples=100)

CHOICES = """
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: "{delimiter}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WORD = """
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: "{delimiter}{{choices[0]}}"
metric_list:
  - metric: acc
"""
HEAD = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
"""


def own(name: str, folder: Path) -> Path:
    """Rows of our own words, of choices that differ in length."""
    things = ["a lamp", "the old bridge over the river", "rain", "two spoons", "a letter from home", "glue"] * 4
    rows: list[dict[str, Any]]
    if name == "piqa":
        rows = [
            {"goal": f"carry {thing}", "sol1": f"hold {thing} with both hands", "sol2": "eat it", "label": n % 2}
            for n, thing in enumerate(things)
        ]
    elif name == "arc_easy":
        rows = [
            {
                "question": f"What is {thing} made of?",
                "choices": {"text": ["wood", "what it is made of", thing], "label": ["A", "B", "C"]},
                "answerKey": "ABC"[n % 3],
            }
            for n, thing in enumerate(things)
        ]
    elif name == "blimp":
        rows = [
            {"sentence_good": f"{thing} is there.", "sentence_bad": f"{thing} there are is.", "UID": f"part{n % 2}"}
            for n, thing in enumerate(things)
        ]
    else:
        rows = [{"text": f"They found {thing} and looked at {thing}"} for thing in things]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def harnessed(questions: Questions, folder: Path) -> str:
    """A task of the harness of the very questions; its name."""
    name, greedy = f"own_{questions.task.name}", questions.task.scoring == "greedy"
    spaced = all(choice.startswith(" ") for item in questions.items for choice in item.choices)
    rows = [
        {"context": one.context, "choices": [c[1:] if spaced else c for c in one.choices], "answer": one.answer}
        for one in questions.items
    ]
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    form = (WORD if greedy else CHOICES).replace("{delimiter}", " " if spaced else "")
    (folder / f"{name}.yaml").write_text(HEAD.format(name=name, file=file) + form, encoding="utf-8")
    return name


def check(name: str, place: Path, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "tasks").mkdir()
    task = harnessed(read_task(name, place, limit), tmp_path / "tasks")
    theirs = evaluate_tasks(None, [task], include_path=tmp_path / "tasks")["results"][task]
    asked = ask([f"{name}={place}"], limit=limit, reading=Reading())
    report = evaluate_runs([("nano", "moebench-nano")], asked, plan=PLAN)
    ours = report["runs"][0]["results"][name]
    if report["tasks"][name]["scoring"] == "greedy":
        assert ours["value"] == pytest.approx(theirs["acc"]["value"])
        return
    rules = ours["by_rule"] | {report["tasks"][name]["scoring"]: ours}
    for rule, metric in (("sum", "acc"), ("per_character", "acc_norm")):
        one = rules[rule]
        assert one.get("micro", one)["value"] == pytest.approx(theirs[metric]["value"]), rule


@pytest.mark.parametrize("name", ["piqa", "arc_easy", "blimp", "lambada"])
def test_own_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, own(name, tmp_path), None, tmp_path, monkeypatch)


def test_tasks_of_the_harness_are_asked_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "tasks").mkdir()
    file = own("piqa", tmp_path)
    task = harnessed(read_task("piqa", file), tmp_path / "tasks")
    asked = ask([f"piqa={file}", f"harness:{task}"], include_path=tmp_path / "tasks")
    report = evaluate_runs([("nano", "moebench-nano")], asked, plan=PLAN)
    ours, theirs = (report["runs"][0]["results"][name] for name in ("piqa", task))
    assert (theirs["metric"], theirs["n"]) == ("acc_norm", 24)
    assert theirs["value"] == pytest.approx(ours["by_rule"]["per_character"]["value"])
    assert report["models"][0]["average"]["value"] == pytest.approx((ours["value"] + theirs["value"]) / 2)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["lambada", "blimp", "hellaswag", "piqa", "siqa", "csqa", "arc_easy"])
def test_published_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not SHARED.is_dir():
        pytest.skip("the folder with the data sets is not there")
    check(name, SHARED, 2 if name == "blimp" else 80, tmp_path, monkeypatch)
