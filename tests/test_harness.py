"""Tasks of lm-evaluation-harness, run for real on tiny local files, offline."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmlu_files import write_adapter

pytest.importorskip("mlx.core", reason="needs MLX")
pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

import datasets

from mlx_moebench.cli import main
from mlx_moebench.data import encode_text
from mlx_moebench.errors import EvaluationError
from mlx_moebench.evaluate.harness import HarnessModel, check_tasks, evaluate_tasks
from mlx_moebench.models import load_checkpoint
from mlx_moebench.pair.seal import sealed_text

import mlx.core as mx  # isort: skip
import mlx_lm  # isort: skip
from lm_eval.api.instance import Instance  # isort: skip
from lm_eval.tasks import TaskManager  # isort: skip

pytestmark = [
    pytest.mark.usefixtures("cpu"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

COMMON = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
"""
TASKS = {
    "own_sums": """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
fewshot_split: test
metric_list:
  - metric: acc
""",
    "own_words": """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[0]}}"
metric_list:
  - metric: perplexity
  - metric: acc
""",
    "own_text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - metric: word_perplexity
""",
    "own_answers": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 4
metric_list:
  - metric: exact_match
""",
}
ROWS = [
    {"question": f"What is {i} plus {i}?", "choices": [str(2 * i), "no number at all", "seven"], "gold": i % 3}
    for i in range(12)
]


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tasks above; nothing is cached in the home folder, and the network is not asked."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "tasks"
    folder.mkdir()
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}{COMMON.format(file=file)}{text}", encoding="utf-8")
    return folder


def of_ids(checkpoint: Any, ids: list[int], n: int) -> float:
    """Log-likelihood of the last ``n`` ids, by one forward."""
    logits = np.array(checkpoint.model(mx.array([ids]))[0, -n - 1 : -1], np.float64)
    logs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return float(sum(row[token] for row, token in zip(logs, ids[-n:], strict=True)))


def plain(checkpoint: Any, context: str, continuation: str) -> float:
    """By one forward; the prompt's tokens must be the beginning of the whole text's."""
    before, ids = (checkpoint.tokenizer.encode(text) for text in (context, context + continuation))
    assert ids[: len(before)] == before
    return of_ids(checkpoint, ids, len(ids) - len(before))


def test_multiple_choice_and_likelihoods_equal_plain_forwards(tasks: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    names = ["own_sums", "own_words", "own_text"]
    report = evaluate_tasks(None, names, include_path=tasks, output=output)
    assert sealed_text(report) == output.read_text()
    assert report["task"] == "own_sums,own_words,own_text"
    assert report["model"]["id"] == "moebench-nano"
    assert report["data"]["tasks"]["own_sums"]["n"] == 12

    nano = load_checkpoint(None)
    logs = [[plain(nano, f"Question: {r['question']}\nAnswer:", f" {c}") for c in r["choices"]] for r in ROWS]
    right = [int(np.argmax(four)) == r["gold"] for four, r in zip(logs, ROWS, strict=True)]
    entry = report["results"]["own_sums"]["acc"]
    assert entry["value"] == pytest.approx(np.mean(right))
    assert entry["stderr"] == pytest.approx(np.std(right, ddof=1) / math.sqrt(12))
    assert 0 <= entry["low"] < entry["value"] < entry["high"] <= 1

    words = [plain(nano, r["question"], f" {r['choices'][0]}") for r in ROWS]
    assert report["results"]["own_words"]["perplexity"]["value"] == pytest.approx(math.exp(-np.mean(words)), rel=1e-4)

    eos = nano.tokenizer.eos_token
    texts = [plain(nano, eos, r["question"]) for r in ROWS]
    count = sum(len(r["question"].split()) for r in ROWS)
    perplexity = report["results"]["own_text"]["word_perplexity"]
    assert perplexity["value"] == pytest.approx(math.exp(-sum(texts) / count), rel=1e-4)
    assert perplexity["low"] is None
    assert perplexity["reason"]


def test_generation_is_greedy_and_stops(tasks: Path, tmp_path: Path) -> None:
    report = evaluate_tasks(None, ["own_answers"], include_path=tasks, limit=3)
    assert report["data"]["tasks"]["own_answers"]["n"] == 3
    assert "too few" in report["results"]["own_answers"]["exact_match"]["reason"]
    nano = load_checkpoint(None)
    model = HarnessModel(nano)
    prompt = ROWS[3]["question"]
    expected = mlx_lm.generate(nano.model, nano.tokenizer, encode_text(nano.tokenizer, prompt), max_tokens=12)

    def asked(**options: Any) -> str:
        return model.generate_until([Instance("generate_until", {}, (prompt, options), 0)])[0]

    assert asked(until=[], max_gen_toks=12) == expected
    stop = expected[5:8]
    assert asked(until=["nowhere", stop], max_gen_toks=12) == expected[: expected.index(stop)]


def test_torch_gives_the_same_numbers_and_texts(tasks: Path) -> None:
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    import torch_fallback

    names = ["own_sums", "own_words", "own_text", "own_answers"]
    ours, theirs = (evaluate_tasks(None, names, include_path=tasks, backend=name) for name in ("mlx", "torch"))
    assert (ours["model"]["backend"], theirs["model"]["backend"]) == ("mlx", "torch")
    assert theirs["environment"]["torch"]
    assert ours["data"] == theirs["data"]
    for task in names:
        for metric, entry in ours["results"][task].items():
            other = theirs["results"][task][metric]
            assert other["value"] == pytest.approx(entry["value"], rel=1e-4), (task, metric)
            assert other.get("reason") == entry.get("reason")
    prompts = [Instance("generate_until", {}, (row["question"], {"until": [], "max_gen_toks": 12}), 0) for row in ROWS]
    mlx, other = (
        HarnessModel(c).generate_until(prompts) for c in (load_checkpoint(None), torch_fallback.load_checkpoint())
    )
    assert mlx == other
    assert len(set(mlx)) > 1


def test_long_texts_are_cut_or_windowed() -> None:
    nano = load_checkpoint(None)
    short = replace(nano, config=nano.config | {"max_position_embeddings": 40})
    model, tokenizer = HarnessModel(short, batch_size=2), nano.tokenizer
    long = "".join(f"{number} and " for number in range(40))
    ids, ending = tokenizer.encode(long), tokenizer.encode(long + " more")
    assert ending[: len(ids)] == ids
    ((log, greedy),) = model.loglikelihood([Instance("loglikelihood", {}, (long, " more"), 0)])
    assert log == pytest.approx(of_ids(nano, ending[-40:], len(ending) - len(ids)), abs=1e-4)
    assert isinstance(greedy, bool)

    (total,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (long,), 0)])
    # Each window predicts what the one before did not, after all that still fits.
    row, done, expected = [tokenizer.eos_token_id, *ids], 0, 0.0
    while done < len(ids):
        end = min(max(done, 0) + 40, len(ids))
        expected += of_ids(nano, row[max(end - 40, 0) : end + 1], end - done)
        done = end
    assert total == pytest.approx(expected, abs=1e-3)

    (empty,) = model.loglikelihood([Instance("loglikelihood", {}, ("", "A word"), 0)])
    assert empty[0] == pytest.approx(plain(nano, tokenizer.eos_token, "A word"), abs=1e-4)


