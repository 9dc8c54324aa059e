"""Zero-shot tasks: the published forms of the files, LibMoE's scoring, ranks over seeds, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlx_moebench.data import read_corpus
from mlx_moebench.data.zeroshot import TASKS, Item, known_tasks, read_task
from mlx_moebench.errors import DataError, EvaluationError
from mlx_moebench.evaluate.choices import Request
from mlx_moebench.evaluate.ranks import average_ranks, over_seeds, ranked
from mlx_moebench.evaluate.runs import Run, ask, evaluate_runs
from mlx_moebench.evaluate.zeroshot import Answered, _fitting, summarised
from mlx_moebench.options import Plan, Reading

PLAN = Plan(resamples=200)

ARC = {"question": "What melts?", "choices": {"text": ["ice", "air"], "label": ["A", "B"]}, "answerKey": "A"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "lambada": [{"text": "The cat sat on the mat"}, {"text": " He said that he knew nobody "}],
    "hellaswag": [
        {
            "activity_label": "Baking",
            "ctx_a": "A man holds [substeps] dough.",
            "ctx_b": "he",
            "endings": ["bakes it.", "[header] flies away.", "sings  low.", "is [title] a door."],
            "label": "0",
        }
    ],
    "piqa": [{"goal": "open a jar ", "sol1": "turn the lid", "sol2": "eat the lid", "label": 0}],
    "siqa": [
        {"context": "Ann fell.", "question": "How is she?"}
        | {"answerA": "hurt", "answerB": "glad", "answerC": "tall", "label": "1"},
        {"context": "Bo won.", "question": "How is he?"}
        | {"answerA": "sad", "answerB": "glad", "answerC": "old", "correct": "B"},
    ],
    "csqa": [
        {
            "question": {
                "stem": "Where is bread?",
                "choices": [{"label": "A", "text": "shop"}, {"label": "B", "text": "sea"}],
            },
            "answerKey": "B",
        }
    ],
    "arc_easy": [ARC],
    "race": [
        {"id": "middle1.txt", "article": "It rained.", "questions": ["What?", "Why?"]}
        | {"options": [["rain", "sun"], ["fog", "air"]], "answers": ["A", "B"]},
        {"example_id": "high2.txt", "article": "It froze."}
        | {"question": "What?", "options": ["ice", "fire"], "answer": "A"},
    ],
}
READ = {
    "lambada": [Item("The cat sat on the", (" mat",), 0), Item("He said that he knew", (" nobody",), 0)],
    "hellaswag": [
        Item("Baking: A man holds dough. He", (" bakes it.", "  flies away.", " sings low.", " is. a door."), 0)
    ],
    "piqa": [Item("Question: open a jar\nAnswer:", (" turn the lid", " eat the lid"), 0)],
    "siqa": [
        Item("Context: Ann fell.\nQuestion: How is she?\nAnswer:", (" hurt", " glad", " tall"), 0),
        Item("Context: Bo won.\nQuestion: How is he?\nAnswer:", (" sad", " glad", " old"), 1),
    ],
    "csqa": [Item("Question: Where is bread?\nAnswer:", (" shop", " sea"), 1)],
    "arc_easy": [Item("Question: What melts?\nAnswer:", (" ice", " air"), 0)],
    "race": [
        Item("Article: It rained.\nQuestion: What?\nAnswer:", (" rain", " sun"), 0, "middle"),
        Item("Article: It rained.\nQuestion: Why?\nAnswer:", (" fog", " air"), 1, "middle"),
        Item("Article: It froze.\nQuestion: What?\nAnswer:", (" ice", " fire"), 0, "high"),
    ],
}
PAIRS = {
    "agreement": [("The dogs bark.", "The dogs barks."), ("A dog barks.", "A dog bark.")],
    "islands": [("Who did you see?", "Who did see you the man?")],
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of each task, as the packages of the data sets call them."""
    for name, rows in ROWS.items():
        write(tmp_path / "data" / f"{name}_val.jsonl", rows)
    for name, pairs in PAIRS.items():
        rows = [{"sentence_good": good, "sentence_bad": bad, "UID": name} for good, bad in pairs]
        write(tmp_path / "data" / "blimp" / f"{name}.jsonl", rows)
    return tmp_path / "data"


