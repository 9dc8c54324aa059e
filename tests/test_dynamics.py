"""Routers over the checkpoints of a training: formulas by hand, a series of models, files and refusals."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import few_forms, save_checkpoint
from dynamics_files import PLAN, SPECS, chosen, plain, report, write
from family_rows import CONFIGS
from jsonschema import Draft202012Validator

from mlx_moebench.analysis.checkpoints import Stage, stages
from mlx_moebench.analysis.course import Course
from mlx_moebench.analysis.dynamics import directions
from mlx_moebench.errors import MoebenchError
from mlx_moebench.options import Plan
from mlx_moebench.pair.format import FOLDER, checked
from mlx_moebench.routing import RouterSpec
from mlx_moebench.routing.comparison.dynamics import (
    coactivation_stability,
    depth_slope,
    depth_trend,
    difference_of,
    expected_overlap,
    expert_change_rate,
    in_common,
    router_saturation,
    shares,
)
from mlx_moebench.show.figures import chance_of, course_chart, dynamics_series
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page import build_page

SCHEMA = json.loads((FOLDER / "dynamics.schema.json").read_text(encoding="utf-8"))
BEFORE = np.array([[0, 1, 2], [3, 4, 5], [0, 2, 4], [5, 1, 0]])
AFTER = np.array([[2, 0, 1], [3, 4, 0], [1, 3, 5], [5, 0, 1]])


# -- formulas, by hand ---------------------------------------------------------------------------------------------


def test_saturation_and_change_of_four_tokens() -> None:
    """The first keeps its set in another order, the second two of three, the third none, the fourth set and first."""
    np.testing.assert_allclose(router_saturation(BEFORE, AFTER), [1, 2 / 3, 0, 1])
    np.testing.assert_allclose(expert_change_rate(AFTER, BEFORE), [0, 1 / 3, 1, 0])
    sums = in_common(AFTER, BEFORE, np.array([0, 0, 1, 1]), 2)
    np.testing.assert_allclose(sums, [[5 / 3, 1, 1], [1, 1, 1]])  # of K, of sets, of first choices
    tokens, strata = np.array([2.0, 2.0]), ["x", "x"]
    top_k, sets, top_1 = shares(sums, tokens, strata, PLAN)
    assert (top_k.value, sets.value, top_1.value) == pytest.approx((2 / 3, 0.5, 0.5))
    assert top_k.interval.reason  # two sequences are too few
    assert [one.value for one in shares(sums, tokens, strata, PLAN, changed=True)] == pytest.approx([1 / 3, 0.5, 0.5])


def test_intervals_of_shares_are_those_of_a_bootstrap_over_sequences() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 40, size=40).astype(float)
    kept = tokens[:, None] * rng.uniform(0.4, 0.8, size=(40, 3))
    found = shares(kept, tokens, ["x"] * 40, Plan())
    drawn = rng.integers(40, size=(4000, 40))
    for column, one in enumerate(found):
        low, high = np.quantile(kept[drawn, column].sum(axis=1) / tokens[drawn].sum(axis=1), [0.025, 0.975])
        assert (one.interval.low, one.interval.high) == pytest.approx((low, high), abs=0.3 * (high - low))
    change = difference_of(kept[:, 0] + 0.1 * tokens, kept[:, 0], tokens, ["x"] * 40, PLAN)
    assert change.value == pytest.approx(0.1)
    assert change.interval.low == pytest.approx(0.1)  # paired: the same in every sequence


def test_the_overlap_of_loads_alone() -> None:
    assert expected_overlap([0.25] * 4, [0.7, 0.1, 0.1, 0.1], 2) == pytest.approx(2 / 4)  # K/E where one is even
    f, g = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.2, 0.3, 0.4])
    assert expected_overlap(f, g, 2) == pytest.approx(2 * (0.05 + 0.06 + 0.06))
    rng = np.random.default_rng(1)
    a, b = (
        np.argsort(rng.random((20000, 4)) ** (1 / np.array(weights)), axis=1)[:, 2:]
        for weights in ([8, 4, 2, 1], [1, 1, 2, 6])
    )
    loads = [np.bincount(side.ravel(), minlength=4) / side.size for side in (a, b)]
    assert router_saturation(a, b).mean() == pytest.approx(expected_overlap(*loads, 2), abs=0.01)


def test_stability_of_coactivation() -> None:
    """Lifts of three pairs, 1.2, 0.6, 0.9 against 0.6, 1.2, 0.9: r = -1."""
    n = np.array([[10, 6, 3], [6, 10, 4.5], [3, 4.5, 10]])
    other = np.array([[10, 3, 6], [3, 10, 4.5], [6, 4.5, 10]])
    assert coactivation_stability(n, n, 20) == pytest.approx(1)
    assert coactivation_stability(n, other, 20) == pytest.approx(-1)
    assert coactivation_stability(n, 3 * n, 60) == pytest.approx(1)  # more tokens, the same lifts
    assert math.isnan(coactivation_stability(np.diag([3, 2, 1]), np.diag([3, 2, 1]), 6))  # K = 1: no pair
    unused = n.copy()
    unused[2], unused[:, 2] = 0, 0
    assert math.isnan(coactivation_stability(n, unused, 20))  # one pair is left
    rng = np.random.default_rng(2)
    by_chance = []
    for _ in range(200):
        sides = [np.argsort(rng.random((400, 8)), axis=1)[:, :3] for _ in range(2)]
        pairs = [sum(np.outer(row, row) for row in np.eye(8)[side].sum(axis=1)) for side in sides]
        by_chance.append(coactivation_stability(*pairs, 400))
    assert abs(np.mean(by_chance)) < 4 * np.std(by_chance) / math.sqrt(200) + 0.02


def test_trend_with_depth() -> None:
    """Margins 0.1, 0.2, 0.4, 0.7 in layers 0, 1, 3, 4: slope (2 x 0.6 + 0.2) / 10, tau 1, p 2 / 4!."""
    means, depths = np.array([0.1, 0.2, 0.4, 0.7]), [0, 1, 3, 4]
    tokens = np.arange(10, 22).astype(float)
    slope = depth_slope(means[:, None] * tokens, tokens, depths, ["x"] * 12, PLAN)
    assert slope.value == pytest.approx((-2 * 0.1 - 0.2 + 0.4 + 2 * 0.7) / 10)
    assert depth_trend(means, depths) == pytest.approx((1.0, 2 / 24))
    assert depth_trend(-means, depths) == pytest.approx((-1.0, 2 / 24))
    assert depth_trend(np.array([0.1, 0.3, 0.2]), [0, 1, 2]) == pytest.approx((1 / 3, 1.0))
    assert all(math.isnan(x) for x in depth_trend(means[:2], depths[:2]))
    nothing = depth_slope(means[:1, None] * tokens, tokens, [0], ["x"] * 12, PLAN)
    assert nothing.interval.reason == "one depth has no trend"
    null = depth_slope(np.full((4, 12), np.nan), tokens, depths, ["x"] * 12, PLAN)
    assert null.interval.reason == "the margin is not defined here"


def test_trend_tests_reject_as_often_as_permutations_say() -> None:
    """Of 6 layers without a trend 12 of 720 orders have at most one pair against it or for it: p = 0.0167."""
    rng = np.random.default_rng(3)
    p = np.array([depth_trend(rng.random(6), range(6))[1] for _ in range(600)])
    assert abs((p < 0.05).mean() - 12 / 720) < 4 * math.sqrt(12 / 720 / 600)


# -- the report ----------------------------------------------------------------------------------------------------


def test_the_report_is_what_the_choices_say() -> None:
    parts = (0, 0.4, 0.8, 1)
    made, every = plain(report(parts)), [chosen(part) for part in parts]
    Draft202012Validator(SCHEMA).validate(made)
    checked("dynamics", made)
    for router in range(3):
        course = made["routers"][router]["checkpoints"]
        sets = [[set(row) for row in one.experts[router].tolist()] for one in every]
        for number, at in enumerate(course):
            with_last = np.mean([len(a & b) / 2 for a, b in zip(sets[number], sets[-1], strict=True)])
            assert at["saturation"]["value"] == pytest.approx(with_last)
            first = every[number].experts[router][:, 0] == every[-1].experts[router][:, 0]
            assert at["saturation_top1"]["value"] == pytest.approx(first.mean())
            counts = np.bincount(every[number].experts[router].ravel(), minlength=8)
            assert at["selection_counts"] == counts.tolist()
            if number:
                pairs = list(zip(sets[number], sets[number - 1], strict=True))
                assert at["change_rate"]["value"] == pytest.approx(1 - np.mean([len(a & b) / 2 for a, b in pairs]))
                assert at["sets_changed"]["value"] == pytest.approx(np.mean([a != b for a, b in pairs]))
                load = np.bincount(every[number - 1].experts[router].ravel(), minlength=8) / counts.sum()
                assert at["expected_kept"] == pytest.approx(2 * (counts / counts.sum() * load).sum())
            else:
                assert (at["change_rate"]["value"], at["expected_kept"]) == (None, None)
        assert made["routers"][router]["chance"] == {"top_k": 0.25, "top_1": 0.125}
        assert course[-1]["saturation"]["value"] == course[-1]["coactivation_saturation"]["value"] == 1
        assert course[1]["output_weight_similarity"]["value"] == pytest.approx(0.4 * router / 2)
    overall = made["overall"]["mlp"]
    for name in ("saturation", "change_rate"):
        each = [router["checkpoints"][2][name]["value"] for router in made["routers"]]
        assert overall[2][name]["value"] == pytest.approx(np.mean(each))
    trend = made["trends"]["mlp"]["saturation"]
    assert (trend["first"], trend["last"]) == (0, 2)
    assert trend["value"] == pytest.approx(overall[2]["saturation"]["value"] - overall[0]["saturation"]["value"])
    change = made["trends"]["mlp"]["change_rate"]
    assert change["value"] == pytest.approx(overall[3]["change_rate"]["value"] - overall[1]["change_rate"]["value"])
    assert ("mlp", "saturation", "rose") in list(directions(made))


def test_two_checkpoints_have_no_trend_of_saturation() -> None:
    made = report((0, 1))
    assert "saturation" not in made["trends"]["mlp"]
    assert "change_rate" not in made["trends"]["mlp"]
    assert "eae" in made["trends"]["mlp"]


def test_kinds_of_routers_are_apart() -> None:
    specs = tuple(
        RouterSpec(layer, layer, kind, 8, k) for layer in range(3) for kind, k in (("attention", 1), ("mlp", 2))
    )
    made = plain(report((0, 0.6, 1), specs))
    checked("dynamics", made)
    assert set(made["overall"]) == set(made["depth"]) == {"attention", "mlp"}
    assert made["depth"]["attention"][0]["margin_weight"]["slope"]["value"] is None  # K = 1
    series = dynamics_series(made)
    assert chance_of("change_rate", series.routers[0]) == 1 - 1 / 8
    (top_k, top_1) = course_chart(series, ("saturation", "saturation_top1"), "mlp").references
    assert (top_k.y[0], top_1.y[0]) == (0.25, 0.125)


def test_other_routers_and_other_tokens_are_refused() -> None:
    series = [Stage("a", "a", None), Stage("b", "b", None)]
    course = Course(series, chosen(1), PLAN)
    with pytest.raises(MoebenchError, match="a and b have different routers"):
        course.add(0, chosen(0, SPECS[:2]), None)
    with pytest.raises(MoebenchError, match="a and b have different tokenizers"):
        course.add(0, chosen(0, length=8), None)
    other = chosen(0)
    other.stats.texts["a" * 64, 3] = 99
    with pytest.raises(MoebenchError, match="different tokenizers"):
        course.add(0, other, None)


# -- what is drawn and written -------------------------------------------------------------------------------------


def test_a_page_a_picture_and_a_table_have_it(tmp_path: Path) -> None:
    from mlx_moebench.show.export import to_csv, to_markdown
    from mlx_moebench.show.plots.dynamics import plot_dynamics
    from mlx_moebench.show.tables.dynamics import render

    inputs = read_inputs([write(tmp_path / "course.json")])
    (made,) = inputs.dynamics
    page = build_page(inputs)
    assert '"id":"dynamics"' in page.replace(" ", "")
    assert "4 checkpoints" in to_markdown(inputs)
    (tmp_path / "t.csv").write_text(to_csv(inputs))
    table = pd.read_csv(tmp_path / "t.csv")
    value = made["overall"]["mlp"][1]["change_rate"]["value"]
    (row,) = table[table["layer"].isna() & (table["metric"] == "dynamics.change_rate@step-100")].to_dict("records")
    assert row["value"] == pytest.approx(value)
    assert {f"trend.{name}" for name in made["trends"]["mlp"]} <= set(table["metric"])
    plot_dynamics(made, tmp_path / "course.png")
    assert render(made).renderables


# -- which checkpoints ---------------------------------------------------------------------------------------------


def place(folder: Path, name: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "config.json").write_text("{}")
    return folder / name


def test_a_training_stands_for_its_copies(tmp_path: Path) -> None:
    for step in (100, 0, 50):
        place(tmp_path, f"run/steps/step-{step:07d}")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert [stage.step for stage in stages([tmp_path / "run"])] == [0, 50, 100]
    (tmp_path / "run" / "lab_report.json").write_text(json.dumps({"settings": {"steps": 120}}))
    found = stages([tmp_path / "run"])
    assert [(stage.name, stage.step) for stage in found][-1] == ("step-0000120", 120)
    assert found[-1].place == str(tmp_path / "run")
    for other in (3, [], {"settings": 3}, {"settings": {"steps": "many"}}):  # of another version, or another program
        (tmp_path / "run" / "lab_report.json").write_text(json.dumps(other))
        assert [stage.step for stage in stages([tmp_path / "run"])] == [0, 50, 100]
    for step in (1000, 500):
        place(tmp_path, f"trainer/checkpoint-{step}")
    assert [stage.step for stage in stages([tmp_path / "trainer"])] == [500, 1000]


def test_steps_are_read_off_names(tmp_path: Path) -> None:
    def steps(*names: str) -> list[int | None]:
        return [stage.step for stage in stages(names)]

    assert steps("a/b@step5000-tokens20B", "a/b@step10000-tokens41B") == [5000, 10000]
    assert steps("a/b@step10000", "a/b@step5000") == [None, None]  # they fall
    assert steps("before=x/base", "after=x/tuned") == [None, None]
    with pytest.raises(MoebenchError, match="two or more checkpoints"):
        stages(["a/b"])
    with pytest.raises(MoebenchError, match="named twice"):
        stages(["x=a/b", "y=a/b"])
    with pytest.raises(MoebenchError, match="Two checkpoints are called x"):
        stages(["x=a/b", "x=a/c"])


# -- models --------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Three states of a tiny model, on the way from random weights to others."""
    pytest.importorskip("mlx.core", reason="needs MLX")
    from conftest import TINY_CONFIG, build_tiny, save_checkpoint
    from mlx.utils import tree_flatten

    from mlx_moebench.models import select_device

    select_device("cpu")
    first, last = (dict(tree_flatten(build_tiny(seed).parameters())) for seed in (0, 1))
    for number, part in enumerate((0.0, 0.7, 1.0)):
        model = build_tiny()
        model.load_weights([(name, (1 - part) * array + part * last[name]) for name, array in first.items()])
        save_checkpoint(tmp_path / "steps" / f"step-{number}", model, TINY_CONFIG)
    return tmp_path