def test_shots_and_the_model_are_those_asked_for(tasks: Path, tmp_path: Path) -> None:
    few: dict[str, Any] = {"include_path": tasks, "limit": 4}
    base = evaluate_tasks(None, ["own_words"], **few)
    assert base["data"]["tasks"]["own_words"]["shots"] == 0
    shots = evaluate_tasks(None, ["own_sums"], shots=2, **few)
    assert shots["data"]["tasks"]["own_sums"]["shots"] == 2
    adapted = evaluate_tasks(None, ["own_words"], adapter_path=write_adapter(tmp_path / "adapter"), **few)
    values = [r["results"]["own_words"]["perplexity"]["value"] for r in (base, adapted)]
    assert abs(math.log(values[0] / values[1])) > 0.01


def test_the_command_line(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["evaluate", "--quiet", "--include-path", str(tasks), "--output", str(tmp_path / "o.json"), "--task"]
    main([*run, "own_sums", "--limit", "5"])
    printed = capsys.readouterr()
    assert "own_sums" in printed.out
    assert "5 documents are too few" in printed.out

    def expect_error(arguments: list[str], *words: str) -> None:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code not in (0, 70, None)
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("Error: ")
        for word in words:
            assert word in message

    expect_error([*run, ","], "No task is named")
    expect_error([*run, "own_sums", "--subjects", "anatomy"], "--subjects belongs to --task mmlu")
    expect_error([*run[:-1], "--include-path", str(tmp_path / "none"), "--task", "own_sums"], "no folder")
    (tasks / "rows.jsonl").unlink()
    expect_error([*run, "own_words"], "own_words cannot be loaded")


def test_a_name_like_no_other_is_not_answered_with_thousands(tasks: Path) -> None:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    check_tasks(["own_sums", "own_text"], manager)
    with pytest.raises(EvaluationError) as caught:
        check_tasks(["own_sums", "zzqqxxyy"], manager)
    assert str(caught.value) == "lm-evaluation-harness has no task 'zzqqxxyy'. `lm_eval ls tasks` lists them."
    with pytest.raises(EvaluationError, match="Did you mean 'own_sums'"):
        check_tasks(["own_sum"], manager)


@pytest.mark.slow
def test_the_tasks_of_the_harness_are_known() -> None:
    with pytest.raises(EvaluationError, match="Did you mean 'arc_easy'"):
        evaluate_tasks(None, ["arc_eazy"])


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "mlx_moebench.evaluate.harness")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--quiet", "--task", "arc_easy", "--output", str(tmp_path / "o.json")])
    assert stop.value.code == 1
    assert 'pip install "mlx-moebench[eval]"' in capsys.readouterr().err