# -- files ---------------------------------------------------------------------------------------------------------


def test_published_rows_become_questions(folder: Path) -> None:
    for name, items in READ.items():
        assert list(read_task(name, folder).items) == items, name
    blimp = read_task("blimp", folder)
    assert [item.group for item in blimp.items] == ["agreement", "agreement", "islands"]
    assert blimp.items[0] == Item("", PAIRS["agreement"][0], 0, "agreement")
    assert (blimp.chance, read_task("lambada", folder).chance) == (0.5, 0.0)
    assert read_task("blimp", folder, limit=1).facts()["n"] == 2  # one of each paradigm
    assert set(known_tasks(folder)) == set(TASKS) - {"arc_challenge"}


def test_labels_may_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    rows = [{"goal": f"goal {n}", "sol1": "a", "sol2": "b"} for n in range(3)]
    file = write(tmp_path / "piqa" / "valid.jsonl", rows)
    labels = file.with_name("valid-labels.lst")
    labels.write_text("1\n0\n1\n")
    assert [item.answer for item in read_task("piqa", tmp_path / "piqa").items] == [1, 0, 1]
    labels.write_text("1\n0\n")
    with pytest.raises(DataError, match=r"valid-labels.lst and valid.jsonl differ in length"):
        read_task("piqa", file)


def test_own_rows(tmp_path: Path) -> None:
    rows = [
        {"context": "Two and two are", "choices": ["four", "five"], "answer": 0},
        {"context": "", "choices": ["One.", "Two."], "answer": "Two."},
    ]
    questions = read_task("sums", write(tmp_path / "sums.jsonl", rows))
    assert questions.items[0] == Item("Two and two are", (" four", " five"), 0, "sums")
    assert (questions.items[1].choices, questions.items[1].answer) == (("One.", "Two."), 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no question"),
        ([{"goal": "x", "sol1": "a"}], "lacks 'sol2'"),
        ([{"goal": "x", "sol1": "a", "sol2": " ", "label": 0}], "a choice is empty"),
        ([{"goal": "x", "sol1": "a", "sol2": "b", "label": 2}], "the answer is 2, of 2 choices"),
        ([{"goal": 3, "sol1": "a", "sol2": "b", "label": 0}], "has no attribute 'strip'"),
    ],
)
def test_rows_of_another_form_are_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_task("piqa", write(tmp_path / "piqa.jsonl", rows))


def test_files_must_be_there_and_one(folder: Path) -> None:
    with pytest.raises(DataError, match="no file of ARC-Challenge"):
        read_task("arc_challenge", folder)
    with pytest.raises(DataError, match="There is no file or folder"):
        read_task("piqa", folder / "nowhere")
    write(folder / "piqa_train.jsonl", ROWS["piqa"])
    assert len(read_task("piqa", folder).files) == 1  # those for training are not asked
    write(folder / "piqa_test.jsonl", ROWS["piqa"])
    with pytest.raises(DataError, match="several files of PIQA"):
        read_task("piqa", folder)
    with pytest.raises(EvaluationError, match="harness:cbt"):
        ask(["cbt"], folder)
    with pytest.raises(EvaluationError, match="Nothing is asked"):
        ask()


# -- scoring -------------------------------------------------------------------------------------------------------


def test_scores_are_those_written_down_by_hand(folder: Path) -> None:
    """Three choices of 1, 2 and 4 tokens: per token the second wins, in all the first, per character the third."""
    item = Item("x", (" ab", " abcd", " abcdefghijklmnop"), 1)
    given = Answered((-1.1, -2.0, -4.4), (1, 2, 4), (False,) * 3, False)
    assert given.values("per_token", item) == pytest.approx([-1.1, -1.0, -1.1])
    assert given.values("sum", item) == [-1.1, -2.0, -4.4]
    assert given.values("per_character", item) == pytest.approx([-0.55, -0.5, -0.275])
    questions = read_task("arc_easy", folder)
    made = summarised(type(questions)(questions.task, (item,), (), ""), [given], PLAN)
    assert (made["value"], made["right"], made["n"]) == (1.0, "1", 1)
    assert {rule: one["value"] for rule, one in made["by_rule"].items()} == {"sum": 0.0, "per_character": 0.0}
    tie = Answered((-1.0, -2.0, -9.0), (1, 2, 4), (False,) * 3, False)
    assert summarised(type(questions)(questions.task, (item,), (), ""), [tie], PLAN)["value"] == 0.0  # as LibMoE counts


