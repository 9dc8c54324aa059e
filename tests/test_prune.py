"""What models lose without experts, with other weights of them, or with two as one: against forwards run apart."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

from conftest import FORMS, build_tiny, built, save_checkpoint
from family_rows import BY_TYPE
from mmlu_files import write_mmlu

from mlx_moebench.analysis.answers import Exam, Questions, effect_on_answers, halves
from mlx_moebench.analysis.contributed import contributed
from mlx_moebench.analysis.expert_texts import CHOOSING, JUDGING, corpus_texts, question_texts
from mlx_moebench.analysis.merging import FEWEST, merge_candidates
from mlx_moebench.analysis.perturb import perturb
from mlx_moebench.analysis.prune import ordered, prune
from mlx_moebench.analysis.rankings import PRIOR, Size, ranked, shrunk_accuracy
from mlx_moebench.analysis.reweight import reweight
from mlx_moebench.checkpoints import LoadedModel
from mlx_moebench.cli import main
from mlx_moebench.data import encode, read_corpus
from mlx_moebench.errors import DataError, MoebenchError, StatsError
from mlx_moebench.evaluate.mmlu import answer_questions
from mlx_moebench.instrument.changes import Ranks, Reweighted, Without
from mlx_moebench.instrument.interventions import changing
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.options import Options, Plan, Reading, Saving

import mlx.core as mx  # isort: skip

READING = Reading(max_samples=24, max_length=16, batch_size=4)
OPTIONS = Options(reading=READING, plan=Plan(resamples=200))
SUBJECTS = ("anatomy", "virology")
usage = namedtuple("usage", "total used free")


@pytest.fixture(scope="module")
def nano() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Questions:
    return Questions(write_mmlu(tmp_path_factory.mktemp("mmlu"), {"anatomy": 12, "virology": 9}), subjects=SUBJECTS)


def losses(checkpoint: Checkpoint, half: str) -> np.ndarray:
    """Of every token with a next one, of every second document."""
    every = encode(read_corpus("math", max_samples=24), checkpoint.tokenizer, 16)
    rest = {CHOOSING: 0, JUDGING: 1}[half]
    found = []
    for sequence in every:
        if sequence.row % 2 == rest:
            z = np.array(checkpoint.model(mx.array(sequence.ids)[None]))[0].astype(np.float64)
            log_p = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
            found.append(-log_p[np.arange(len(z) - 1), sequence.ids[1:]])
    return np.concatenate(found)


@pytest.mark.parametrize("how", ["route-around", pytest.param("zero", marks=pytest.mark.slow)])
def test_pruning_is_judged_on_other_texts(how: Any, nano: Checkpoint) -> None:
    report = prune(nano, "math", OPTIONS, how=how, random=2)
    assert report["complete"]
    assert report["chosen_on"]["shard"] == CHOOSING
    assert report["data"]["parts"][0]["shard"] == JUDGING
    texts = corpus_texts(nano, nano.config, "math", Reading(max_samples=24, max_length=16, shard=CHOOSING), "all")
    gone = {}
    for number, (section, sums) in enumerate(zip(report["routers"], contributed(nano, texts, 4).sums, strict=True)):
        assert section["order"] == ranked(np.where(sums.total("tokens") > 0, sums.reap, -np.inf))
        assert section["kept"] == sorted(section["order"][:12])
        gone[number] = ~np.isin(np.arange(16), section["kept"])
    before = losses(nano, JUDGING)
    with changing(nano.model, Without(gone, how)):
        after = losses(nano, JUDGING)
    first, *random = report["runs"]
    assert report["loss"]["value"] == pytest.approx(before.mean(), rel=1e-5)
    assert first["loss_change"]["value"] == pytest.approx((after - before).mean(), abs=1e-5)
    assert [(one["by"], one["seed"]) for one in random] == [("random", 0), ("random", 1)]
    mean = np.mean([one["loss_change"]["value"] for one in random])
    difference = report["against_random"]["loss_difference"]
    assert difference["value"] == pytest.approx(first["loss_change"]["value"] - mean, abs=1e-6)
    assert difference["low"] < difference["value"] < difference["high"]
    held = report["bytes"]
    assert held["experts_after"] == 0.75 * held["experts"]
    assert held["all"] - held["all_after"] == held["experts"] - held["experts_after"]


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(nano: Checkpoint, tmp_path: Path) -> None:
    def run(random: int, resume: bool, **more: Any) -> dict[str, Any]:
        options = Options(reading=READING, plan=OPTIONS.plan, saving=Saving(tmp_path / "p.json", resume))
        made = prune(nano, "math", options, random=random, **more)
        return json.loads((tmp_path / "p.json").read_text()) | {"made": made}

    whole = prune(nano, "math", OPTIONS, random=2)
    kept = run(2, False)["runs"]
    kept[0]["loss"]["value"] = 17.0  # which a run that is made again would not say
    report = json.loads((tmp_path / "p.json").read_text())
    again = run(2, True)
    assert again["runs"] == report["runs"]
    assert again["against_random"] == whole["against_random"]
    with pytest.raises(StatsError, match="the settings in it"):
        run(2, True, keep=0.5)


@pytest.mark.slow
def test_an_export_is_the_masked_model(nano: Checkpoint, tmp_path: Path) -> None:
    report = prune(nano, "math", OPTIONS, by="frequency", random=0, export=tmp_path / "less")
    made = report["export"]
    assert made["logits"]["difference"] < 1e-5 * made["logits"]["largest"]
    assert made["bytes_after"] < 0.85 * made["bytes_before"]
    assert made["generation"]["ratio"]["value"] > 0
    assert load_checkpoint(tmp_path / "less").config["num_experts"] == 12
    assert "against_random" not in report
    with pytest.raises(MoebenchError, match="zero"):
        prune(nano, "math", OPTIONS, how="zero", export=tmp_path / "other")
    with pytest.raises(MoebenchError, match="stored weights"):
        prune(load_checkpoint(None, bits=8), "math", OPTIONS, export=tmp_path / "other")


@pytest.mark.slow
def test_by_accuracy_other_questions_judge(nano: Checkpoint, questions: Questions) -> None:
    report = prune(nano, "math", OPTIONS, by="accuracy", random=1, questions=questions)
    assert report["questions"]["n_questions"] == 6 + 4
    assert report["accuracy"]["n"] == 10
    assert report["chosen_on"]["n_questions"] == 6 + 5
    assert {"accuracy", "accuracy_change", "choice_agreement"} <= report["runs"][0].keys()
    with pytest.raises(MoebenchError, match="needs questions"):
        prune(nano, "math", OPTIONS, by="accuracy")


def test_halves_share_no_question(questions: Questions) -> None:
    first, second = halves(questions.read())
    for subject, n in (("anatomy", 12), ("virology", 9)):
        rows = [[q.row for q in half.questions[subject]] for half in (first, second)]
        assert sorted(rows[0] + rows[1]) == list(range(n))
    one = Questions(questions.folder, subjects=("anatomy",), limit=1).read()
    with pytest.raises(DataError, match="cannot be split"):
        halves(one)


@pytest.mark.slow
def test_weights_are_scaled_towards_accuracy(nano: Checkpoint, questions: Questions) -> None:
    report = reweight(nano, "math", OPTIONS, questions=questions, strength=2.0, shuffled=1)
    chosen, judged = halves(questions.read())
    factors = {n: np.array(section["factors"]) for n, section in enumerate(report["routers"])}
    asked = Exam(judged, 1024, 4)
    before, after = asked.answers(nano), asked.answers(nano, Reweighted(factors))
    effect = effect_on_answers(before, after, OPTIONS.plan)
    first, second = report["runs"]
    assert first["accuracy_change"] == effect["accuracy_change"]
    assert first["choice_agreement"] == effect["choice_agreement"]
    assert report["accuracy"]["value"] == np.mean([one["correct"] for one in before])
    assert (second["towards"], second["seed"]) == ("shuffled", 0)
    assert report["chosen_on"]["n_questions"] == sum(map(len, chosen.questions.values()))
    assert all(one.min() > 0 for one in factors.values())
    with pytest.raises(MoebenchError, match="above 0"):
        reweight(nano, "math", OPTIONS, questions=questions, strength=0)


def test_few_questions_say_little() -> None:
    correct = np.array([True] * 10 + [False] * 30)
    chosen = np.zeros((40, 3), bool)
    chosen[0, 0] = chosen[:, 1] = True
    values, whole = shrunk_accuracy(chosen, correct)
    assert whole == 0.25
    assert values[0] == pytest.approx((1 + PRIOR * 0.25) / (1 + PRIOR))
    assert values[1:].tolist() == [0.25, 0.25]


@pytest.mark.slow
def test_the_cost_of_merging_is_that_of_mean_weights(nano: Checkpoint) -> None:
    report = merge_candidates(nano, "math", OPTIONS, pairs=2)
    runs = {(one["router"], one["alike"]): one for one in report["runs"]}
    texts = corpus_texts(nano, nano.config, "math", Reading(max_samples=24, max_length=16, shard=CHOOSING), "all")
    sums = contributed(nano, texts, 4).sums[2]
    for alike in ("weights", "outputs"):
        nearest, other = report["routers"][2]["candidates"][alike]
        assert nearest[alike] >= other[alike]
        i, j = nearest["pair"]
        assert nearest["together"] == sums.pairs[0, i, j]
        assert alike == "weights" or nearest["together"] >= FEWEST
        before = losses(nano, JUDGING)
        use = sums.total("tokens")[[i, j]]
        share = use[0] / use.sum()
        experts = nano.model.layers[2].mlp.switch_mlp
        kept = [(p, p.weight) for p in (experts.gate_proj, experts.up_proj, experts.down_proj)]
        for part, weight in kept:
            new = np.array(weight)
            new[i] = new[j] = share * new[i] + (1 - share) * new[j]
            part.weight = mx.array(new)
        after = losses(nano, JUDGING)
        for part, weight in kept:
            part.weight = weight
        one = runs[2, alike]
        assert one["pair"] == [i, j]
        assert one["loss_change"]["value"] == pytest.approx((after - before).mean(), abs=1e-5)


@pytest.mark.slow
def test_perturbations_change_answers(nano: Checkpoint, questions: Questions) -> None:
    report = perturb(
        nano, "math", ["drop-top1", "k=2"], questions=questions, max_samples=12, max_length=12, plan=OPTIONS.plan
    )
    mmlu = questions.read()

    def answers() -> list[str]:
        return [a["choice"] for s in SUBJECTS for a in answer_questions(nano, mmlu.questions[s], mmlu.shots[s], 1024)]

    before = answers()
    with changing(nano.model, Ranks(1)):
        after = answers()
    first, same = report["runs"]
    assert first["choice_agreement"]["value"] == pytest.approx(
        np.mean([x == y for x, y in zip(before, after, strict=True)])
    )
    assert same["choice_agreement"]["value"] == 1.0
    assert same["accuracy_change"]["value"] == 0.0
    assert report["questions"]["n_questions"] == len(before)


@pytest.mark.slow
def test_the_commands(tmp_path: Path, questions: Questions, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--max-samples", "20", "--max-length", "12", "--resamples", "100", "--quiet"]
    asked = ["--mmlu", str(questions.folder), "--subjects", ",".join(SUBJECTS)]
    for arguments, said in (
        (["prune", "--random", "1", *asked], "minus the mean of random prunings"),
        (["reweight", "--shuffled", "1", *asked], "Factors of the gate weights"),
        (["merge-candidates", "--pairs", "1", "--no-measure"], "Most alike in weights"),
    ):
        out = tmp_path / f"{arguments[0]}.json"
        main(["experts", *arguments, *few, "--output", str(out)])
        assert said in " ".join(capsys.readouterr().out.split())
        assert json.loads(out.read_text())["complete"]
    main(["perturb", "--what", "drop-top1", *asked, *few])
    assert "accuracy change" in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **more: Any) -> None:
        raise AssertionError("it ran")

    for name in ("prune", "reweight", "merging"):
        monkeypatch.setattr(f"mlx_moebench.analysis.{name}.contributed", never)


def test_what_cannot_be_done_is_said_before_anything_runs(
    nano: Checkpoint, tmp_path: Path, questions: Questions, nothing_runs: None
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "a").write_text("mine")
    (tmp_path / "one.txt").write_text("One document.")
    one_by_one = LoadedModel(built(FORMS["softmax_loop"]), nano.tokenizer)
    packed = load_checkpoint(None, bits=4)

    def refused(said: str, measure: Any, model: Any = nano, dataset: Any = "math", **more: Any) -> None:
        with pytest.raises(MoebenchError, match=said):
            measure(model, dataset, OPTIONS, **more)

    refused("would choose 2 of 1", prune, keep=0.05)
    refused("holds something", prune, export=full)
    refused("is a file", prune, export=tmp_path / "one.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 10**6))
        refused("has 0.00 GB free, and the smaller checkpoint takes 0.01 GB", prune, export=tmp_path / "less")
    refused("one by one", prune, one_by_one)
    refused("one by one", reweight, one_by_one, questions=questions)
    refused("--no-measure", merge_candidates, one_by_one)
    refused("--no-measure", merge_candidates, packed)
    refused("one document", prune, dataset=str(tmp_path / "one.txt"))
    refused("one document", merge_candidates, dataset=str(tmp_path / "one.txt"))
    assert [path.name for path in full.iterdir()] == ["a"]


@pytest.mark.slow
def test_an_export_is_whole_or_not_there(nano: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while it is written, or while it is timed: nothing, or all of it, which --resume takes."""
    target, out = tmp_path / "less", tmp_path / "p.json"

    def run(**more: Any) -> dict[str, Any]:
        options = Options(reading=READING, plan=OPTIONS.plan, saving=Saving(out, True))
        return prune(nano, "math", options, random=0, export=target, **more)

    with monkeypatch.context() as patch:
        patch.setattr("mlx_moebench.checkpoints.pruned.shutil.copyfile", _stopped)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert {path.name for path in tmp_path.iterdir()} == {"p.json"}
    with monkeypatch.context() as patch:
        patch.setattr("mlx_moebench.checkpoints.pruned.shutil.copyfile", _full)
        with pytest.raises(MoebenchError, match="less: No space left"):
            run()
    assert {path.name for path in tmp_path.iterdir()} == {"p.json"}
    (tmp_path / ".less.partial").mkdir()  # what a killed one leaves
    with monkeypatch.context() as patch:
        patch.setattr("mlx_moebench.analysis.speed.generation_speed", _stopped)
        with pytest.raises(KeyboardInterrupt):
            run()
    written = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    made = run()["export"]
    assert written == {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert made["bytes_after"] < made["bytes_before"]
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "less"}
    with pytest.raises(MoebenchError, match="another choice"):
        prune(nano, "math", Options(reading=READING, saving=Saving(tmp_path / "q.json", True)), keep=0.5, export=target)


