"""``evaluate`` end to end: real answers of the embedded model, kept, resumed, compared, printed, refused."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_tiny, few_forms, row_of, save_checkpoint
from family_rows import CONFIGS
from mmlu_files import rows, write_adapter, write_mmlu, write_rows
from rich.console import Console

pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench.cli import main
from mlx_moebench.data.mmlu import CONTINUATIONS, SUBJECTS, Question, prompt, read_mmlu
from mlx_moebench.errors import EvaluationError, MoebenchError
from mlx_moebench.evaluate import mmlu as answering
from mlx_moebench.evaluate.accuracy import compare_answers
from mlx_moebench.evaluate.evaluations import check_output, read_evaluation
from mlx_moebench.evaluate.mmlu import answer_questions, evaluate_mmlu
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.show.tables.accuracy import render

import mlx.core as mx  # isort: skip

pytestmark = pytest.mark.usefixtures("cpu")

SIZES = {"anatomy": 14, "virology": 12, "world_religions": 10}
SHARED = Path(os.environ.get("MOEBENCH_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "mmlu"


@pytest.fixture(scope="module")
def nano() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mmlu(tmp_path_factory.mktemp("mmlu"), SIZES)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "tuned")


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that nothing stopped."""
    output = tmp_path_factory.mktemp("whole") / "whole.json"
    main(["evaluate", *RUN, "--data", str(folder), "--output", str(output)])
    return output


RUN = ["--subjects", ",".join(SIZES), "--shots", "2", "--quiet"]
SETTINGS: dict[str, Any] = {"subjects": list(SIZES), "shots": 2}


def plainly(checkpoint: Checkpoint, question: Question, shots: tuple[Question, ...]) -> list[float]:
    """Log-likelihoods of the four letters: for each one forward over the whole text, no cache, no batch."""
    found = []
    text = prompt(question, shots)
    for continuation in CONTINUATIONS:
        before, ids = (checkpoint.tokenizer.encode(t) for t in (text, text + continuation))
        assert ids[: len(before)] == before
        logits = np.array(checkpoint.model(mx.array([ids]))[0, len(before) - 1 : -1], np.float64)
        logs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        found.append(float(sum(row[token] for row, token in zip(logs, ids[len(before) :], strict=True))))
    return found


def assert_as_plainly(checkpoint: Checkpoint, questions: list[Question], shots: dict[str, Any]) -> None:
    for subject in {q.subject for q in questions}:
        asked = [q for q in questions if q.subject == subject]
        for answer, question in zip(answer_questions(checkpoint, asked, shots[subject]), asked, strict=True):
            expected = plainly(checkpoint, question, shots[subject])
            np.testing.assert_allclose(answer["log_likelihoods"], expected, atol=1e-4)
            assert answer["choice"] == "ABCD"[int(np.argmax(expected))]


def test_answers_equal_one_forward_per_question_and_choice(nano: Checkpoint, tmp_path: Path) -> None:
    data = read_mmlu(write_mmlu(tmp_path, {"anatomy": 12, "virology": 8}), subjects=["anatomy", "virology"], shots=1)
    questions = [q for asked in data.questions.values() for q in asked]
    assert len(questions) == 20
    assert_as_plainly(nano, questions, data.shots | {"anatomy": ()})


@pytest.mark.shared_data
@pytest.mark.slow
def test_answers_to_real_questions_equal_one_forward_per_choice(nano: Checkpoint) -> None:
    if not SHARED.is_dir():
        pytest.skip("mmlu is not in MOEBENCH_SHARED_DATA")
    subjects = SUBJECTS[::6]
    data = read_mmlu(SHARED, subjects=subjects, shots=5, limit=5)
    tokenizer = nano.tokenizer
    questions = [
        q for s in subjects for q in data.questions[s] if len(tokenizer.encode(prompt(q, data.shots[s]))) < 1024
    ]
    assert len(questions) >= 40
    assert_as_plainly(nano, questions, data.shots)


