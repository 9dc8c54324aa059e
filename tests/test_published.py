"""Published figures held against measurements, the table of profiles, and the published scripts as a user runs them."""

from __future__ import annotations

import io
import json
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_tiny, save_checkpoint
from family_rows import CONFIGS
from leaderboard import Cells, leaderboard_of, rows_of
from published import (
    bits_that_fit,
    collapse_impossible,
    held_against,
    in_words,
    possible,
    possible_names,
    read_published,
    weights_gb,
)
from routing_reference import ENVIRONMENT, make_stats

from mlx_moebench import RoutingStats
from mlx_moebench.analysis.overlap import selection_overlap
from mlx_moebench.errors import DataError, TraceError
from mlx_moebench.options import COLLAPSE_SHARES
from mlx_moebench.routing import Plan, RouterSpec

ROOT = Path(__file__).parents[1]
PLAN = Plan(resamples=100)


@pytest.fixture
def published() -> dict[str, Any]:
    return read_published(ROOT / "results" / "published.json")


def started(script: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A script as a user runs it."""
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == code, found.stderr
    return found


def run(script: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A script that starts no other process, in this one."""
    command = [str(ROOT / "scripts" / script), *map(str, arguments)]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as stop:
            if isinstance(stop.code, str):  # as Python ends a process with it
                print(stop.code, file=err)
            status = 1 if isinstance(stop.code, str) else int(stop.code or 0)
    assert status == code, err.getvalue()
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


# -- what a figure can be ------------------------------------------------------------------------------------------


def share(value: float) -> dict[str, float]:
    return {"value": value, "rounding": 0.005}


def test_82_percent_of_olmoe_is_no_share_of_selections_and_19_of_jetmoe_none_of_tokens() -> None:
    assert possible_names(COLLAPSE_SHARES, share(0.82), 64, 8) == ["top_share_token", "top_share_top1"]
    assert possible_names(COLLAPSE_SHARES, share(0.19), 8, 2) == ["top_share_selection", "top_share_top1"]
    assert possible_names(COLLAPSE_SHARES, share(0.16), 60, 4) == list(COLLAPSE_SHARES)
    assert possible("top_share_selection", share(0.82), 64, 8) == "it is at most 0.125 with top-8 of 64"
    assert possible("top_share_token", share(0.19), 8, 2) == "it is at least 0.25 with top-2 of 8"
    assert possible("top_share_selection", share(0.129), 64, 8) is None  # 12.5%, rounded up


def test_a_fraction_of_collapsed_routers_can_be_out_of_a_shares_reach() -> None:
    why = collapse_impossible("top_share_selection", 0.40, share(0.5), 64, 8)
    assert why == "this share is at most 0.125 with top-8 of 64, so never above 0.4"
    assert collapse_impossible("top_share_selection", 0.40, share(0.0), 64, 8) is None
    assert collapse_impossible("top_share_token", 0.40, share(0.0), 8, 4) is not None  # even routing is above tau
    assert collapse_impossible("top_share_token", 0.40, share(0.0), 8, 2) is None


def figures(**values: float) -> dict[str, Any]:
    return {name: share(value) for name, value in values.items()}


def row(**values: float) -> dict[str, Any]:
    return {"model": "m", "n_experts": 8, "top_k": 2, "parameters": 1, "figures": figures(**values)}


def test_a_measured_figure_is_reproduced_and_another_differs() -> None:
    stats = make_stats(range(40))
    summary = stats.report(PLAN)["summary"]
    exact = row(mean_entropy=summary["mean_entropy"]["value"], peak_share=summary["peak_top_share_token"]["value"])
    found = {(e["figure"], e["quantity"]): e for e in held_against(exact, stats, PLAN)}
    assert found["mean_entropy", "mean_entropy"]["verdict"] == "reproduced"
    assert found["peak_share", "top_share_token"]["verdict"] == "reproduced"
    assert found["mean_entropy", "topk_entropy"]["verdict"] == "cannot be this"  # above ln K
    entry = found["mean_entropy", "mean_entropy"]
    assert (entry["value"], entry["low"]) == (summary["mean_entropy"]["value"], summary["mean_entropy"]["low"])
    apart = held_against(row(mean_entropy=summary["mean_entropy"]["high"] + 0.1), stats, PLAN)
    assert {e["verdict"] for e in apart if e["quantity"] == "mean_entropy"} == {"differs"}
    words = in_words([e for e in found.values() if e["figure"] == "mean_entropy"])
    assert words.startswith("Reproduced within the interval as: of p, mean over tokens")
    assert words.endswith("Cannot be of the gate weights")
    assert in_words(apart).startswith("Differs, also as what it can be")


def test_the_share_that_decides_collapse_is_the_one_held_against() -> None:
    stats = make_stats(range(40), tau=0.30)
    entries = {e["quantity"]: e for e in held_against(row(collapsed_fraction=1.0), stats, PLAN)}
    for name in COLLAPSE_SHARES:
        above = [stats.values(number)[name] > 0.30 for number in range(len(stats.specs))]
        assert entries[name]["value"] == np.mean(above)
    assert stats.collapse_on == "top_share_token"  # the caller's statistics are left as they were


def test_few_texts_and_other_models_decide_nothing() -> None:
    few = held_against(row(mean_entropy=1.0), make_stats(range(5)), PLAN)
    assert {e["verdict"] for e in few} == {"no interval", "cannot be this"}
    assert "no interval" in in_words(few)
    other = held_against(row(mean_entropy=1.0) | {"n_experts": 16}, make_stats(range(20)), PLAN)
    assert {e["why"] for e in other if e["verdict"] == "another model"} == {"measured with top-2 of 8"}
    assert in_words(other).startswith("Not tested")


def test_both_kinds_of_router_are_held_against_a_figure() -> None:
    specs = tuple(RouterSpec(layer, layer, kind, 8, 2) for layer in range(2) for kind in ("attention", "mlp"))
    entries = held_against(row(mean_entropy=1.0, peak_share=0.3), make_stats(range(12), specs=specs), PLAN)
    assert {e["router"] for e in entries} == {"attention", "mlp"}
    assert len(entries) == 2 * (4 + 3)


def test_memory_of_the_published_models(published: dict[str, Any]) -> None:
    olmoe, jetmoe, qwen = (r["parameters"] for r in published["rows"])
    assert [round(weights_gb(p, 16), 1) for p in (olmoe, jetmoe, qwen)] == [13.8, 17.0, 28.6]
    assert weights_gb(64, 4) == pytest.approx((64 * 4 + 32) / 8 / 1e9)
    assert [bits_that_fit(p, 24) for p in (olmoe, jetmoe, qwen)] == [16, 4, 4]
    assert bits_that_fit(qwen, 8) is None


@pytest.mark.parametrize("text", ["[", "{}", '{"rows": [{"model": "m"}]}'])
def test_a_broken_file_of_published_rows_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DataError):
        read_published(tmp_path / "p.json")