def test_groups_weigh_alike_and_last_words_must_be_greedy(folder: Path) -> None:
    blimp = read_task("blimp", folder)
    answers = [Answered((-1.0, -2.0), (3, 3), (False, False), False) for _ in range(2)]
    answers.append(Answered((-3.0, -2.0), (3, 3), (False, False), False))
    made = summarised(blimp, answers, PLAN)
    assert made["value"] == 0.5  # 1 of agreement, 0 of islands
    assert made["micro"]["value"] == pytest.approx(2 / 3)
    lambada = read_task("lambada", folder)
    words = [Answered((-1.0,), (2,), (True,), False), Answered((-3.0,), (1,), (False,), True)]
    made = summarised(lambada, words, PLAN)
    assert (made["value"], made["truncated"]) == (0.5, 1)
    assert made["perplexity"] == pytest.approx(math.exp(4 / 3))


# -- ranks ---------------------------------------------------------------------------------------------------------

PUBLISHED = """
Dense 19.74 73.48 81.03 27.56 55.82 32.09 29.36 35.72 25.14
SMoE 25.27 77.71 84.18 29.43 57.94 32.68 30.11 35.62 24.65
XMoE 24.57 76.53 84.12 29.34 58.27 32.26 29.69 35.47 24.49
sigma 25.43 77.38 84.23 29.13 58.92 32.73 31.05 34.90 24.90
V2 25.29 77.37 84.33 29.38 60.17 33.83 31.02 35.57 24.98
V3 25.49 77.20 84.40 29.38 59.14 32.52 30.60 35.57 25.47
TC 25.60 76.91 84.68 29.27 59.03 33.02 30.63 36.03 26.37
MoE++ 25.45 77.23 84.83 29.28 58.49 33.49 30.11 35.62 24.49
"""
"""Accuracies of LibMoE's table 2, small model."""


def test_ranks_of_the_published_table() -> None:
    """Its column of ranks gives XMoE 4.44 and sigma 6.56; its own accuracies say the reverse."""
    rows = [line.split() for line in PUBLISHED.strip().splitlines()]
    found = dict(zip((row[0] for row in rows), average_ranks([list(map(float, row[1:])) for row in rows]), strict=True))
    assert {name: round(float(rank), 2) for name, rank in found.items() if name in ("Dense", "SMoE", "TC")} == {
        "Dense": 6.78,
        "SMoE": 4.56,
        "TC": 2.89,
    }
    assert round(float(found["XMoE"]), 2) == 6.61
    assert round(float(found["sigma"]), 2) == 4.44


def test_ranks_over_seeds() -> None:
    """Two models, two seeds, two tasks, by hand: of the first seed A has ranks 1 and 2, of the second 1 and 1."""
    entries = ranked([[[0.9, 0.1], [0.8, 0.6]], [[0.5, 0.4], [0.5, 0.5]]])
    assert [one["value"] for one in entries] == [1.25, 1.75]
    assert (entries[0]["low"], entries[0]["high"]) == (1.0, 2.0)  # t with one degree of freedom is wide: the range
    interval = over_seeds([0.2, 0.3, 0.4])
    assert interval.low is not None
    assert interval.low == pytest.approx(0.3 - 4.30265 * 0.1 / math.sqrt(3), abs=1e-5)
    assert over_seeds([0.3]).reason
    with pytest.raises(EvaluationError, match="lacks the score"):
        average_ranks([[0.5, math.nan], [0.1, 0.2]])


def test_intervals_over_seeds_cover() -> None:
    rng = np.random.default_rng(0)
    drawn = [over_seeds(rng.normal(0.5, 0.1, size=3)) for _ in range(2000)]
    covered = np.mean([one.low <= 0.5 <= one.high for one in drawn])  # type: ignore[operator]
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


