"""Quantised arms beside the model as stored: known answers, two models in step, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

pytest.importorskip("mlx.core", reason="needs MLX")

from conftest import FEW_FORMS, build_tiny, save_checkpoint
from family_rows import CONFIGS
from test_precision import write_adapter

from mlx_moebench.analysis import quant as quant_module
from mlx_moebench.analysis.arms import Arm, arms_named
from mlx_moebench.analysis.quant import Against, quant_drift, report_of, side_by_side
from mlx_moebench.cli import main
from mlx_moebench.errors import ModelLoadError, MoebenchError, RoutingError
from mlx_moebench.instrument import capture, routers_of
from mlx_moebench.instrument.tap import tap_of
from mlx_moebench.measure.backends import backend_named
from mlx_moebench.models import load_checkpoint
from mlx_moebench.options import Options, Reading
from mlx_moebench.pair.format import FOLDER, checked
from mlx_moebench.routing import Plan
from mlx_moebench.routing.comparison.choices import (
    MEASURES,
    exact_set,
    kept_by_margin,
    kl_divergence,
    measured,
    routing_overlap,
    share_of_loss,
    top1_flip,
)

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip

pytestmark = pytest.mark.usefixtures("cpu")

SCHEMA = json.loads((FOLDER / "quant_drift.schema.json").read_text(encoding="utf-8"))
PLAN = Plan(resamples=200)
TEXTS = [f"a router sends {'every token ' * (1 + n % 3)}to expert {n} {'and others stay idle ' * 4}" for n in range(14)]


# -- definitions -----------------------------------------------------------------------------------------------------


def test_choices_of_known_tokens() -> None:
    a = np.array([[3, 1], [0, 2], [5, 4], [1, 0]])  # the first is the top-1
    b = np.array([[1, 3], [0, 1], [2, 3], [1, 0]])
    np.testing.assert_array_equal(routing_overlap(a, b), [1, 0.5, 0, 1])
    np.testing.assert_array_equal(exact_set(a, b), [1, 0, 0, 1])
    np.testing.assert_array_equal(top1_flip(a, b), [1, 0, 1, 0])


def test_kl_is_that_of_p_from_q() -> None:
    p, q = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]), np.array([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0]])
    with np.errstate(divide="ignore"):
        kl = kl_divergence(np.log(p), np.log(q))
    np.testing.assert_allclose(kl, [0.5 * math.log(2) - 0.25 * math.log(2), math.log(2)])
    assert (kl_divergence(np.log(p[:1]), np.log(p[:1])) == 0).all()


def test_sums_become_shares_with_paired_intervals() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 80, size=30).astype(np.float64)
    kept = np.round(tokens * rng.uniform(0.7, 0.9, size=30))
    sums = np.stack([(kept + tokens) / 2, kept, tokens - kept, 0.01 * tokens], axis=1)
    found = measured(sums, tokens, ["x"] * 30, PLAN)
    assert list(found) == list(MEASURES)
    assert found["exact_set_rate"].value == pytest.approx(kept.sum() / tokens.sum())
    drawn = rng.integers(30, size=(4000, 30))
    low, high = np.quantile(kept[drawn].sum(axis=1) / tokens[drawn].sum(axis=1), [0.025, 0.975])
    interval = found["exact_set_rate"].interval
    assert interval.low is not None
    assert interval.high is not None
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.35 * (high - low))


def test_nothing_changed_has_no_interval_and_says_so() -> None:
    tokens = np.full(12, 20.0)
    found = measured(np.stack([tokens, tokens, 0 * tokens, 0 * tokens], axis=1), tokens, ["x"] * 12, PLAN)
    assert [found[name].value for name in MEASURES] == [1, 1, 0, 0]
    for name, end in zip(MEASURES, (1, 1, 0, 0), strict=True):
        assert found[name].interval.reason == f"it is {end} in all 12 sequences, and resampling them cannot leave {end}"


def test_sets_kept_by_margin_are_those_of_the_tenths() -> None:
    rng = np.random.default_rng(1)
    margin = rng.permutation(np.arange(2000) / 2000)
    exact = (rng.uniform(size=2000) < margin).astype(np.float64)  # near-ties flip
    cluster = np.repeat(np.arange(40), 50)
    tenths = kept_by_margin(margin, exact, cluster, ["x"] * 40, PLAN)
    assert [t.n_tokens for t in tenths] == [200] * 10
    for number, tenth in enumerate(tenths):
        inside = (margin >= number / 10) & (margin < (number + 1) / 10)
        assert tenth.low == margin[inside].min()
        assert tenth.high == margin[inside].max()
        assert tenth.kept.value == pytest.approx(exact[inside].mean())
        interval = tenth.kept.interval
        assert interval.low is not None
        assert interval.high is not None
        assert 0 <= interval.low <= tenth.kept.value <= interval.high <= 1
    assert kept_by_margin(np.full(2000, np.nan), exact, cluster, ["x"] * 40, PLAN) == []
    sure = kept_by_margin(margin, np.where(margin < 0.5, exact, 1.0), cluster, ["x"] * 40, PLAN)[-1]
    assert sure.kept.value == 1
    assert sure.kept.interval.reason == "it is 1 in all 40 sequences, and resampling them cannot leave 1"


def test_share_of_the_loss() -> None:
    tokens, lost = np.full(20, 100.0), np.arange(20) + 10.0
    half = share_of_loss(lost, lost / 2, tokens, ["x"] * 20, PLAN)
    assert half.value == pytest.approx(0.5)  # in every sequence, so that drawing them moves nothing
    assert (half.interval.low, half.interval.high) == pytest.approx((0.5, 0.5))
    assert share_of_loss(lost, lost + 5, tokens, ["x"] * 20, PLAN).value < 0
    nothing = share_of_loss(0 * lost, lost, tokens, ["x"] * 20, PLAN)
    assert math.isnan(nothing.value)
    assert nothing.interval.reason == "no set is lost"


def texts(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(margin [T], whether a token keeps its set [T], its sequence [T]): near-ties flip, in some texts more often."""
    cluster = np.repeat(np.arange(n), rng.integers(60, 180, size=n))
    worse, wider = rng.normal(0, 0.5, size=n)[cluster], rng.normal(0, 0.3, size=n)[cluster]
    margin = rng.exponential(0.04, size=len(cluster)) * np.exp(wider)
    kept = rng.uniform(size=len(cluster)) < 1 - 0.5 * np.exp(-margin / 0.02 * np.exp(worse))
    return margin, kept.astype(np.float64), cluster


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("sequences", [20, 104])
def test_intervals_by_margin_cover(sequences: int) -> None:
    """Simulated, 300 samples: 93 to 98% in every tenth, where 95% are asked for."""
    rng = np.random.default_rng(0)
    margin, kept, _ = texts(rng, 40_000)
    tenth = np.searchsorted(np.quantile(margin, np.arange(1, 10) / 10), margin)
    truth = [kept[tenth == number].mean() for number in range(10)]
    inside: list[list[bool]] = [[] for _ in truth]
    for seed in range(300):
        margin, kept, cluster = texts(rng, sequences)
        found = kept_by_margin(margin, kept, cluster, ["x"] * sequences, Plan(resamples=400, seed=seed))
        for covered, true, one in zip(inside, truth, found, strict=True):
            if one.kept.interval.low is not None and one.kept.interval.high is not None:
                covered.append(bool(one.kept.interval.low <= true <= one.kept.interval.high))
    assert min(map(len, inside)) > 150  # the last tenth may keep everything
    assert min(map(np.mean, inside)) > 0.91