# -- the table -----------------------------------------------------------------------------------------------------


def test_one_row_per_domain_of_a_pair_and_none_lost(tmp_path: Path) -> None:
    a, b = make_stats(range(12)), make_stats(range(12), sha="b" * 64)
    RoutingStats.merge([a, b]).save(tmp_path / "both.json", PLAN)
    rows = rows_of(tmp_path / "both.json")
    assert [r["data"]["name"] for r in rows] == ["data-a", "data-b"]
    assert rows[0]["summary"] == json.loads(json.dumps(a.report(PLAN)))["summary"]


def test_a_number_without_interval_has_a_letter_and_its_reason(tmp_path: Path) -> None:
    make_stats(range(12)).save(tmp_path / "routing_stats_x.json", PLAN)
    assert "(a)" not in leaderboard_of([tmp_path / "routing_stats_x.json"])
    (tmp_path / "routing_stats_x.safetensors").unlink()
    text = leaderboard_of([tmp_path / "routing_stats_x.json"])
    assert "- (a) routing_stats_x.safetensors with the sums is missing." in text
    assert "[" not in text.splitlines()[2]


def test_cells() -> None:
    cells = Cells()
    assert cells.cell({"value": 1.0, "low": 0.5, "high": 1.5}, 1) == "1.0 [0.5, 1.5]"
    assert cells.cell({"value": None, "low": None, "reason": "r"}, 1) == "not defined (a)"
    assert cells.cell({"value": 1.0, "low": None, "reason": "s"}, 1) == "1.0 (b)"
    assert cells.notes() == ["(a) r.", "(b) s."]


