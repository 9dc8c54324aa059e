"""Experts measured: against outputs captured without taps, at every choice of positions, and as commands."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

from click.testing import CliRunner
from conftest import FEW_FORMS, build_tiny, built
from family_rows import BY_TYPE, Row
from mmlu_files import write_mmlu
from watching import Recorder, Watch, places, unwatch

from mlx_moebench.analysis.answers import Questions
from mlx_moebench.analysis.contributed import Contributed, contributed
from mlx_moebench.analysis.expert_texts import Texts, question_texts
from mlx_moebench.analysis.expert_weights import merged, nearest_pairs, weight_similarity
from mlx_moebench.analysis.experts import experts
from mlx_moebench.analysis.kept_sums import partial_path
from mlx_moebench.checkpoints import LoadedModel
from mlx_moebench.cli import group, main
from mlx_moebench.data import Sequence
from mlx_moebench.errors import DataError, MoebenchError, RoutingError, StatsError
from mlx_moebench.evaluate.mmlu import evaluate_mmlu
from mlx_moebench.instrument import capture
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.options import Plan, Reading, Saving
from mlx_moebench.pair.format import checked, schema_text
from mlx_moebench.routing.repeats import units_of

import mlx.core as mx  # isort: skip

PLAN = Plan(resamples=200)
SIZES = {"anatomy": 12, "virology": 8}
IDS = np.random.default_rng(0).integers(1, 300, (3, 10)).astype(np.int32)
with_families = pytest.mark.parametrize(
    "row", [pytest.param(BY_TYPE[param.values[0]], id=param.values[0], marks=param.marks) for param in FEW_FORMS]
)


@pytest.fixture(scope="module")
def nano() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects of MMLU."""
    return write_mmlu(tmp_path_factory.mktemp("mmlu"), SIZES)


def texts_of(ids: np.ndarray, counted: Any) -> Texts:
    sequences = [Sequence(row, 0, one, truncated=False) for row, one in enumerate(ids)]
    return Texts(sequences, np.array(counted), units_of(range(len(ids))), ["x"] * len(ids), {})


def summed(model: Any, tokenizer: Any, counted: Any, batch_size: int) -> Contributed:
    return contributed(LoadedModel(model, tokenizer), texts_of(IDS, counted), batch_size)


@with_families
def test_sums_are_those_of_outputs_captured_without_taps(row: Row, nano: Checkpoint) -> None:
    """Tokens, EAN, REAP, frequency and cosines of every expert, token by token from the experts' own outputs."""
    model = built(row.model_type)
    counted = [[0, 10], [2, 7], [9, 10]]
    made = summed(model, nano.tokenizer, counted, 2)
    watched, recorder = [Watch(*place) for place in places(model)], Recorder()
    with capture(model, recorder) as taps:
        model(mx.array(IDS))
    unwatch(model)
    counts = np.zeros(IDS.shape, bool)
    for line, (start, stop) in zip(counts, counted, strict=True):
        line[start:stop] = True
    for number, z, i, _ in recorder.calls:
        spec, sums, k = made.specs[number], made.sums[number], i.shape[-1]
        g = np.array(taps.routing(number, z, i, mx.ones(IDS.shape, dtype=mx.bool_)).weights).reshape(-1, k)
        chosen, y = np.array(i).reshape(-1, k), np.array(watched[number].outputs(k), dtype=np.float64)
        own = spec.n_experts - row.zero_experts
        tokens, norm, weighted = np.zeros(spec.n_experts), np.zeros(spec.n_experts), np.zeros(spec.n_experts)
        cosines, pairs = 0.0, 0
        for t in np.flatnonzero(counts.ravel()):
            for slot in range(k):
                expert = chosen[t, slot]
                tokens[expert] += 1
                size = np.linalg.norm(y[t, slot]) if expert < own else 0.0
                norm[expert] += size
                weighted[expert] += size * (1 if row.scales_input else g[t, slot])
            there = [s for s in range(k) if chosen[t, s] < own]
            of_token = [
                y[t, a] @ y[t, b] / (np.linalg.norm(y[t, a]) * np.linalg.norm(y[t, b]))
                for a in there
                for b in there
                if a < b
            ]
            cosines, pairs = cosines + (np.mean(of_token) if of_token else 0.0), pairs + bool(of_token)
        np.testing.assert_array_equal(sums.total("tokens"), tokens)
        np.testing.assert_allclose(sums.frequency, tokens / counts.sum(), rtol=1e-5)
        np.testing.assert_allclose(sums.ean, norm, rtol=1e-5)
        used = tokens > 0
        np.testing.assert_allclose(sums.reap[used], weighted[used] / tokens[used], rtol=1e-5, atol=1e-7)
        assert sums.of_units("pairs").sum() == pairs
        np.testing.assert_allclose(sums.of_units("signed").sum(), cosines, rtol=1e-4, atol=1e-4)
        assert sums.of_units("tokens").tolist() == [10, 5, 1]