def test_batches_do_not_change_answers(nano: Checkpoint, folder: Path) -> None:
    data = read_mmlu(folder, subjects=["anatomy"])
    one, eight = (
        answer_questions(nano, data.questions["anatomy"], data.shots["anatomy"], batch_size=b) for b in (1, 8)
    )
    for x, y in zip(one, eight, strict=True):
        np.testing.assert_allclose(x.pop("log_likelihoods"), y.pop("log_likelihoods"), atol=1e-4)
        np.testing.assert_allclose(x.pop("probabilities"), y.pop("probabilities"), atol=1e-4)
        assert x == y


@few_forms
def test_every_family_answers(tmp_path: Path, folder: Path, form_model: Any) -> None:
    name = row_of(form_model).model_type
    model = save_checkpoint(tmp_path / "model", form_model, CONFIGS[name] | {"max_position_embeddings": 250})
    report = evaluate_mmlu(model, folder, subjects=["anatomy"], limit=4, shots=5)
    assert report["complete"]
    assert report["model"]["model_type"] == name
    # The tokenizer of this model knows few words: a shot has about as many tokens as letters.
    assert report["results"]["shots"]["max"] < 5
    assert report["settings"]["max_length"] == 250
    loaded = load_checkpoint(model)
    data = read_mmlu(folder, subjects=["anatomy"])
    for answer, question in zip(report["questions"], data.questions["anatomy"], strict=False):
        expected = plainly(loaded, question, data.shots["anatomy"][5 - answer["shots"] :])
        np.testing.assert_allclose(answer["log_likelihoods"], expected, atol=1e-4)


def test_a_quantised_model_and_an_adapter_answer(folder: Path, adapter: Path) -> None:
    few: dict[str, Any] = {"subjects": ["anatomy"], "limit": 2, "shots": 1}
    reports = [
        evaluate_mmlu(None, folder, **few, **options) for options in ({}, {"bits": 8}, {"adapter_path": adapter})
    ]
    first = [report["questions"][0]["log_likelihoods"] for report in reports]
    assert 0 < np.abs(np.subtract(first[0], first[1])).max() < 1
    assert np.abs(np.subtract(first[0], first[2])).max() > 0.1
    assert reports[2]["model"]["adapter"]["name"] == "tuned"


# -- shots that fit ----------------------------------------------------------------------------------------------


def test_shots_are_dropped_from_the_front(nano: Checkpoint, folder: Path) -> None:
    data = read_mmlu(folder, subjects=["anatomy"])
    shots = data.shots["anatomy"]
    question = data.questions["anatomy"][0]
    tokens = [len(nano.tokenizer.encode(prompt(question, shots[5 - n :]))) + 1 for n in range(6)]
    for used, length in enumerate(tokens):
        for spare in (0, 1):
            (answer,) = answer_questions(nano, [question], shots, length + spare)
            assert (answer["shots"], answer["truncated"], answer["tokens"]) == (used, False, length - 1)
        if used:
            assert answer_questions(nano, [question], shots, length - 1)[0]["shots"] == used - 1
    np.testing.assert_allclose(
        answer_questions(nano, [question], shots, tokens[2])[0]["log_likelihoods"],
        plainly(nano, question, shots[3:]),
        atol=1e-4,
    )
    (cut,) = answer_questions(nano, [question], shots, tokens[0] - 4)
    assert (cut["shots"], cut["truncated"], cut["tokens"]) == (0, True, tokens[0] - 5)


def test_ties_go_to_the_first_and_are_counted(folder: Path, tmp_path: Path) -> None:
    model = build_tiny(tie_word_embeddings=False)
    model.lm_head.weight = 0 * model.lm_head.weight
    path = save_checkpoint(tmp_path / "even", model, CONFIGS["olmoe"])
    report = evaluate_mmlu(path, folder, subjects=["anatomy"], limit=3, shots=0)
    assert [q["choice"] for q in report["questions"]] == ["A"] * 3
    assert report["results"]["ties"] == 3
    for q in report["questions"]:
        assert q["probabilities"] == [0.25] * 4
        tokens = len(load_checkpoint(path).tokenizer.encode(" A"))
        assert q["log_likelihoods"] == pytest.approx([-tokens * np.log(320)] * 4, abs=1e-4)