def test_update_leaderboard_writes_the_page(tmp_path: Path) -> None:
    make_stats(range(12), environment=ENVIRONMENT | {"command": "mlx-moebench analyze"}).save(
        tmp_path / "routing_stats_x.json", PLAN
    )
    run("update_leaderboard.py", "--results", tmp_path)
    text = (tmp_path / "ROUTING_PROFILE_TABLE.md").read_text()
    assert "1. `mlx-moebench analyze`" in text
    assert "Published by others" not in text  # this folder has no published.json
    error = run("update_leaderboard.py", "--results", tmp_path / "empty", code=1).stderr
    assert error.startswith("Error: There is no routing_stats_*.json")


# -- renewing intervals --------------------------------------------------------------------------------------------


def test_intervals_are_renewed_and_values_and_sums_kept(tmp_path: Path) -> None:
    stem = tmp_path / "x"
    make_stats(range(12)).save(stem, PLAN)
    before, sums = json.loads(stem.with_suffix(".json").read_text()), stem.with_suffix(".safetensors").read_bytes()
    run("enrich_routing_reports.py", stem.with_suffix(".safetensors"), "--ci", "percentile", "--resamples", 300)
    after = json.loads(stem.with_suffix(".json").read_text())
    assert stem.with_suffix(".safetensors").read_bytes() == sums
    assert after["settings"]["ci"] == before["settings"]["ci"] | {"method": "percentile", "resamples": 300}
    assert after["summary"]["mean_entropy"]["value"] == before["summary"]["mean_entropy"]["value"]
    assert after["summary"]["mean_entropy"]["low"] != before["summary"]["mean_entropy"]["low"]


def test_a_report_alone_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    make_stats(range(12)).save(tmp_path / "a.json", PLAN)
    make_stats(range(12)).save(tmp_path / "b.json", PLAN)
    (tmp_path / "a.safetensors").unlink()
    before = (tmp_path / "a.json").read_bytes()
    found = run("enrich_routing_reports.py", tmp_path / "a.json", tmp_path / "b.json", code=1)
    assert found.stderr.count("Error") == 1
    assert "a.safetensors is not beside" in found.stderr
    assert "Intervals need the sums." in found.stderr
    assert "b.json: bca" in found.stdout  # the others are renewed
    assert (tmp_path / "a.json").read_bytes() == before
    error = run("enrich_routing_reports.py", tmp_path / "b.json", "--level", 2, code=1).stderr
    assert error.startswith("Error: ")
    assert "sums" not in error


# -- scripts that run models ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_jetmoe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mlx.core", reason="needs MLX")
    folder = tmp_path_factory.mktemp("models") / "tiny-jetmoe"
    return save_checkpoint(folder, build_tiny(model_type="jetmoe"), CONFIGS["jetmoe"])