def test_what_is_kept_does_not_grow_with_the_tokens(nano: Checkpoint) -> None:
    sizes = []
    for length in (4, 40):
        ids = np.random.default_rng(1).integers(1, 300, (2, length)).astype(np.int32)
        made = contributed(nano, texts_of(ids, [[0, length]] * 2), 2)
        sizes.append([sum(a.nbytes for a in vars(one).values() if isinstance(a, np.ndarray)) for one in made.sums])
    assert sizes[0] == sizes[1]


def test_a_run_goes_on_where_it_was(nano: Checkpoint, folder: Path, tmp_path: Path) -> None:
    """To the very numbers of one that was never stopped."""
    out, questions = tmp_path / "e.json", Questions(folder, subjects=tuple(SIZES))
    settings: Any = {"questions": questions, "positions": "all", "plan": PLAN, "reading": Reading(batch_size=4)}
    expected = experts(nano, **settings, weights=False)
    stops = KeyboardInterrupt()

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("measuring") and done == 12:
            raise stops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_moebench.analysis.kept_sums.EVERY", 0.0)
        with pytest.raises(KeyboardInterrupt, match="what 3 batches gave"):
            experts(nano, **settings, weights=False, saving=Saving(out), step=stop)
    assert partial_path(out).exists()
    with pytest.raises(StatsError, match="another run"):
        experts(nano, **settings | {"positions": "last"}, weights=False, saving=Saving(out, True))
    seen: list[int] = []
    again = experts(
        nano,
        **settings,
        weights=False,
        saving=Saving(out, True),
        step=lambda what, done, total: seen.append(done) if what.startswith("measuring") else None,
    )
    assert seen[0] == 12
    assert again == expected
    assert json.loads(out.read_text())["routers"] == expected["routers"]
    assert not partial_path(out).exists()


def test_positions(nano: Checkpoint, folder: Path) -> None:
    mmlu = Questions(folder, subjects=tuple(SIZES), shots=1).read()
    config = {"max_position_embeddings": 1024, "vocab_size": 4096}
    made = {p: question_texts(nano, config, mmlu, p, 1) for p in ("last", "answer", "all")}
    assert made["last"].n_counted == made["answer"].n_counted == len(made["last"].sequences)
    for last, answer, whole, one in zip(*(made[p].sequences for p in made), made["last"].questions or (), strict=True):
        number = last.row
        context = one.requests[0].context
        assert last.ids.tolist() == whole.ids.tolist() == list(context)
        assert answer.ids.tolist() == [*context, *one.requests[one.question.answer].continuation]
        assert made["last"].counted[number].tolist() == [len(context) - 1, len(context)]
        assert made["answer"].counted[number].tolist() == [len(context), len(answer.ids)]
        assert made["all"].counted[number].tolist() == [0, len(context)]
    assert made["last"].facts["shots_used"] == 1.0


