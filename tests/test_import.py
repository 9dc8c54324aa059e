"""``mlx-moebench import``: counts of other programs as stats pairs, what they do not tell, and mistakes."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_reference import validate
from without import without

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.data.importers import formats, importer
from mlx_moebench.pair.storage import read_report
from mlx_moebench.routing import METRICS, Sums, compute

TOKENS = 600


def make_counts(seed: int, layers: int = 3, experts: int = 8, top_k: int = 2) -> np.ndarray:
    """[layers, experts] of TOKENS tokens; the last two experts of the last layer have none."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((layers, experts), dtype=int)
    for layer, row in enumerate(counts):
        used = experts - 2 * (layer == layers - 1)
        for _ in range(TOKENS):
            row[rng.permutation(used)[:top_k]] += 1
    return counts


def write_olmoe(path: Path, counts: np.ndarray) -> Path:
    layers = [{str(i): int(c) for i, c in enumerate(row) if c} for row in counts]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(layers), encoding="utf-8")
    return path


def write_csv(path: Path, counts: np.ndarray, header: str = "layer,expert,count") -> Path:
    rows = [f"{layer + 1},{i},{c}" for layer, row in enumerate(counts) for i, c in enumerate(row) if c]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def imports(*arguments: object) -> None:
    main(["import", *map(str, arguments)])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    with pytest.raises(SystemExit) as stop:
        imports(*arguments)
    assert stop.value.code == code
    error = capsys.readouterr().err
    assert code != 1 or (error.startswith("Error: ") and error.count("\n") == 1)
    return error


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tuple(  # type: ignore[return-value]
        write_olmoe(tmp_path / f"{name}.json", make_counts(seed)) for seed, name in enumerate(("law", "news"))
    )


OLMOE = ("olmoe", "--experts", "8", "--top-k", "2")


# -- what counts give ----------------------------------------------------------------------------------------------