# -- arms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arm", "name"),
    [
        ("4", Arm(4, 8), "4/8"),
        ("8", Arm(8, 8), "8/8"),
        ("4/4", Arm(4, 4), "4/4"),
        (" 4/Stored ", Arm(4, None), "4/stored"),
        ("4/16", Arm(4, None), "4/stored"),
        ("stored/8", Arm(None, 8), "stored/8"),
        ("16/4", Arm(None, 4), "stored/4"),
    ],
)
def test_arms_have_names(text: str, arm: Arm, name: str) -> None:
    assert Arm.named(text) == arm
    assert arm.name == name
    assert Arm.named(arm.name) == arm


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stored", "is the reference itself"),
        ("16/16", "is the reference itself"),
        ("-/8", "Did you mean 'stored/8'"),
        ("4-8", "Did you mean '4/8'"),
        ("strd/4", "Did you mean 'stored/4'"),
        ("3", "Known: 4, 4/4, 4/8"),
        ("", "write WEIGHTS/ROUTERS"),
        ("4/8/8", "write WEIGHTS/ROUTERS"),
        ("4/", "write WEIGHTS/ROUTERS"),
    ],
)
def test_nonsense_is_no_arm(text: str, said: str) -> None:
    with pytest.raises(MoebenchError, match=said):
        Arm.named(text)


def test_an_arm_named_twice_is_one() -> None:
    assert arms_named(["4", "4/8", "stored/4"]) == [Arm(4, 8), Arm(None, 4)]


# -- two models in step ------------------------------------------------------------------------------------------------