def _full(*args: Any, **more: Any) -> None:
    raise OSError(28, "No space left on device")


def _stopped(*args: Any, **more: Any) -> None:
    raise KeyboardInterrupt


def test_accuracy_that_ranks_nothing_is_said(nano: Checkpoint, questions: Questions) -> None:
    """Where all answers are right, every expert has the accuracy of all."""
    mmlu = questions.read()
    made = contributed(nano, question_texts(nano, nano.config, mmlu, "last", 0), 8)
    texts = question_texts(nano, nano.config, mmlu, "last", 0)
    of_routers = [Size(16, 12, 1)] * len(made.specs)
    assert len(ordered("accuracy", made, texts, of_routers)) == len(made.specs)
    for answer in made.answers or ():
        answer["correct"] = True
    with pytest.raises(MoebenchError, match="tells no expert from another"):
        ordered("accuracy", made, texts, of_routers)


@pytest.mark.parametrize("k", [1, 8])
def test_perturbations_by_default_are_those_that_can_be(k: int, tmp_path: Path) -> None:
    config = BY_TYPE["olmoe"].config | {"num_experts_per_tok": k}
    folder = save_checkpoint(tmp_path / "model", build_tiny(num_experts_per_tok=k), config)
    report = perturb(folder, "math", max_samples=2, max_length=6, plan=OPTIONS.plan)
    names = [one["perturbation"] for one in report["runs"]]
    assert ("remove-top1" in names) == (k == 8)
    assert ("drop-top1" in names) == (k == 1)
    with pytest.raises(MoebenchError, match=r"remove-top1|drop-top1"):
        perturb(folder, "math", ["remove-top1" if k == 1 else "drop-top1"], max_samples=2, plan=OPTIONS.plan)


def test_ranks_stay_in_the_groups_that_a_token_is_left(tmp_path: Path) -> None:
    grouped = FORMS["sigmoid_groups"]
    row = BY_TYPE[grouped].config
    k = (row.get("num_experts") or row["n_routed_experts"]) // row["n_group"]
    limit = {"topk_group": 1, "num_experts_per_tok": k}
    folder = save_checkpoint(tmp_path / "model", build_tiny(model_type=grouped, **limit), row | limit)
    with pytest.raises(MoebenchError, match="of the groups that a token is left"):
        perturb(folder, "math", ["drop-top1"], max_samples=2)