# -- the report --------------------------------------------------------------------------------------------------


def test_the_report(whole: Path, folder: Path) -> None:
    report = json.loads(whole.read_text())
    assert report.pop("seal")
    assert list(report) == [
        *("schema_version", "task", "complete", "model", "data", "settings", "environment"),
        *("subjects", "results", "questions"),
    ]
    assert (report["task"], report["complete"]) == ("mmlu", True)
    assert report["model"]["id"] == "moebench-nano"
    assert report["model"]["fingerprint"]
    assert report["environment"]["command"].startswith("mlx-moebench")
    data = report["data"]
    assert (data["split"], data["format"], data["n_questions"], data["preset"]) == ("val", "folder", 36, None)
    assert data["sha256"] == read_mmlu(folder, subjects=list(SIZES), shots=2).sha256
    assert [(q["subject"], q["row"]) for q in report["questions"]] == [(s, r) for s in SIZES for r in range(SIZES[s])]
    for q in report["questions"]:
        assert sum(q["probabilities"]) == pytest.approx(1)
        assert q["choice"] == "ABCD"[int(np.argmax(q["log_likelihoods"]))]
        assert q["correct"] == (q["choice"] == q["answer"])
    right = {s: [q["correct"] for q in report["questions"] if q["subject"] == s] for s in SIZES}
    for entry in report["subjects"]:
        assert entry["accuracy"] == pytest.approx(np.mean(right[entry["subject"]]))
        assert entry["low"] <= entry["accuracy"] <= entry["high"]
    assert report["results"]["macro_accuracy"]["value"] == pytest.approx(np.mean([np.mean(r) for r in right.values()]))
    assert report["results"]["shots"] == {"mean": 2.0, "min": 2, "max": 2}


def test_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(answering.PRESETS, "12x25", (("virology", "anatomy"), 3))
    folder = write_mmlu(tmp_path, {"anatomy": 4, "virology": 2})
    report = evaluate_mmlu(None, folder, preset="12x25", shots=0)
    assert (report["data"]["limit"], report["data"]["n_questions"]) == (3, 5)
    assert "chosen for this package" in report["data"]["preset_note"]
    for options, words in (
        ({"preset": "12x26"}, "Did you mean '12x25'"),
        ({"preset": "12x25", "limit": 3}, "leave out both"),
        ({"max_length": 2000}, "1024 positions"),
        ({"max_length": 1, "subjects": ["anatomy"], "shots": 0}, "leave no room"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"resume": True}, "name the report"),
    ):
        with pytest.raises(MoebenchError, match=words):
            evaluate_mmlu(None, folder, **{"subjects": ["anatomy"] if "preset" not in options else None} | options)


# -- two models --------------------------------------------------------------------------------------------------