# Packs that are quantised already are no reference.
UNQUANTISED = [one for one in FEW_FORMS if "quantization" not in CONFIGS[str(one.values[0])]]


@pytest.fixture(params=UNQUANTISED)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny checkpoint of every family."""
    return save_checkpoint(tmp_path / "model", build_tiny(model_type=request.param), CONFIGS[request.param])


def ran(reference: Any, other: Any, arm: Arm = Arm(4, 8)) -> tuple[Against, dict[str, Any]]:  # noqa: B008
    options = Options(reading=Reading(max_length=24, batch_size=5), plan=PLAN)
    against = side_by_side(arm, reference, other, TEXTS, options)
    report = report_of([against], options)
    checked("quant_drift", report)
    Draft202012Validator(SCHEMA).validate(report)
    return against, report


def test_the_same_model_keeps_everything(folder: Path) -> None:
    reference, other = load_checkpoint(folder), load_checkpoint(folder)
    classes = [[type(m) for m in c.model.modules()] for c in (reference, other)]
    _, report = ran(reference, other)
    assert classes == [[type(m) for m in c.model.modules()] for c in (reference, other)]
    assert not any(tap_of(m) for c in (reference, other) for m in c.model.modules())
    (arm,) = report["arms"]
    assert report["separations"] == []
    for router in arm["routers"]:
        for where in ("own", "same_input"):
            values = {name: router[where][name]["value"] for name in MEASURES}
            assert values == {"routing_overlap": 1, "exact_set_rate": 1, "top1_flip": 0, "kl": 0}
            for entry in router[where].values():
                assert entry["low"] is None
                assert "in all 14 sequences, and resampling them cannot leave" in entry["reason"]
        assert all(t["exact_set_rate"]["value"] == 1 for t in router["by_margin"])
        assert all(e["effect"] in (0, None) for e in router["effects"].values())
        assert all(e["p"] in (1, None) for e in router["effects"].values())


def said_by(checkpoint: Any, ids: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits [S, R] and indices [S, K] of every router on one sequence, by a tap of ours."""
    heard: list[tuple[np.ndarray, np.ndarray]] = []

    def sink(number: int, logits: mx.array, indices: mx.array, shape: tuple[int, ...]) -> None:
        s = shape[1]
        heard.append((np.array(logits.astype(mx.float32)).reshape(s, -1), np.array(indices).reshape(s, -1)))

    with capture(checkpoint.model, sink):
        mx.eval(checkpoint.model(mx.array([ids])))
    return heard