# -- models --------------------------------------------------------------------------------------------------------


@pytest.fixture
def nano() -> Any:
    pytest.importorskip("mlx.core", reason="needs MLX")
    from mlx_moebench.models import load_checkpoint, select_device

    select_device("cpu")
    return load_checkpoint(None)


def plain_log_p(checkpoint: Any, context: list[int], continuation: list[int]) -> float:
    """By one forward of everything, in float64."""
    import mlx.core as mx

    z = np.array(checkpoint.model(mx.array([context + continuation])))[0].astype(np.float64)
    logs = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
    return float(sum(logs[len(context) - 1 + n, token] for n, token in enumerate(continuation)))


def test_answers_and_perplexity_are_those_of_plain_forwards(nano: Any, folder: Path) -> None:
    asked = ask(["arc_easy", "blimp"], folder, "math", reading=Reading(max_samples=12, max_length=32))
    report = evaluate_runs([("nano", "moebench-nano")], asked, plan=PLAN)
    (run,) = report["runs"]
    ids, encode = nano.tokenizer.eos_token_id, nano.tokenizer.encode
    good, bad = (plain_log_p(nano, [ids], encode(text)) for text in PAIRS["islands"][0])
    assert run["results"]["blimp"]["right"][2] == str(int(good > bad))
    context = encode("Question: What melts?\nAnswer:")
    means = [plain_log_p(nano, context, encode(choice)) / len(encode(choice)) for choice in (" ice", " air")]
    assert run["results"]["arc_easy"]["right"] == str(int(means[0] > means[1]))
    rows = [encode(document.text)[:32] for document in read_corpus("math", max_samples=12).documents]
    total = sum(plain_log_p(nano, row[:1], row[1:]) for row in rows)
    text = run["results"]["text"]
    assert text["n_tokens"] == sum(len(row) - 1 for row in rows)
    assert text["loss"]["value"] == pytest.approx(-total / text["n_tokens"], rel=1e-5)
    assert text["perplexity"]["low"] < text["perplexity"]["value"] < text["perplexity"]["high"]
    assert text["perplexity"]["value"] == pytest.approx(math.exp(text["loss"]["value"]))


def test_what_does_not_fit_is_cut() -> None:
    """Of 8 positions: a choice keeps 4 tokens, the context its last ones."""
    short, long = Request((1, 2, 3), (4, 5)), Request((1, 2, 3), tuple(range(9)))
    assert _fitting([short, short], 8, None) == ([short, short], False)
    assert _fitting([short, long], None, None) == ([short, long], False)
    assert _fitting([short, long], 8, None) == ([short, Request((1, 2, 3), (0, 1, 2, 3))], True)
    wide = Request(tuple(range(20)), (7, 8))
    assert _fitting([wide], 8, None) == ([Request(tuple(range(14, 20)), (7, 8))], True)
    assert _fitting([wide], 8, 0)[0][0].context == (0, *range(15, 20))  # a token that begins texts stays