def test_counts_become_a_pair(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imports(*OLMOE, *files, "--output", tmp_path / "out.json")
    printed = capsys.readouterr().out
    assert "OLMoE on " in printed
    assert "2 count files, 1,200 tokens" in printed
    assert "Findings over law, news" in printed
    report = read_report(tmp_path / "out.json")
    validate(report)
    assert report["data"]["n_tokens"] == 2 * TOKENS
    assert [r["layer"] for r in report["routers"]] == [0, 7, 15]
    assert [s["name"] for s in sorted(report["data"]["sources"], key=lambda s: s["name"])] == ["law", "news"]
    both = make_counts(0) + make_counts(1)
    for router, counts in zip(report["routers"], both, strict=True):
        assert router["selection_counts"] == counts.tolist()
        assert router["top_share_token"] == pytest.approx(counts.max() / (2 * TOKENS))
        assert router["findings"]["word"] is None
        assert {one["answer"] for one in router["findings"]["findings"].values()} == {"open"}
        assert router["n_experts"] == 8
    assert report["routers"][2]["dead_experts"] == 2, "E comes from --experts, not from the largest id"


def test_what_counts_do_not_give_is_null_with_the_reason(files: tuple[Path, Path], tmp_path: Path) -> None:
    imports(*OLMOE, files[0], "--output", tmp_path / "out.json")
    report = read_report(tmp_path / "out.json")
    validate(report)
    counted = {"load_entropy", "load_entropy_bias", "eae", "top_share_token", "top_share_selection", "top_load_ratio"}
    counted |= {"max_violation", "gini", "cv", "n_eff", "n90", "dead_experts", "dead_experts_expected", "load_gap"}
    counts_alone = compute(Sums.from_counts([3.0, 2.0, 1.0, 0.0], 3.0, top_k=2))
    given = {name for name, value in counts_alone.items() if np.isfinite(value)}
    assert counted <= given
    assert not {"mean_entropy", "top_share_top1", "margin_prob", "adjacent_overlap"} & given
    router = report["routers"][0]
    for name in METRICS:
        if name in given:
            assert isinstance(router[name], int | float), name
            resampled = METRICS[name].interval != "none"
            assert ("1 sequence is too few" if resampled else "says nothing") in router["ci"][name]["reason"]
        else:
            assert router[name] is None, name
            assert router["ci"][name]["reason"] == "what it is computed from was not recorded"
    assert router["top1_counts"] is None
    assert report["summary"]["mean_entropy"] == {
        "value": None,
        "level": 0.95,
        "low": None,
        "high": None,
        "reason": "what it is computed from was not recorded",
    }
    assert report["summary"]["peak_top_share_top1"]["value"] is None
    stats = RoutingStats.load(tmp_path / "out")
    assert np.isnan(stats.coactivation(0)).all()
    assert np.isnan(stats.coactivation_lift(0)).all()
    assert np.isnan(stats.transition(0)).all()
    assert math.isnan(stats.values(0)["adjacent_overlap"])


def test_first_choices_beside_the_counts(tmp_path: Path) -> None:
    paths = []
    for seed, name in enumerate(("law", "news")):
        counts = make_counts(seed)
        first = counts // 2
        first[:, 0] += TOKENS - first.sum(axis=1)  # an odd count leaves a half
        paths.append(write_olmoe(tmp_path / "all" / f"{name}.json", counts))
        write_olmoe(tmp_path / "top1" / f"{name}.json", first)
    imports(*OLMOE, *paths, "--top1", tmp_path / "top1", "-o", tmp_path / "out")
    report = read_report(tmp_path / "out")
    for router in report["routers"]:
        assert sum(router["top1_counts"]) == 2 * TOKENS
        assert router["top_share_top1"] == max(router["top1_counts"]) / (2 * TOKENS)
        assert router["mean_entropy"] is None
    # The same after the sums have been through the file, and merged with counts that have none.
    imports(*OLMOE, write_olmoe(tmp_path / "all" / "other.json", make_counts(5)), "-o", tmp_path / "other")
    merged = RoutingStats.merge([RoutingStats.load(tmp_path / name) for name in ("out", "other")])
    assert math.isnan(merged.values(0)["top_share_top1"])
    assert merged.n_tokens == 3 * TOKENS
    validate(merged.report())


def test_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = make_counts(3)
    path = write_csv(tmp_path / "table.csv", counts, header="\ufeffLayer, Expert,COUNT")
    imports("csv", f"maths={path}", "--experts", 8, "--top-k", 2, "--json", "-o", tmp_path / "out.json")
    report = json.loads(capsys.readouterr().out)
    validate(report)
    assert report["data"]["name"] == "maths"
    assert report["data"]["phase"] == "unsplit"
    assert [(r["layer"], r["moe_layer"], r["distribution"]) for r in report["routers"]] == [
        (1, 0, None),
        (2, 1, None),
        (3, 2, None),
    ]
    for router, row in zip(report["routers"], counts, strict=True):
        assert router["selection_counts"] == row.tolist()


def test_the_pair_can_be_profiled(files: tuple[Path, Path], tmp_path: Path) -> None:
    imports(*OLMOE, *files, "-o", tmp_path / "out.json")
    main(["profile", str(tmp_path / "out.json"), "--output", str(tmp_path / "profile")])
    (model,) = json.loads((tmp_path / "profile" / "profile.json").read_text())["models"]
    assert [d["name"] for d in model["domains"]] == ["law", "news"]
    overlap = model["routers"][0]["adjacent_overlap"]["domains"]["law"]
    assert overlap["value"] is None
    assert overlap["reason"] == "what it is computed from was not recorded"
    assert model["routers"][0]["domain_information"]["p_value"] is None


def test_counts_have_numbers_and_no_word(files: tuple[Path, Path], tmp_path: Path) -> None:
    """No sequences are known, not one: nothing is answered, and the report says why."""
    imports(*OLMOE, *files, "--output", tmp_path / "out.json")
    report = read_report(tmp_path / "out.json")
    assert report["words_by_router"]["mlp"]["null"] == 3
    for router in report["routers"]:
        assert router["findings"]["word"] is None
        for finding in router["findings"]["findings"].values():
            assert finding["answer"] == "open"
            assert finding["reason"] == "counts do not say which text a token came from"
            assert finding["value"] is not None


def test_counts_need_no_mlx(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Importing counts and profiling them, in a process in which MLX cannot be imported."""
    code = (
        f"{without('mlx', 'mlx_lm', 'torch', 'transformers')}"
        "from mlx_moebench.cli import main\n"
        f"main({['import', *OLMOE, *map(str, files), '-o', str(tmp_path / 'out')]!r})\n"
        f"main({['profile', str(tmp_path / 'out.json'), '--output', str(tmp_path / 'p')]!r})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Findings over law, news" in result.stdout
    assert (tmp_path / "p" / "profile.csv").exists()


# -- mistakes ------------------------------------------------------------------------------------------------------


def changed(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        layers = json.loads(path.read_text())
        path.write_text(json.dumps(change(layers) or layers))

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text("{"), "is no JSON file"),
        (lambda path: path.write_text('{"0": 1}'), "is not a JSON list"),
        (changed(lambda layers: layers[:2]), "has 2 layers: say which with --layers"),
        (changed(lambda layers: layers[0].update({"9": 2})), "counts expert 9, but there are 8 from 0 on"),
        (
            changed(lambda layers: layers[1].update({"3": layers[1]["3"] + 1})),
            "Layer 7 of .* not a number of tokens times 2",
        ),
        (changed(lambda layers: layers[0].update({"x": 2})), "both whole numbers"),
        (changed(lambda layers: layers[0].update({"1": 2.5})), "both whole numbers"),
        (changed(lambda layers: layers[0].update({"1": -2})), "a negative count for expert 1"),
        (changed(lambda layers: layers[0].update({"0,1": 2})), "pairs of experts"),
        (changed(lambda layers: [{"0": 1000, "1": 200}, *layers[1:]]), "an expert with 1000 of them"),
        (changed(lambda layers: [layers[0], {"0": 2, "1": 2}, layers[2]]), "has 2 tokens, but the layers before it"),
        (changed(lambda layers: [{}, *layers[1:]]), "has 0 selections: check the file"),
    ],
)
def test_bad_counts(
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    spoil(files[0])
    error = fails(capsys, *OLMOE, files[0], "-o", tmp_path / "out")
    assert re.search(message, error), error
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,expert,n\n0,1,2\n", "has no column 'count'"),
        ("", "has no column 'layer'"),
        ("layer,expert,count\n", "has no counts"),
        ("layer,expert,count\n0,1,2.5\n", "line 2: layer, expert and count must be whole numbers"),
        ("layer,expert,count\n0,1\n", "line 2: layer, expert and count must be whole numbers"),
        ("layer,expert,count\n-1,1,4\n", "a layer is 0 or more"),
        ("layer,expert,count\n0,1,4\n0,1,4\n", "line 3: layer 0, expert 1 is there twice"),
    ],
)
def test_bad_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert message in fails(capsys, "csv", path, "--experts", 8, "--top-k", 2, "-o", tmp_path / "out")


def test_bad_arguments(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("-o", tmp_path / "out")
    assert "Did you mean 'olmoe'?" in fails(capsys, "olmo", files[0], *out)
    assert "There is no file nothing.json" in fails(capsys, *OLMOE, "nothing.json", *out)
    assert "about the domain 'law'" in fails(capsys, *OLMOE, files[0], f"law={files[1]}", *out)
    assert "are the same file" in fails(capsys, *OLMOE, files[0], f"other={files[0]}", *out)
    assert "is one file, but 2 are imported" in fails(capsys, *OLMOE, *files, "--top1", files[0], *out)
    assert "is first more often than it is chosen" in fails(capsys, *OLMOE, files[0], "--top1", files[1], *out)
    (tmp_path / "empty").mkdir()
    assert "There are no first choices for" in fails(capsys, *OLMOE, files[0], "--top1", tmp_path / "empty", *out)
    assert "Missing option '--experts'" in fails(capsys, "csv", files[0], "--top-k", 2, *out, code=2)
    assert "whole numbers joined by commas" in fails(capsys, *OLMOE, files[0], "--layers", "0,x", *out, code=2)
    (tmp_path / "out.json").write_text("{}")
    assert "holds no routing report of mlx-moebench: choose another name" in fails(capsys, *OLMOE, files[0], *out)


def test_files_of_other_layers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_csv(tmp_path / "a.csv", make_counts(0)), write_csv(tmp_path / "b.csv", make_counts(0, layers=2))
    error = fails(capsys, "csv", a, b, "--experts", 8, "--top-k", 2, "-o", tmp_path / "out")
    assert "has layers [1, 2], but" in error


def test_help_lists_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"csv", "olmoe"} <= set(formats())
    for name in formats():
        main(["import", name, "--help"])
        printed = capsys.readouterr().out
        assert f"mlx-moebench import {importer(name).example.split()[0]}" in printed
    main(["import", "olmoe", "--help"])
    assert "default: 0,7,15" in " ".join(capsys.readouterr().out.split())


# -- OLMoE's own counts --------------------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_olmoe(tmp_path: Path) -> None:
    """arXiv alone raises every flag; over four domains nearly all experts are in use. Counts get no word."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MOEBENCH_SHARED_DATA", default)) / "olmoe_routing"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name} in the folder named by MOEBENCH_SHARED_DATA")
    counts = sorted((folder / "expert_counts").glob("*.json"))
    imports("olmoe", folder / "expert_counts" / "arxiv.json", "-o", tmp_path / "arxiv")
    assert [r["collapsed"] for r in read_report(tmp_path / "arxiv")["routers"]] == [True, True, True]
    imports("olmoe", *counts, "--top1", folder / "expert_counts_top1", "-o", tmp_path / "four")
    report = read_report(tmp_path / "four")
    validate(report)
    assert report["words_by_router"]["mlp"]["null"] == 3
    parts = [r["findings"]["findings"]["collapsed"]["parts"] for r in report["routers"]]
    assert [round(x["used"]["value"], 2) for x in parts] == [0.95, 0.89, 0.91]
    assert [round(x["specialisation"]["value"], 2) for x in parts] == [0.07, 0.19, 0.22]
    assert [r["dead_experts"] for r in report["routers"]] == [0, 0, 0]
    imports("olmoe", *sorted((folder / "expert_counts_top1").glob("*.json")), "--top-k", 1, "-o", tmp_path / "first")
    first = [r["findings"]["findings"]["specialised"] for r in read_report(tmp_path / "first")["routers"]]
    mi = [one["parts"]["information"]["value"] for one in first]
    assert " ".join(f"{x:.4f}" for x in mi) == "0.3593 0.5657 0.6288"