def by_hand(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> list[list[float]]:
    """[tokens][overlap, same set, flip, KL], with Python's own sets and sums; softmax routers."""
    rows = []
    for za, ia, zb, ib in zip(*a, *b, strict=True):
        p, q = (np.exp(z - z.max(), dtype=np.float64) / np.exp(z - z.max(), dtype=np.float64).sum() for z in (za, zb))
        first = [max(sorted(chosen.tolist()), key=lambda e, p=p_: p[e]) for chosen, p_ in ((ia, p), (ib, q))]
        sets = set(ia.tolist()), set(ib.tolist())
        kl = sum(float(x * (math.log(x) - math.log(y))) for x, y in zip(p, q, strict=True))
        rows.append([len(sets[0] & sets[1]) / len(ia), sets[0] == sets[1], first[0] != first[1], kl])
    return rows


def test_a_gate_changed_by_hand(tiny_checkpoint: Path) -> None:
    """Layer 1 alone routes otherwise: what follows inherits it, and on the same hidden states does not."""
    reference, other = load_checkpoint(tiny_checkpoint), load_checkpoint(tiny_checkpoint)
    gate = other.model.layers[1].mlp.gate
    gate.weight = gate.weight + 0.3 * mx.random.normal(gate.weight.shape, key=mx.random.key(3))
    against, report = ran(reference, other)
    (arm,) = report["arms"]
    every: list[list[list[float]]] = [[], [], []]
    tokens = []
    for text in TEXTS:
        ids = reference.tokenizer.encode(text)[:24]
        tokens.append(len(ids))
        for number, (a, b) in enumerate(zip(said_by(reference, ids), said_by(other, ids), strict=True)):
            every[number] += by_hand(a, b)
    assert against.drift.lengths.sum() == sum(tokens) == arm["routers"][0]["n_tokens"]
    for number, router in enumerate(arm["routers"]):
        for name, value in zip(MEASURES, np.mean(every[number], axis=0), strict=True):
            assert router["own"][name]["value"] == pytest.approx(value, abs=1e-6), (number, name)
    kept = [router["own"]["exact_set_rate"]["value"] for router in arm["routers"]]
    same = [router["same_input"]["exact_set_rate"]["value"] for router in arm["routers"]]
    assert kept[0] == same[0] == same[2] == 1
    assert kept[1] == same[1] < 1
    assert kept[2] < 1
    over = arm["overall"]["mlp"]["own"]["exact_set_rate"]["value"]
    assert over == pytest.approx(np.mean(kept))
    # Selections are tokens x K, of both, and every tenth is counted once.
    for stats in (against.reference, against.stats):
        for number, spec in enumerate(stats.specs):
            assert stats.totals(number).counts.sum() == sum(tokens) * spec.top_k
    assert sum(t["n_tokens"] for t in arm["overall"]["mlp"]["by_margin"]) == 3 * sum(tokens)


def test_choices_that_were_not_counted_are_refused(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = quant_module.Pairing.count

    def twice(self: Any, *arguments: Any) -> None:
        count(self, *arguments)
        count(self, *arguments)

    monkeypatch.setattr(quant_module.Pairing, "count", twice)
    with pytest.raises(RoutingError, match="not those that the reference counted"):
        ran(load_checkpoint(tiny_checkpoint), load_checkpoint(tiny_checkpoint))


def test_repeated_texts_are_one(tiny_checkpoint: Path) -> None:
    reference, other = load_checkpoint(tiny_checkpoint), load_checkpoint(tiny_checkpoint, router_bits=4)
    options = Options(reading=Reading(max_length=24), plan=PLAN)
    few = side_by_side(Arm(None, 4), reference, other, TEXTS[:4] * 4, options)
    entry = report_of([few], options)["arms"][0]["routers"][1]["own"]["exact_set_rate"]
    assert entry["low"] is None
    assert "4 sequences are too few" in entry["reason"]


@pytest.mark.parametrize("row", UNQUANTISED)
def test_quantised_routers_lose_sets_on_the_same_hidden_states(row: str, tmp_path: Path) -> None:
    """Of routers alone, what is lost at the first router on its own way is what its bits lose by themselves."""
    folder = save_checkpoint(tmp_path / "model", build_tiny(model_type=row), CONFIGS[row])
    reference, other = load_checkpoint(folder), load_checkpoint(folder, router_bits=4)
    _, report = ran(reference, other, Arm(None, 4))
    first = report["arms"][0]["routers"][0]
    assert first["own"] == first["same_input"]
    quantised = {spec.router_bits for spec in routers_of(other.model)}
    lost = 1 - first["own"]["exact_set_rate"]["value"]
    assert (lost > 0) == (quantised == {4})


def test_separation_is_that_of_the_arms() -> None:
    report = quant_drift(None, ["4/8", "4/4", "stored/4"], "math", max_samples=24, max_length=32, plan=PLAN)
    lost = {arm["arm"]: [1 - r["own"]["exact_set_rate"]["value"] for r in arm["routers"]] for arm in report["arms"]}
    (one,) = report["separations"]
    assert (one["low"], one["high"], one["alone"]) == ("4/4", "4/8", "stored/4")
    for low, high, alone, router in zip(lost["4/4"], lost["4/8"], lost["stored/4"], one["routers"], strict=True):
        assert router["last"]["value"] == pytest.approx((low - high) / low)
        assert router["first"]["value"] == pytest.approx(alone / low)
    low, high, alone = (np.mean(lost[name]) for name in ("4/4", "4/8", "stored/4"))
    over = one["overall"]["mlp"]
    assert over["last"]["value"] == pytest.approx((low - high) / low)
    assert over["first"]["value"] == pytest.approx(alone / low)
    assert over["last"]["low"] < over["last"]["value"] < over["last"]["high"]


def test_in_python_mistakes_are_one_sentence(tmp_path: Path) -> None:
    for arguments, said in (
        ({"arms": []}, "Name an arm"),
        ({"backend": "torch"}, "leave out the backend torch"),
        ({"plan": Plan(method="layer")}, "choose bca or percentile"),
        ({"model": tmp_path / "absent"}, "absent"),
    ):
        with pytest.raises(MoebenchError, match=said):
            quant_drift(**arguments)  # type: ignore[arg-type]


# -- the command -------------------------------------------------------------------------------------------------------

SMALL = ("--max-samples", "20", "--max-length", "24", "--quiet", "--resamples", "200")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    main(["compare", "moebench-nano", *map(str, arguments), *SMALL])
    return capsys.readouterr().out


def test_tables_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    output, plot = tmp_path / "new" / "drift.json", tmp_path / "kept.svg"
    arms = ("--quant", "4", "--quant", "4/4", "--quant", "stored/4")
    shown = run(capsys, *arms, "--output", output, "--plot", plot, "--metric", "gini")
    report = json.loads(output.read_text())
    checked("quant_drift", report)
    Draft202012Validator(SCHEMA).validate(report)
    assert [arm["arm"] for arm in report["arms"]] == ["4/8", "4/4", "stored/4"]
    assert report["environment"]["command"].startswith("mlx-moebench")
    assert "4/4: weights 4 bit, routers 4 bit" in shown
    kept = report["arms"][0]["overall"]["mlp"]["own"]["exact_set_rate"]
    assert f"{kept['value']:.3f} [{kept['low']:.3f}, {kept['high']:.3f}]" in shown
    share = report["separations"][0]["overall"]["mlp"]["last"]["value"]
    assert f"{share:.3f} [" in shown
    assert shown.count("gini") == 2  # a strip for each width of the terminal
    assert max(map(len, shown.split("Wrote")[0].splitlines())) <= 80
    assert "…" not in shown
    assert plot.read_text().startswith("<?xml")
    again = run(capsys, *arms[-2:], "--output", output, "--json")  # its own file may be replaced
    assert json.loads(again)["arms"] == report["arms"][-1:]


def test_arms_are_kept_and_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("--output-dir", tmp_path / "runs", "--json")
    first = json.loads(run(capsys, "--quant", "4/4", *kept))
    loaded: list[str] = []
    ran_before = quant_module.side_by_side

    def counted(arm: Arm, *arguments: Any) -> Against:
        loaded.append(arm.name)
        return ran_before(arm, *arguments)

    monkeypatch.setattr(quant_module, "side_by_side", counted)
    both = json.loads(run(capsys, "--quant", "4/4", "--quant", "4", *kept))
    assert loaded == ["4/8"]
    assert both["arms"][0] == first["arms"][0]
    assert both["separations"][0]["low"] == "4/4"
    for wrong in (("--max-samples", "21"), ("--dataset", "code")):
        with pytest.raises(SystemExit) as stop:
            main(["compare", "moebench-nano", "--quant", "4", *SMALL, *map(str, kept), *wrong])
        assert stop.value.code == 1
        assert "4-8.drift.safetensors is of another run" in capsys.readouterr().err


def test_an_adapter_is_quantised_on_its_model(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    arguments = ("--model", str(tiny_checkpoint), "--quant", "stored/4", "--json", *SMALL)
    main(["compare", str(adapter), *arguments, "--output-dir", str(tmp_path / "runs")])
    report = json.loads(capsys.readouterr().out)
    for model in (report["model"], report["arms"][0]["model"]):
        assert model["adapter"]["name"] == "adapter"
    assert report["arms"][0]["model"]["router_bits"] == 4
    weights = mx.load(str(adapter / "adapters.safetensors"))
    mx.save_safetensors(str(adapter / "adapters.safetensors"), {name: 2 * array for name, array in weights.items()})
    for side, said in ((str(tiny_checkpoint), "--model is what an adapter"), (str(adapter), "is of another run")):
        with pytest.raises(SystemExit):
            main(["compare", side, *arguments, "--output-dir", str(tmp_path / "runs")])
        assert said in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(SystemExit):
        main(["compare", str(adapter), "--backends", "mlx,numpy"])
    assert "is an adapter; give a model" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--quant", "4/9"), 1, "There is no arm '4/9'"),
        (("b.json", "--quant", "4"), 2, "leave out B"),
        (("--quant", "4", "--backends", "mlx,numpy"), 2, "leave out B and --backends"),
        (("--quant", "4", "--bits", "4"), 2, "leave out --bits"),
        (("--quant", "4", "--csv", "x.csv"), 2, "leave out --csv"),
        (("--quant", "4", "--plot", "x.gif"), 1, "ends in .png, .svg or .pdf"),
        (("--quant", "4", "--output", "x.txt"), 1, "ends in .json"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compare", "moebench-nano", *arguments])
    assert stop.value.code == code
    error = capsys.readouterr().err
    assert said in error.replace("\n", " ")
    assert "Traceback" not in error


def test_a_quantised_model_is_refused_before_it_is_loaded(
    tmp_path: Path, make_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny()
    nn.quantize(model, group_size=32, bits=4, class_predicate=lambda _, m: hasattr(m, "to_quantized"))
    config = CONFIGS["olmoe"] | {"quantization": {"group_size": 32, "bits": 4}}
    folder = save_checkpoint(tmp_path / "low", model, config)
    monkeypatch.setattr(type(backend_named("mlx")), "load", lambda *arguments: pytest.fail("loaded"))
    with pytest.raises(ModelLoadError, match="quantised already"):
        quant_drift(folder, ["4"])