@pytest.mark.slow
def test_headline_from_measurement_to_verdicts_and_again(tmp_path: Path, tiny_jetmoe: Path) -> None:
    wanted = ["OLMoE-1B-7B=moebench-nano", f"JetMoE-8B={tiny_jetmoe}"]
    options = ["--max-samples", 10, "--output", tmp_path]
    started("reproduce_headline.py", "--models", *wanted, *options)
    text, report = ((tmp_path / f"headline.{kind}").read_text() for kind in ("md", "json"))
    assert "Run with stand-ins for OLMoE-1B-7B, JetMoE-8B: nothing here is about the published models." in text
    assert "tiny-jetmoe, attention routers" in text
    assert "tiny-jetmoe, mlp routers" in text
    models = json.loads(report)["models"]
    verdicts = {(e["figure"], e["quantity"]): e["verdict"] for e in models[0]["figures"]}
    assert verdicts["peak_share", "top_share_selection"] == "cannot be this"
    assert verdicts["peak_share", "top_share_token"] == "another model"
    pair = tmp_path / "routing_stats_OLMoE-1B-7B_math.json"
    measured = json.loads(pair.read_text())["summary"]
    started("reproduce_headline.py", "--models", wanted[0], *options)  # goes on from what is there
    assert json.loads(pair.read_text())["summary"] == measured
    assert text.splitlines()[6] in (tmp_path / "headline.md").read_text()


def test_headline_plans_memory_and_names_mistakes(tmp_path: Path) -> None:
    planned = run("reproduce_headline.py", "--plan", "--memory", 24, "--output", tmp_path / "out").stderr
    assert "OLMoE-1B-7B: allenai/OLMoE-1B-7B-0924; 13.8 GB to download once; as stored, 13.8 GB of weights\n" in planned
    assert "--bits 4, 4.8 GB of weights (17.0 GB as stored are too much for 24 GB)" in planned
    assert not (tmp_path / "out").exists()
    error = run("reproduce_headline.py", "--models", "OLMoE", "--output", tmp_path, code=1).stderr
    assert error == "Error: 'OLMoE' is not in the published table. Did you mean 'OLMoE-1B-7B'?\n"
    error = run("reproduce_headline.py", "--memory", 4, "--output", tmp_path, code=1).stderr
    assert "even at 4 bit" in error


@pytest.mark.slow
def test_domain_profiles_by_the_published_name(tmp_path: Path, tiny_jetmoe: Path) -> None:
    few = ["--max-samples", 10, "--max-length", 16, "--output", tmp_path]
    started("run_domain_profiles.py", "--models", f"jet={tiny_jetmoe}", "--domains", "math", "prose=general", *few)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    pairs = {f"routing_stats_jet_{d}.{suffix}" for d in ("math", "prose") for suffix in ("json", "safetensors")}
    assert names == pairs | {"profiles/jet/profile.json", "profiles/jet/profile.csv"}
    profile = json.loads((tmp_path / "profiles" / "jet" / "profile.json").read_text())
    assert [d["name"] for d in profile["models"][0]["domains"]] == ["math", "prose"]


@pytest.mark.slow
def test_jetmoe_says_its_memory_beforehand(tmp_path: Path, tiny_jetmoe: Path) -> None:
    out = tmp_path / "jet.json"
    said = started(
        "run_jetmoe_mac.py", "--model", tiny_jetmoe, "--max-samples", 10, "--max-length", 16, "--output", out
    )
    assert "0.00 GB of weights at 4 bit" in said.stderr
    assert json.loads(out.read_text())["model"]["weight_bits"] == 4
    error = run("run_jetmoe_mac.py", "--bits", 16, "--memory", 24, "--output", tmp_path / "no.json", code=1).stderr
    assert "17.04 GB of weights at 16 bit, of 16.0 of 24.0 GB" in error
    assert "Error: The weights do not fit" in error


@pytest.mark.parametrize("script", ["run_domain_profiles.py", "make_results.py"])
def test_scripts_explain_themselves(script: str) -> None:
    assert "python scripts/" in started(script, "--help").stdout