def test_compare(folder: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "pair.json"
    main(["evaluate", *RUN, "--data", str(folder), "--compare", str(adapter), "--output", str(output)])
    printed = capsys.readouterr().out
    report = read_evaluation(output)
    alone = evaluate_mmlu(None, folder, adapter_path=adapter, **SETTINGS)
    assert report["compared"]["questions"] == alone["questions"]
    assert report["compared"]["results"] == alone["results"]
    assert report["compared"]["model"]["adapter"]["name"] == "tuned"
    assert report["model"]["adapter"] is None
    found = report["comparison"]
    assert found == compare_answers(report, alone)
    pairs = found["mcnemar"]
    assert pairs["both"] + pairs["neither"] + pairs["first_only"] + pairs["second_only"] == 36
    assert pairs["first_only"] + pairs["second_only"] > 0, "this adapter changes answers"
    for words in ("with tuned", "McNemar", "Smallest detectable (macro)", "to detect one point"):
        assert words in printed


# -- runs that stop ----------------------------------------------------------------------------------------------

DRIVER = """
import sys, time
from mlx_moebench.evaluate import mmlu
from mlx_moebench.cli import main
answer, calls = mmlu.answer_questions, []
def blocking(*arguments):
    calls.append(1)
    if len(calls) == int(sys.argv[1]):
        print("blocked", flush=True)
        time.sleep(600)
    return answer(*arguments)
mmlu.answer_questions = blocking
main(sys.argv[2:])
"""


def assert_same_but_command(a: Path, b: Path) -> None:
    reports = [json.loads(path.read_text()) for path in (a, b)]
    for report in reports:
        del report["environment"]["command"], report["seal"]
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_kill_9_then_resume_gives_the_same_report(tmp_path: Path, folder: Path, whole: Path) -> None:
    output = tmp_path / "out.json"
    arguments = ["evaluate", *RUN, "--data", str(folder), "--output", str(output)]
    process = subprocess.Popen([sys.executable, "-c", DRIVER, "3", *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "blocked\n"
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.moelock", "out.json"]
    report = read_evaluation(output)
    assert report["complete"] is False
    assert [entry["subject"] for entry in report["subjects"]] == ["anatomy", "virology"]
    main([*arguments, "--resume"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert_same_but_command(output, whole)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """``stop_at(n, error)``: the n-th subject from now raises; returns a list that grows with every subject."""
    answer = answering.answer_questions

    def patch(number: int | None = None, error: BaseException | None = None) -> list[int]:
        calls: list[int] = []

        def counting(*arguments: Any) -> Any:
            calls.append(len(calls) + 1)
            if error is not None and len(calls) == number:
                raise error
            return answer(*arguments)

        monkeypatch.setattr(answering, "answer_questions", counting)
        return calls

    return patch


def test_ctrl_c_in_the_second_model_then_resume(
    tmp_path: Path,
    folder: Path,
    adapter: Path,
    stop_at: Callable[..., list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.json"
    run = ["evaluate", *RUN, "--data", str(folder), "--compare", str(adapter), "--output"]
    stop_at(5, KeyboardInterrupt())
    with pytest.raises(SystemExit) as stop:
        main([*run, str(output)])
    assert stop.value.code == 130
    assert f"after 4 subjects; the answers are in {output}, and --resume" in capsys.readouterr().err
    calls = stop_at()
    main([*run, str(output), "--resume"])
    assert len(calls) == 2, "what was answered is not asked again"
    main([*run, str(tmp_path / "at_once.json")])
    assert_same_but_command(output, tmp_path / "at_once.json")
    before = output.read_bytes()
    calls = stop_at()
    main([*run, str(output), "--resume"])
    assert calls == []
    assert output.read_bytes() == before


def test_an_error_says_where_the_answers_are(tmp_path: Path, folder: Path, stop_at: Callable[..., list[int]]) -> None:
    stop_at(2, EvaluationError("broken."))
    with pytest.raises(EvaluationError) as caught:
        evaluate_mmlu(None, folder, **SETTINGS, output=tmp_path / "out.json")
    assert caught.value.__notes__ == [f"The answers on the 1 subject before are in {tmp_path / 'out.json'}."]
    with pytest.raises(EvaluationError, match="continue with --resume"):
        check_output(tmp_path / "out.json")
    check_output(tmp_path / "out.json", resume=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shots": 1}, "its setting shots is 2, this run's is 1"),
        ({"batch_size": 4}, "batch size"),
        ({"max_length": 500}, "max length"),
        ({"limit": 3}, "limit"),
        ({"subjects": ["anatomy"]}, "data's"),
        ({"bits": 8}, "model's"),
        ({"compare": "adapter"}, "setting compare is not given"),
    ],
)
def test_other_options_are_refused(
    tmp_path: Path, folder: Path, whole: Path, adapter: Path, changed: dict[str, Any], words: str
) -> None:
    output = tmp_path / "out.json"
    output.write_bytes(whole.read_bytes())
    options = SETTINGS | changed | ({"compare": adapter} if "compare" in changed else {})
    with pytest.raises(EvaluationError, match="Cannot resume") as caught:
        evaluate_mmlu(None, folder, **options, output=output, resume=True)
    assert words in str(caught.value)
    assert output.read_bytes() == whole.read_bytes()


def test_other_data_are_refused(tmp_path: Path, whole: Path) -> None:
    other = write_mmlu(tmp_path / "other", SIZES)
    write_rows(other / "val" / "virology_val.csv", rows("virology", 12, 9))
    with pytest.raises(EvaluationError, match=r"data's (name|sha256)"):
        evaluate_mmlu(None, other, **SETTINGS, output=whole, resume=True)


# -- the command line --------------------------------------------------------------------------------------------


def test_the_table(whole: Path) -> None:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        console.print(render(read_evaluation(whole)))
    text = captured.get()
    assert "moebench-nano on MMLU (val): 36 questions of 3 subjects, 2-shot" in text
    names = [line.split()[0] for line in text.splitlines() if line.split()[0] in SIZES]
    assert names == sorted(SIZES)
    assert "mean 2.00, min 2, max 2" in text
    assert "Guessing" in text
    assert max(map(len, text.splitlines())) <= 80


def test_json_is_the_report(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "few"
    run = ["evaluate", "--subjects", "anatomy", "--limit", "9", "--shots", "0", "--quiet", "--json"]
    main([*run, "--data", str(folder), "--output", str(out)])
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(out.with_suffix(".json").read_text())
    assert printed.err == ""
    results = json.loads(printed.out)["results"]
    assert results["macro_accuracy"]["low"] is None
    assert "too few" in results["macro_accuracy"]["reason"]


def expect_error(arguments: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--quiet", *arguments])
    printed = capsys.readouterr()
    assert stop.value.code not in (0, 70, None), printed.err
    message = printed.err.strip().splitlines()[-1]
    assert message.startswith("Error: ")
    assert printed.out == ""
    for word in words:
        assert word in message


def test_mistakes(tmp_path: Path, folder: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(folder), "--output", str(tmp_path / "o.json")]
    expect_error([*data, "--subjects", "virologi"], capsys, "Did you mean 'virology'")
    expect_error([*data, "--subjects", " , "], capsys, "No subject")
    expect_error([*data, "--subjects", "astronomy"], capsys, "astronomy_val.csv is not there")
    expect_error([*data, "--split", "test"], capsys, "_test.csv is not there")
    expect_error([*data, "--shots", "6"], capsys, "6 shots")
    expect_error([*data, "--include-path", "x"], capsys, "lm-evaluation-harness")
    expect_error([*data, "--task", "arc_easy"], capsys, "--data belongs to --task mmlu")
    expect_error([*data, "--4bit", "--bits", "8"], capsys, "contradicts")
    data += ["--subjects", "anatomy"]
    expect_error([*data, "--compare", str(tmp_path / "none")], capsys, "no adapter folder")
    expect_error([*data, "--model", str(tmp_path / "nowhere")], capsys, "No such folder")
    expect_error(["--data", str(tmp_path / "none"), "--output", str(tmp_path / "o.json")], capsys, "no folder")
    assert list(tmp_path.iterdir()) == []
    expect_error(["--output", str(tmp_path)], capsys, "folder")
    other = tmp_path / "other.json"
    other.write_text('{"routers": []}')
    expect_error(["--output", str(other)], capsys, "choose another name")
    other.write_text("no json")
    expect_error(["--output", str(other)], capsys, "choose another name")
    assert other.read_text() == "no json"
    with pytest.raises(EvaluationError, match="Cannot read"):
        read_evaluation(tmp_path / "none.json")


def test_damaged_weights(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_tiny()
    model.lm_head.weight = model.lm_head.weight * mx.nan
    path = save_checkpoint(tmp_path / "nan", model, CONFIGS["olmoe"])
    run = ["--data", str(folder), "--subjects", "anatomy", "--limit", "1", "--shots", "0"]
    expect_error([*run, "--model", str(path), "--output", str(tmp_path / "o.json")], capsys, "not finite")
    assert not (tmp_path / "o.json").exists()
