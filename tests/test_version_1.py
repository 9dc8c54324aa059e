"""Files of version 1 read as before.

tests/data/v1 was written by the last version that wrote reports of version 1, for an OLMoE of one layer with random
weights: ``profile --domain math --domain code --max-samples 12 --max-length 32 --resamples 200`` gave profile.json and
the pair of math, stats.json and stats.safetensors, and ``compare`` of both domains gave comparison.json.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlx_moebench import RoutingStats
from mlx_moebench.errors import StatsError
from mlx_moebench.pair.comparison import compare
from mlx_moebench.pair.comparison import of_this_version as comparison_of_this_version
from mlx_moebench.pair.format import checked
from mlx_moebench.pair.profile import of_this_version
from mlx_moebench.pair.storage import read_report
from mlx_moebench.routing import METRICS, Plan
from mlx_moebench.show.export.tidy import to_csv
from mlx_moebench.show.figures import difference_series, distance_chart
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page import build_page

V1 = Path(__file__).parent / "data" / "v1"

pytestmark = pytest.mark.filterwarnings("ignore:.* is unsealed:UserWarning")


def content(name: str) -> Any:
    return json.loads((V1 / name).read_text(encoding="utf-8"))


def test_a_report_is_read_as_it_was_written() -> None:
    """Of one domain; it has no verdict."""
    kept = content("stats.json")
    assert kept["schema_version"] == "1"
    assert "token_share" not in kept["routers"][0]
    assert read_report(V1 / "stats.json") == kept


def test_the_sums_give_the_numbers_of_the_report() -> None:
    """Values, since now corrected, as plug-in ones, and counts. Intervals are those of the version that resamples."""
    kept = content("stats.json")
    report = RoutingStats.load(V1 / "stats.json").report(Plan(**kept["settings"]["ci"]))
    assert report["schema_version"] == "4"
    for key in ("model", "environment", "settings"):
        assert report[key] == kept[key]
    assert report["data"].items() >= kept["data"].items()
    for new, old in zip(report["routers"], kept["routers"], strict=True):
        assert "tied_selections" in METRICS.keys() - old.keys()  # of this version, as others may be that come later
        assert old.keys() < new.keys()
        for name in old.keys() - {"ci"}:
            if name in METRICS:
                assert plugin(new["ci"][name], new[name]) == pytest.approx(old[name], rel=1e-5, abs=1e-9), name
            else:
                assert new[name] == old[name], name
    assert report["summary"].keys() > kept["summary"].keys()
    for name, entry in kept["summary"].items():
        now = report["summary"][name]
        assert plugin(now, now["value"]) == pytest.approx(entry["value"], rel=1e-5, abs=1e-9), name


def plugin(interval: Any, value: float) -> float:
    return float(interval.get("plugin", value))


def test_a_comparison_is_of_its_form() -> None:
    kept = content("comparison.json")
    assert kept["schema_version"] == "1"
    checked("comparison", kept)


def test_a_profile_loses_its_verdicts_and_keeps_its_numbers() -> None:
    kept = content("profile.json")
    assert "verdict" in kept["models"][0]["routers"][0]
    profile = of_this_version(kept)
    checked("profile", profile)
    ((new,), (old,)) = (content["models"][0]["routers"] for content in (profile, kept))
    for name, shares in old["domain_specialisation"]["shares"].items():
        assert new["domain_specialisation"]["shares"][name] == pytest.approx(shares)
    assert new["domain_information"]["value"] == pytest.approx(old["domain_information"]["value"], rel=1e-6)
    assert new["findings"]["word"] is None
    assert {one["answer"] for one in new["findings"]["findings"].values()} == {"open"}


def test_a_report_of_version_2_loses_its_verdict(tmp_path: Path) -> None:
    """Its rule was withdrawn; everything else stays."""
    report = content("stats.json") | {"schema_version": "2"}
    verdict = {"word": "collapsed", "a": 0.5, "b": 0.9, "r": 0.2, "basis": "point"}
    whole = json.loads(json.dumps(report | {"verdicts_by_router": {"mlp": {"collapsed": 1}}}))
    whole["routers"][0]["verdict"] = verdict
    (tmp_path / "stats.json").write_text(json.dumps(whole), encoding="utf-8")
    shutil.copy(V1 / "stats.safetensors", tmp_path)
    assert read_report(tmp_path / "stats.json") == report
    page = build_page(read_inputs([tmp_path / "stats.json"]))
    assert "verdict" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_a_comparison_keeps_its_values_and_no_withdrawn_test() -> None:
    kept, read = content("comparison.json"), comparison_of_this_version(content("comparison.json"))
    for old, new in zip(kept["routers"], read["routers"], strict=True):
        for name in ("load_l1", "load_jsd"):
            distance = new["load"][name]
            assert distance["value"] == distance["plugin"] == old["load"][name]["value"]
            assert old["load"][name]["p"] is not None
            assert (distance["low"], distance["p"], distance["q"]) == (None, None, None)
            assert "compare again" in distance["reason"]
        assert new["effects"]["gini"] == old["effects"]["gini"]
        assert new["effects"]["n90"] == old["effects"]["n90"] | {"p": None, "q": None}
    assert comparison_of_this_version(read | {"schema_version": "2"}) == read | {"schema_version": "2"}
    caption = distance_chart(difference_series(read)).caption
    assert "above 0 in finite samples also without a difference. No intervals: the comparison is from before" in caption


def test_version_1_and_2_compare(tmp_path: Path) -> None:
    RoutingStats.load(V1 / "stats.json").save(tmp_path / "now", Plan(resamples=100))
    assert content("stats.json")["schema_version"] != json.loads((tmp_path / "now.json").read_text())["schema_version"]
    effects = compare(V1 / "stats.json", tmp_path / "now.json", plan=Plan(resamples=100)).to_dict()["overall"]["mlp"]
    assert {effect["effect"] for effect in effects.values()} <= {0.0, None}


def test_the_page_shows_them() -> None:
    inputs = read_inputs([V1 / f"{name}.json" for name in ("stats", "profile", "comparison")])
    assert [run.name for run in inputs.runs] == ["tiny"]
    assert len(inputs.profiles) == len(inputs.comparisons) == 1
    (row,) = (row for row in csv.DictReader(io.StringIO(to_csv(inputs))) if row["metric"] == "gini" and row["layer"])
    (router,) = content("stats.json")["routers"]
    assert [float(row[key]) for key in ("value", "low", "high")] == [router["gini"], *ends(router["ci"]["gini"])]
    page = build_page(inputs)
    for heading in ("Load: which experts work", "Domains", "Two runs compared"):
        assert f'"{heading}"' in page


def ends(interval: dict[str, float]) -> tuple[float, float]:
    return interval["low"], interval["high"]


def test_they_are_said_to_be_unsealed(tmp_path: Path) -> None:
    """Their report tells of changed sums, and nothing of changed numbers in the report."""
    for name in ("stats.json", "stats.safetensors"):
        shutil.copy(V1 / name, tmp_path)
    for name, read in (("stats.json", read_report), ("stats.safetensors", RoutingStats.load)):
        with pytest.warns(UserWarning, match=rf"{name} is unsealed, as an earlier version wrote it"):
            read(tmp_path / name)
    blob = bytearray((tmp_path / "stats.safetensors").read_bytes())
    blob[-1] ^= 1
    (tmp_path / "stats.safetensors").write_bytes(blob)
    for read in (read_report, RoutingStats.load):
        with pytest.raises(StatsError, match=r"is damaged or from another version|not the report of"):
            read(tmp_path / "stats.json")