# -- two runs of the same tokens -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces of the embedded model: plain and at 4 bit on maths, plain on code."""
    pytest.importorskip("mlx.core", reason="needs MLX")
    from mlx_moebench import analyze

    folder = tmp_path_factory.mktemp("traces")
    for name, dataset, bits in (("plain", "math", None), ("four", "math", 4), ("code", "code", None)):
        settings: dict[str, Any] = {"max_samples": 12, "max_length": 24, "plan": PLAN, "bits": bits}
        analyze(None, dataset, output=folder / f"{name}.json", trace=folder / name, **settings)
    return folder


def test_overlap_of_a_trace_with_itself_is_whole(traces: Path) -> None:
    found = selection_overlap(traces / "plain", traces / "plain", PLAN)["summary"]["mlp"]
    assert [found[name]["value"] for name in ("routing_overlap", "exact_set_rate", "top1_flip")] == [1, 1, 0]
    assert found["exact_set_rate"]["low"] is None, "12 texts do not say that it is 1 in all texts"
    assert found["top1_flip"]["reason"] == "it is 0 in all 12 sequences, and resampling them cannot leave 0"


def test_texts_that_occur_twice_are_one_in_an_overlap(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs MLX")
    from mlx_moebench import analyze

    reports = []
    lines = [json.dumps({"text": f"{n} apples and {3 * n} pears are {4 * n} of them."}) for n in range(12)]
    for name, texts in (("once", lines), ("twice", lines * 2)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(texts))
        for bits in (None, 4):
            folder = tmp_path / f"{name}_{bits}"
            analyze(None, tmp_path / f"{name}.jsonl", output=folder / "o", trace=folder / "t", bits=bits, plan=PLAN)
        reports.append(selection_overlap(*(tmp_path / f"{name}_{bits}" / "t" for bits in (None, 4)), PLAN))
    once, twice = reports
    assert (once["repeated_sequences"], twice["repeated_sequences"], twice["n_sequences"]) == (0, 12, 24)
    for a, b in zip(once["routers"], twice["routers"], strict=True):
        for end in ("value", "low", "high"):
            assert a["routing_overlap"][end] == pytest.approx(b["routing_overlap"][end])


def test_overlap_is_that_of_the_sets(traces: Path) -> None:
    from mlx_moebench.data.trace import Trace

    found = selection_overlap(traces / "plain", traces / "four", PLAN)
    sides = [next(Trace(traces / name).shards()) for name in ("plain", "four")]
    for router in found["routers"]:
        name = f"layer.{router['layer']}.{router['router']}.experts"
        rows = list(zip(*(side.arrays[name].tolist() for side in sides), strict=True))
        shared = [len({*a} & {*b}) / 2 for a, b in rows]
        assert router["routing_overlap"]["value"] == pytest.approx(np.mean(shared))
        assert router["exact_set_rate"]["value"] == pytest.approx(np.mean([s == 1 for s in shared]))
        assert router["top1_flip"]["value"] == pytest.approx(np.mean([a[0] != b[0] for a, b in rows]))
        assert router["routing_overlap"]["low"] <= router["routing_overlap"]["value"] <= 1
        assert router["chance"] == 2 / 16
    means = [router["routing_overlap"]["value"] for router in found["routers"]]
    assert found["summary"]["mlp"]["routing_overlap"]["value"] == pytest.approx(np.mean(means))
    assert found["n_sequences"] == 12


def test_traces_of_other_tokens_or_routers_are_refused(traces: Path, tmp_path: Path, tiny_jetmoe: Path) -> None:
    from mlx_moebench import analyze

    with pytest.raises(TraceError, match="not of the same tokens"):
        selection_overlap(traces / "plain", traces / "code", PLAN)
    analyze(tiny_jetmoe, "math", output=tmp_path / "j.json", trace=tmp_path / "j", max_samples=2, plan=PLAN)
    with pytest.raises(TraceError, match="different routers"):
        selection_overlap(traces / "plain", tmp_path / "j", PLAN)