@pytest.mark.parametrize(
    "positions", ["last", pytest.param("answer", marks=pytest.mark.slow), pytest.param("all", marks=pytest.mark.slow)]
)
def test_the_report_on_questions(positions: Any, nano: Checkpoint, folder: Path) -> None:
    questions = Questions(folder, subjects=tuple(SIZES))
    report = experts(nano, questions=questions, positions=positions, plan=PLAN, reading=Reading(batch_size=4))
    asked = evaluate_mmlu(None, folder, subjects=tuple(SIZES), shots=0)
    assert report["answers"]["results"]["micro_accuracy"]["value"] == asked["results"]["micro_accuracy"]["value"]
    data, n = report["data"], len(asked["questions"])
    assert (data["n_sequences"], data["positions"]) == (n, positions)
    written = json.loads(json.dumps(report))
    checked("experts", written)
    jsonschema.validate(written, json.loads(schema_text("experts")))
    for router in report["routers"]:
        assert router["n_tokens"] == data["n_counted"]
        assert router["activated"] + router["never_activated"] == len(router["experts"]) == 16
        assert sum(e["tokens"] for e in router["experts"]) == 2 * data["n_counted"]
        assert sum(e["tokens"] == 0 for e in router["experts"]) == router["never_activated"]
        assert sum(router["sorted_weights"]) == pytest.approx(1)
        assert router["sorted_weights"][0] >= router["sorted_weights"][1]
        assert 0 < router["gate_entropy"]["value"] <= np.log(2)
        if positions != "all":
            assert sum(e["accuracy"]["n"] for e in router["experts"]) == 2 * n
    share = sum(router["never_activated"] for router in report["routers"]) / 96
    assert report["summary"]["never_activated_share"] == pytest.approx(share)
    assert (share > 0.3) == (positions != "all")


@pytest.mark.slow
def test_accuracy_of_an_expert_is_that_of_its_questions(nano: Checkpoint, folder: Path) -> None:
    mmlu = Questions(folder, subjects=tuple(SIZES)).read()
    texts = question_texts(nano, {"vocab_size": 4096}, mmlu, "last", 0)
    made = contributed(nano, texts, 4)
    report = experts(nano, questions=Questions(folder, subjects=tuple(SIZES)), plan=PLAN, weights=False)
    assert made.answers is not None
    recorder = Recorder()
    chose: dict[tuple[int, int], list[bool]] = {}
    with capture(nano.model, recorder):
        for sequence, answer in zip(texts.sequences, made.answers, strict=True):
            nano.model(mx.array(sequence.ids)[None])
            for number, _, indices, _ in recorder.take():
                for expert in np.array(indices).reshape(len(sequence.ids), -1)[-1]:
                    chose.setdefault((number, int(expert)), []).append(answer["correct"])
    for number, router in enumerate(report["routers"]):
        assert router["weight_similarity"] == {"value": None, "reason": "it was not asked for"}
        for one in router["experts"]:
            flags = chose.get((number, one["expert"]), [])
            assert one["accuracy"]["n"] == len(flags)
            assert one["accuracy"]["value"] == (pytest.approx(np.mean(flags)) if flags else None)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_the_results_are_such_reports(positions: str) -> None:
    path = Path(__file__).parents[1] / "results" / "experts" / f"mmlu_{positions}.json"
    checked("experts", json.loads(path.read_text(encoding="utf-8")))


def test_weights_are_compared_number_by_number(nano: Checkpoint) -> None:
    first = weight_similarity(nano.model)[0]
    assert not isinstance(first, str)
    experts = nano.model.layers[0].mlp.switch_mlp
    whole = np.concatenate(
        [np.array(p.weight).reshape(16, -1) for p in (experts.gate_proj, experts.up_proj, experts.down_proj)], axis=1
    ).astype(np.float64)
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(first, unit @ unit.T, atol=1e-6)
    quantised = weight_similarity(load_checkpoint(None, bits=8).model)[0]
    np.testing.assert_allclose(quantised, first, atol=2e-3)
    assert nearest_pairs(first, 2)[0] == tuple(
        sorted(np.unravel_index(np.argmax(np.where(np.eye(16), -1, first)), (16, 16)))
    )