def test_runs_are_ranked_kept_and_gone_on_with(nano: Any, tmp_path: Path, folder: Path) -> None:
    from conftest import TINY_CONFIG, build_tiny, save_checkpoint

    from mlx_moebench.evaluate import runs as module

    for seed in range(4):
        save_checkpoint(tmp_path / f"m{seed}", build_tiny(seed), TINY_CONFIG)
    names = [("a", "m0"), ("a", "m1"), ("b", "m2"), ("b", "m3")]
    every = [Run(name, str(tmp_path / place)) for name, place in names]
    asked, output = ask(["blimp", "piqa", "siqa"], folder), tmp_path / "eval.json"
    whole = evaluate_runs(every, asked, plan=PLAN, output=output)
    a, b = whole["models"]
    assert (a["seeds"], a["rank"]["value"] + b["rank"]["value"]) == (2, 3.0)
    values = [run["results"]["siqa"]["value"] for run in whole["runs"][:2]]
    assert a["results"]["siqa"]["value"] == pytest.approx(np.mean(values))
    loaded: list[str] = []
    real, broken = module._loaded, json.loads(output.read_text())
    broken["runs"][2]["results"].pop("piqa")
    broken = {key: value for key, value in broken.items() if key != "seal"} | {"runs": broken["runs"][:3]}
    from mlx_moebench.pair.seal import sealed_text

    output.write_text(sealed_text(broken))

    def counting(runner: Any, place: str, *rest: Any) -> Any:
        loaded.append(Path(place).name)
        return real(runner, place, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_loaded", counting)
        again = evaluate_runs(every, asked, plan=PLAN, output=output, resume=True)
    assert loaded == ["m2", "m3"]
    assert again["runs"] == whole["runs"]

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("b (3 of 4): PIQA"):
            raise KeyboardInterrupt

    output.unlink()
    with pytest.raises(KeyboardInterrupt, match=r"the answers are in .*eval\.json, and --resume continues"):
        evaluate_runs(every, asked, plan=PLAN, output=output, step=stop)
    assert len(json.loads(output.read_text())["runs"]) == 3
    assert evaluate_runs(every, asked, plan=PLAN, output=output, resume=True)["runs"] == whole["runs"]
    output.write_text(sealed_text(broken | {"complete": False}))
    with pytest.raises(EvaluationError, match="did not finish: continue with --resume"):
        evaluate_runs(every, asked, plan=PLAN, output=output)
    with pytest.raises(EvaluationError, match="the tasks in it are not those of this run"):
        evaluate_runs(every, ask(["blimp"], folder), plan=PLAN, output=output, resume=True)
    with pytest.raises(EvaluationError, match="named twice"):
        evaluate_runs([every[0], every[0]], asked, plan=PLAN)


def test_a_dense_model_is_asked_too(tmp_path: Path, folder: Path, nano: Any) -> None:
    """Of mlx-lm's llama, without any router."""
    import mlx.core as mx
    from conftest import save_checkpoint
    from mlx_lm.models import llama

    config = {
        "model_type": "llama",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": 300,
        "rope_parameters": {"rope_theta": 1e5},
    }
    mx.random.seed(0)
    given = {key: value for key, value in config.items() if key != "rope_parameters"}
    model = llama.Model(llama.ModelArgs.from_dict(given))
    report = evaluate_runs([("dense", str(save_checkpoint(tmp_path / "dense", model, config)))], ask(["piqa"], folder))
    assert report["runs"][0]["model"]["model_type"] == "llama"
    assert report["runs"][0]["results"]["piqa"]["n"] == 1
    from mlx_moebench.models.plain import load_any
    from mlx_moebench.options import Loading

    assert load_any(tmp_path / "dense", Loading()).model.args.rope_theta == 1e5


@pytest.mark.slow
def test_the_dense_baseline_of_the_lab_is_asked_too(tmp_path: Path, folder: Path, nano: Any) -> None:
    from mlx_moebench.lab.pretrain import pretrain
    from mlx_moebench.lab.settings import Pretraining

    sizes: dict[str, Any] = {"steps": 1, "batch_size": 2, "micro_batch_size": 2, "seq_length": 32, "vocab_size": 300}
    pretrain(Pretraining(router="dense", eval_every=0, **sizes), tmp_path / "dense", device="cpu")
    report = evaluate_runs([("dense", str(tmp_path / "dense"))], ask(["piqa"], folder, "math"), plan=PLAN)
    loss = report["runs"][0]["results"]["text"]["loss"]["value"]
    assert abs(loss - math.log(300)) < 1  # it has learnt nothing


def test_the_command(tmp_path: Path, folder: Path, nano: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from mlx_moebench.cli import main

    main(["lab", "eval", "one=moebench-nano", "--data", str(folder), "--csv", str(tmp_path / "e.csv"), "--quiet"])
    shown = capsys.readouterr().out
    assert "LAMBADA (2)" in shown
    assert "guessing" in shown
    table = pd.read_csv(tmp_path / "e.csv")
    assert set(table["task"].dropna()) == {"lambada", "blimp", "hellaswag", "piqa", "arc_easy", "siqa", "csqa"}
    with pytest.raises(SystemExit):
        main(["lab", "eval", str(tmp_path / "no*"), "--data", str(folder), "--quiet"])
    assert "nothing matches" in capsys.readouterr().err
