"""`mlx-moebench compare` as a user meets it: pairs, models, adapters, tables, files, and one sentence per mistake."""

from __future__ import annotations

import csv
import io
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console
from routing_reference import make_stats
from test_comparison import SCHEMA
from test_precision import write_adapter

from mlx_moebench.analysis import Target, measured, target
from mlx_moebench.cli import main
from mlx_moebench.errors import StatsError
from mlx_moebench.measure import analyze
from mlx_moebench.models import load_checkpoint
from mlx_moebench.options import Options, Reading
from mlx_moebench.pair import compare
from mlx_moebench.pair.storage import read_report
from mlx_moebench.routing import METRICS, Plan, RouterSpec
from mlx_moebench.show.plots.comparison import plot_effects
from mlx_moebench.show.tables.comparison import print_comparison

QUICK = ("--resamples", "200")
SMALL = ("--max-samples", "12", "--max-length", "24", "--quiet", *QUICK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``math`` and ``code``: small pairs of the embedded model."""
    folder = tmp_path_factory.mktemp("compare")
    checkpoint = load_checkpoint(None)
    for name in ("math", "code"):
        analyze(checkpoint, name, output=folder / name, max_samples=16, max_length=48, plan=Plan(resamples=100))
    return folder


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["compare", *map(str, arguments)])
    assert stop.value.code == code
    error = capsys.readouterr().err
    assert "Error: " in error
    assert "Traceback" not in error
    return error.replace("\n", " ")


def test_tables_and_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    files = {name: tmp_path / "new" / f"effects.{name}" for name in ("json", "csv", "png")}
    arguments = [folder / "math.json", folder / "code.safetensors", "--allow", "data", "--metric", "gini", *QUICK]
    outputs = zip(("--output", "--csv", "--plot"), map(str, files.values()), strict=True)
    main(["compare", *map(str, arguments), *(text for pair in outputs for text in pair)])
    shown = capsys.readouterr().out
    report = json.loads(files["json"].read_text())
    Draft202012Validator(SCHEMA).validate(report)
    assert report["command"].startswith("mlx-moebench")
    assert "A: moebench-nano on math: 16 sequences" in shown
    assert "Unpaired, as independent samples; every effect is B minus A." in shown
    assert "Allowed (data): math and code." in shown
    assert shown.count("gini") == 2  # over all routers, and layer by layer
    assert shown.count("mean_entropy") == 1
    for name in METRICS:
        assert name in shown
    assert max(map(len, shown.split("Wrote")[0].splitlines())) <= 80
    assert "…" not in shown
    e = report["overall"]["mlp"]["mean_entropy"]
    assert f"{e['effect']:+.3f}"[:5] in shown
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert len(rows) == 6 * (len(METRICS) + 2)
    assert float(rows[0]["effect"]) == pytest.approx(report["routers"][0]["effects"]["mean_entropy"]["effect"])
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert all(str(path) in shown.replace("\n", "") for path in files.values())
    main(["compare", *map(str, arguments), "--output", str(files["json"]), "--json"])  # its own file may be replaced
    assert json.loads(capsys.readouterr().out)["overall"] == report["overall"]


def test_long_numbers_are_never_cut(folder: Path) -> None:
    found = compare(folder / "math.json", folder / "code.json", allow=["data"], plan=Plan(resamples=200)).to_dict()
    tiny = {"a": 0.044841, "b": 0.044871, "effect": 0.00003, "low": -0.00024, "high": 0.00026, "p": 0.0004}
    for effect in found["overall"]["mlp"].values():
        effect.update(tiny)
    for router in found["routers"]:
        change = router["load"]["token_share_change"]
        change["values"] = [0.006] * 15 + [0.012]
        change |= {"below": 0.009, "above": 0.009}
    console = Console(width=80, record=True, file=io.StringIO())
    print_comparison(found, console=console)
    shown = console.export_text()
    assert "…" not in shown
    assert shown.count("0.0448 0.0449 +0.00003 [-0.00024, 0.00026] <0.001 ") == len(found["overall"]["mlp"]) - 2
    assert shown.count("15: +0.012 [0.003, 0.021]") == len(found["routers"])


def test_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(folder / "math"), str(folder / "math.json"), *QUICK])
    shown = capsys.readouterr().out
    assert "Paired on 16 sequences" in shown
    assert "0.000 [0.000, 0.000] 1.000" in shown
    assert "*" not in shown.split("[low, high]")[0]
    assert "none" in shown


def test_seed_resamples_level_and_method(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*options: str) -> dict[str, Any]:
        main(["compare", str(folder / "math"), str(folder / "code"), "--allow", "data", "--json", *options])
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    report = run("--seed", "5", "--resamples", "150", "--level", "0.8", "--ci", "percentile")
    assert report["settings"]["ci"] == {"method": "percentile", "resamples": 150, "seed": 5, "level": 0.8}
    assert report["overall"]["mlp"]["mean_entropy"]["method"] == "percentile bootstrap over sequences"
    again, other = (run("--seed", seed, "--resamples", "150") for seed in ("5", "6"))
    assert run("--seed", "5", "--resamples", "150")["overall"] == again["overall"]
    assert again["overall"] != other["overall"]


def test_a_report_without_its_sums(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "code.json", tmp_path)
    plot = tmp_path / "e.svg"
    main(["compare", str(folder / "math"), str(tmp_path / "code.json"), "--allow", "data", "--plot", str(plot)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Values only" in shown
    assert "code.safetensors with the sums per sequence is not beside code.json: values, but no intervals." in shown
    ET.fromstring(plot.read_bytes())


def test_mistakes_with_pairs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    math, code = folder / "math.json", folder / "code.json"
    assert "other data sets (math and code)" in fails(capsys, math, code)
    assert "No stats pair at" in fails(capsys, math, tmp_path / "none.json")
    assert "Did you mean 'gini'?" in fails(capsys, math, math, "--metric", "ginni")
    assert "exists and holds no comparison" in fails(capsys, math, math, "--output", code)
    assert "ends in .json" in fails(capsys, math, math, "--output", tmp_path / "x.txt")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("text\nMine.\n")
    assert "exists and holds no comparison" in fails(capsys, math, math, "--csv", prompts)
    assert "ends in .csv" in fails(capsys, math, math, "--csv", tmp_path / "x.json")
    assert "ends in .png, .svg or .pdf" in fails(capsys, math, math, "--plot", tmp_path / "x.jpg")
    (tmp_path / "folder.json").mkdir()
    assert "is a folder" in fails(capsys, math, math, "--output", tmp_path / "folder.json")
    told = fails(capsys, math, math, "--dataset", "code", "--bits", "4", code=2)
    assert "--dataset, --bits say how to measure a model, but both sides are stats pairs." in told


# -- models --------------------------------------------------------------------------------------------------------


def test_what_a_side_names(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    checkpoint, adapter = str(tmp_path / "checkpoint"), str(tmp_path / "adapter")
    assert target("moebench-nano") == Target(None)
    assert target("owner/name") == Target("owner/name")
    assert target(checkpoint) == Target(checkpoint)
    assert target(adapter, checkpoint) == Target(checkpoint, Path(adapter))
    assert target(adapter, "moebench-nano") == target(adapter) == Target(None, Path(adapter))
    assert target(adapter, "owner/a name").name == "a-name_adapter"
    for text in ("nowhere", "./nowhere", "a/b/c", "/owner/name", "owner/"):
        with pytest.raises(StatsError, match="neither a stats pair nor a model"):
            target(text)


def test_a_model_and_itself(capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "moebench-nano", "moebench-nano", *SMALL, "--json"])
    printed = capsys.readouterr()
    assert printed.err == ""
    report = json.loads(printed.out)
    assert report["design"]["compared"] == {"a": 12, "b": 12}
    assert {e["effect"] for e in report["overall"]["mlp"].values()} == {0}


def test_an_adapter_goes_on_the_other_side(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, runs = write_adapter(tmp_path / "lora"), tmp_path / "runs"
    arguments = ["compare", str(tiny_checkpoint), str(adapter), "--output-dir", str(runs), *SMALL]
    main([*arguments, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["a"]["model"]["adapter"] is None
    assert report["b"]["model"]["adapter"]["name"] == "lora"
    assert report["a"]["model"]["fingerprint"] == report["b"]["model"]["fingerprint"]
    assert report["design"]["paired"]
    assert any(e["effect"] for e in report["overall"]["mlp"].values())
    kept = sorted(path.name for path in runs.glob("*.json"))
    assert kept == ["a_tiny.json", "b_tiny_lora.json"]
    again = compare(runs / "a_tiny", runs / "b_tiny_lora", plan=Plan(resamples=200))
    assert again.to_dict()["overall"] == report["overall"]
    before = {path: path.read_bytes() for path in runs.glob("*.safetensors")}
    main(arguments)  # goes on from what is there
    assert {path: path.read_bytes() for path in before} == before
    assert "with lora" in capsys.readouterr().out
    told = fails(capsys, tiny_checkpoint, adapter, "--output-dir", runs, *SMALL, "--max-length", "20")
    assert "Cannot resume" in told
    assert "choose another --output-dir" in told


def test_a_stopped_comparison_goes_on(tmp_path: Path) -> None:
    settings = Options(reading=Reading(max_samples=12, max_length=24, batch_size=4))

    def stop(what: str, done: int, total: int) -> None:
        if what == "A: measuring, sequences" and done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"is in .*a_moebench-nano\.json, and the same command continues"):
        measured(Target(None), "A", tmp_path, "math", settings, stop)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        measured(Target(None), "A", None, "math", settings, stop)
    pair = measured(Target(None), "A", tmp_path, "math", settings)
    found = compare(pair, measured(Target(None), "B", None, "math", settings), plan=Plan(resamples=100))
    assert found.design["compared"] == {"a": 12, "b": 12}
    assert all(e.effect == 0 for row in found.routers for e in row.values())


def test_a_pair_and_a_model(folder: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    length = str(read_report(folder / "math")["data"]["max_length"])
    same = ("--max-samples", "16", "--max-length", length, "--quiet", *QUICK)
    main(["compare", str(folder / "math"), "moebench-nano", *same, "--json"])
    assert {e["effect"] for e in json.loads(capsys.readouterr().out)["overall"]["mlp"].values()} <= {0}
    told = fails(capsys, folder / "math", tiny_checkpoint, *same)
    assert "not the same ones (6 and 3, of which 3 have a namesake)" in told
    assert "--allow routers --allow experts" in told


def test_no_such_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = fails(capsys, folder / "math", "nowhere")
    assert "'nowhere' is neither a stats pair nor a model" in told


# -- pictures and tables of odd comparisons ------------------------------------------------------------------------


def test_two_kinds_of_router_are_shown_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = tuple(RouterSpec(layer, layer, kind, 8, 2) for layer in range(2) for kind in ("attention", "mlp"))
    model = {"id": "a $strange$ [bold]<model>", "model_type": "x"}
    sides = [make_stats(specs=both, sha=sha * 64, model=model) for sha in "ab"]
    found = compare(*sides, allow=["data"], plan=Plan(resamples=100)).to_dict()
    print_comparison(found)
    shown = capsys.readouterr().out
    assert "Mean over 2 attention routers" in shown
    assert "Mean over 2 mlp routers" in shown
    assert "a $strange$ [bold]<model> on data-a" in shown
    plot_effects(found, tmp_path / "e.svg", ["gini", "top_share_token"])
    first = (tmp_path / "e.svg").read_bytes()
    ET.fromstring(first)
    plot_effects(found, tmp_path / "e.svg", ["gini", "top_share_token"])
    assert (tmp_path / "e.svg").read_bytes() == first, "the same comparison draws the same file"