def test_models_are_followed_as_plain_forwards_say(models: Path) -> None:
    import mlx.core as mx

    from mlx_moebench.analysis.dynamics import dynamics
    from mlx_moebench.data import encode, read_corpus
    from mlx_moebench.instrument.capture import capture
    from mlx_moebench.models import load_checkpoint

    made = dynamics([models], "math", max_samples=10, max_length=16, plan=PLAN, output_dir=models / "kept")
    checked("dynamics", plain(made))
    heard: list[list[np.ndarray[Any, Any]]] = []
    weights = []
    for number in range(3):
        checkpoint = load_checkpoint(models / "steps" / f"step-{number}")
        weights.append(np.array(checkpoint.model.layers[1].mlp.switch_mlp.down_proj.weight, dtype=np.float64))
        mine: list[np.ndarray[Any, Any]] = []

        def sink(router: int, logits: Any, indices: Any, shape: Any, mine: Any = mine) -> None:
            if router == 1:
                mine.append(np.array(indices).reshape(-1, 2))

        for sequence in encode(read_corpus("math", max_samples=10), checkpoint.tokenizer, 16):
            with capture(checkpoint.model, sink):
                mx.eval(checkpoint.model(mx.array(sequence.ids[None])))
        heard.append(mine)
    sets = [[set(row) for part in mine for row in part.tolist()] for mine in heard]
    course = made["routers"][1]["checkpoints"]
    expected = np.mean([len(a & b) / 2 for a, b in zip(sets[0], sets[2], strict=True)])
    assert course[0]["saturation"]["value"] == pytest.approx(expected)
    changed = 1 - np.mean([len(a & b) / 2 for a, b in zip(sets[1], sets[2], strict=True)])
    assert course[2]["change_rate"]["value"] == pytest.approx(changed)
    unit = weights[2].reshape(len(weights[2]), -1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    assert course[2]["output_weight_similarity"]["value"] == pytest.approx(cosines.mean(), abs=1e-6)


def test_what_is_kept_is_not_measured_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_moebench.analysis import dynamics as module

    options: dict[str, Any] = {"max_samples": 10, "max_length": 16, "plan": PLAN, "output_dir": models / "kept"}
    whole = module.dynamics([models], "math", **options)
    (models / "kept" / "step-1.choices.safetensors").unlink()
    measured: list[Any] = []
    real = module.measure

    def counting(checkpoint: Any, *rest: Any, **more: Any) -> Any:
        measured.append(checkpoint.name)
        return real(checkpoint, *rest, **more)

    monkeypatch.setattr(module, "measure", counting)
    again = module.dynamics([models], "math", **options)
    assert measured == ["step-1"]
    assert again["routers"] == whole["routers"]
    assert again["trends"] == whole["trends"]
    with pytest.raises(MoebenchError, match="is of another run"):
        module.dynamics([models], "code", **options)


def test_the_command(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlx_moebench.cli import main

    output = models / "course.json"
    few = ["--max-samples", "10", "--max-length", "16", "--resamples", "100", "--quiet"]
    main(["dynamics", str(models), *few, "-o", str(output), "--csv", str(models / "course.csv")])
    shown = capsys.readouterr().out
    assert "Saturation, change rate by layer" in shown
    made = json.loads(output.read_text())
    checked("dynamics", made)
    assert [one["step"] for one in made["checkpoints"]] == [0, 1, 2]
    assert len(pd.read_csv(models / "course.csv")) > 100
    with pytest.raises(SystemExit):
        main(["dynamics", str(models / "steps" / "step-0"), "moebench-nano", *few])
    assert "different routers" in capsys.readouterr().err


@few_forms
def test_every_form_of_routing_is_followed(make_form: Any, tmp_path: Path) -> None:
    """Two random models of a form agree by chance, and each with itself in all."""
    pytest.importorskip("mlx.core", reason="needs MLX")
    from mlx_moebench.analysis.checkpoints import Stage
    from mlx_moebench.analysis.dynamics import dynamics_report
    from mlx_moebench.instrument import config_of
    from mlx_moebench.options import Options, Reading

    names = [
        str(save_checkpoint(tmp_path / f"m{n}", make_form(n), CONFIGS[config_of(make_form(n))["model_type"]]))
        for n in (0, 1)
    ]
    series = [Stage(Path(name).name, name, None) for name in names]
    made = dynamics_report(series, "math", Options(reading=Reading(max_samples=6, max_length=12), plan=PLAN))
    checked("dynamics", plain(made))
    for router in made["routers"]:
        first, last = router["checkpoints"]
        assert last["saturation"]["value"] == 1
        assert abs(first["saturation"]["value"] - first["expected_saturation"]) < 0.4
        assert first["saturation"]["value"] == pytest.approx(1 - last["change_rate"]["value"])


@pytest.mark.slow
@pytest.mark.nightly
def test_every_router_of_the_lab_is_followed(tmp_path: Path) -> None:
    """Columns that are no experts, carried logits and biases change nothing in what is counted."""
    pytest.importorskip("mlx.core", reason="needs MLX")
    from mlx_moebench.analysis.dynamics import dynamics
    from mlx_moebench.lab.pretrain import pretrain
    from mlx_moebench.lab.routers import router_names
    from mlx_moebench.lab.settings import Pretraining

    for name in router_names():
        sizes: dict[str, Any] = {
            "steps": 2,
            "batch_size": 2,
            "micro_batch_size": 2,
            "seq_length": 32,
            "vocab_size": 300,
        }
        pretrain(Pretraining(router=name, snapshot_every=1, eval_every=0, **sizes), tmp_path / name, device="cpu")
        made = dynamics([tmp_path / name], "general", max_length=32, max_samples=12, plan=PLAN)
        checked("dynamics", plain(made))
        spec = made["routers"][0]
        assert len(spec["checkpoints"][0]["selection_counts"]) == spec["n_experts"]
        similar = [at["output_weight_similarity"]["value"] for at in spec["checkpoints"]]
        assert all(-0.2 < value < 0.9 for value in similar), name


@pytest.mark.slow
def test_torch_follows_the_same_choices(tmp_path: Path) -> None:
    """The embedded model, and the same with other routers."""
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    mx = pytest.importorskip("mlx.core", reason="needs MLX")

    from mlx_moebench.analysis.dynamics import dynamics
    from mlx_moebench.checkpoints import NANO

    for number in range(2):
        folder = shutil.copytree(NANO, tmp_path / f"step-{number}")
        path = folder / "model.safetensors"
        arrays: Any = dict(mx.load(str(path)))
        mx.random.seed(0)
        for name in [name for name in arrays if number and "gate.weight" in name]:
            noise = mx.random.normal(arrays[name].shape) * mx.std(arrays[name].astype(mx.float32))
            arrays[name] = (arrays[name] + noise).astype(arrays[name].dtype)
        mx.eval(arrays)
        mx.save_safetensors(str(path), arrays, {"format": "pt"})
    options: dict[str, Any] = {"max_samples": 10, "max_length": 16, "plan": PLAN}
    places = [tmp_path / f"step-{number}" for number in range(2)]
    ours, theirs = (plain(dynamics(places, "math", backend=name, **options)) for name in ("mlx", "torch"))
    for mine, other in zip(ours["routers"], theirs["routers"], strict=True):
        assert 0.2 < mine["checkpoints"][0]["saturation"]["value"] < 0.9
        for a, b in zip(mine["checkpoints"], other["checkpoints"], strict=True):
            assert a["saturation"]["value"] == pytest.approx(b["saturation"]["value"], abs=0.01)
            assert b["output_weight_similarity"]["value"] is None


@pytest.mark.slow
@pytest.mark.nightly
def test_a_training_settles(tmp_path: Path) -> None:
    """Over 150 updates of `tiny` the change rate falls and saturation rises, intervals and all."""
    pytest.importorskip("mlx.core", reason="needs MLX")
    from mlx_moebench.analysis.dynamics import dynamics
    from mlx_moebench.lab.pretrain import pretrain
    from mlx_moebench.lab.settings import Pretraining

    settings = Pretraining(snapshot_every=50, vocab_size=512, eval_every=0, batch_size=8)
    pretrain(settings, tmp_path / "run", device="cpu")
    made = dynamics([tmp_path / "run"], "general", max_length=64)
    words = {name: word for _, name, word in directions(made)}
    assert (words["saturation"], words["saturation_top1"]) == ("rose", "rose")
    assert (words["change_rate"], words["change_rate_top1"]) == ("fell", "fell")