def test_two_experts_as_one_and_back(nano: Checkpoint) -> None:
    ids, part = mx.array(IDS), nano.model.layers[1].mlp.switch_mlp.up_proj
    before, weight = nano.model(ids), np.array(part.weight)
    with merged(nano.model, 1, (2, 5), (3.0, 1.0)):
        now = np.array(part.weight)
        np.testing.assert_allclose(now[2], 0.75 * weight[2] + 0.25 * weight[5], rtol=1e-6)
        np.testing.assert_array_equal(now[2], now[5])
        np.testing.assert_array_equal(np.delete(now, (2, 5), 0), np.delete(weight, (2, 5), 0))
    assert mx.array_equal(nano.model(ids), before)
    with pytest.raises(MoebenchError, match="unpacked"), merged(load_checkpoint(None, bits=4).model, 0, (0, 1), (1, 1)):
        pass


def test_weights_that_are_not_finite_are_of_the_router_that_gave_them(nano: Checkpoint) -> None:
    for router in (0, 2):
        model = build_tiny()
        gate = model.layers[router].mlp.gate
        gate.weight = mx.where(mx.arange(8)[:, None] == 3, float("nan"), gate.weight)
        with pytest.raises(RoutingError, match=rf"layer.{router}.mlp: the router gave weights"):
            summed(model, nano.tokenizer, [[0, 10]] * 3, 2)


@pytest.mark.slow
def test_one_expert_a_token_has_no_pairs(nano: Checkpoint) -> None:
    model = LoadedModel(build_tiny(num_experts_per_tok=1, vocab_size=4096), nano.tokenizer)
    report = experts(model, "math", positions="all", plan=PLAN, reading=Reading(max_samples=10, max_length=6))
    alike = report["routers"][0]["output_similarity"]["signed"]
    assert (alike["value"], alike["reason"]) == (None, "no token chose two experts")
    assert report["routers"][0]["sorted_weights"] == [1.0]


def test_what_cannot_be_asked_is_a_sentence(nano: Checkpoint, folder: Path) -> None:
    with pytest.raises(DataError, match="have no answers"):
        experts(nano, "math", positions="answer")
    with pytest.raises(MoebenchError, match="Layers"):
        experts(nano, "math", plan=Plan(method="layer"))
    runner = CliRunner()
    for arguments, said in (
        (["--dataset", "math", "--mmlu", str(folder)], "takes the place"),
        (["--preset", "olmoe-mmlu", "--shots", "2"], "says what --shots is"),
        (["--dataset", "math", "prune"], "Give --dataset after prune"),
    ):
        result = runner.invoke(group, ["experts", *arguments])
        assert result.exit_code == 2
        assert said in result.output


@pytest.mark.slow
def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table, plot = tmp_path / "e.json", tmp_path / "e.csv", tmp_path / "e.svg"
    places = ["--output", str(out), "--csv", str(table), "--plot", str(plot)]
    main(["experts", "--mmlu", str(folder), "--subjects", ",".join(SIZES), "--quiet", "--resamples", "200", *places])
    text = " ".join(capsys.readouterr().out.split())
    assert "never chosen:" in text
    assert "Accuracy where an expert was chosen" in text
    report = json.loads(out.read_text())
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert len(rows) == 96
    assert sum(int(row["tokens"]) for row in rows) == 6 * 2 * report["data"]["n_counted"]
    assert all((row["reap"] == "") == (row["tokens"] == "0") for row in rows)
    assert b"<svg" in plot.read_bytes()
    main(["experts", "--dataset", "math", "--max-samples", "10", "--max-length", "12", "--json", "--quiet"])
    assert "answers" not in json.loads(capsys.readouterr().out)
