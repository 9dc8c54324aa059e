"""Shards and the merging of pairs from the command line."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_reference import make_stats, validate

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.errors import DataError, StatsError
from mlx_moebench.measure import analyze
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.pair.storage import read_report
from mlx_moebench.routing import Plan
from mlx_moebench.routing.parts import completeness, join
from mlx_moebench.routing.sums import FIELDS

PLAN = Plan(resamples=100)
SETTINGS: dict[str, Any] = {"max_samples": 24, "max_length": 24, "plan": PLAN}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Path:
    """``whole``, its shards ``part1`` to ``part3`` in batches of other sizes, and ``code``."""
    folder = tmp_path_factory.mktemp("merge")
    analyze(checkpoint, "math", output=folder / "whole", batch_size=4, **SETTINGS)
    for i in (1, 2, 3):
        analyze(checkpoint, "math", output=folder / f"part{i}", shard=f"{i}/3", batch_size=i, **SETTINGS)
    analyze(checkpoint, "code", output=folder / "code", batch_size=4, **SETTINGS)
    return folder


def merge(*arguments: object) -> None:
    main(["merge", *map(str, arguments), "--resamples", "100"])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        merge(*arguments)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    return error


def test_merged_shards_equal_one_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["part3.json", "part1.safetensors", "part2", "part2.json"]  # both names of a pair are one pair
    merge(*(folder / name for name in names), "-o", tmp_path / "all.json")
    printed = capsys.readouterr().out
    assert "moebench-nano on math: 24 sequences" in printed
    assert f"Wrote {tmp_path / 'all.json'}" in printed.replace("\n", "")
    assert "unfinished" not in printed
    whole, merged = RoutingStats.load(folder / "whole"), RoutingStats.load(tmp_path / "all")
    assert merged.clusters == whole.clusters
    for number in range(len(whole.specs)):
        for name in FIELDS:
            a, b = getattr(whole.sums(number), name), getattr(merged.sums(number), name)
            if a.dtype.kind == "i":
                np.testing.assert_array_equal(a, b)
            else:
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(whole.pairs(number), merged.pairs(number))
    report, single = read_report(tmp_path / "all.json"), read_report(folder / "whole")
    validate(report)
    data, other = report["data"], single["data"]
    assert data["complete"] is other["complete"] is True
    assert data["shards"] is other["shards"] is None
    assert data["truncated_sequences"] == other["truncated_sequences"] > 0
    assert [(part["shard"], part["batch_size"]) for part in data["parts"]] == [("1/3", 1), ("2/3", 2), ("3/3", 3)]
    assert {k: v for k, v in data.items() if k != "parts"} == {k: v for k, v in other.items() if k != "parts"}
    assert report["environment"]["command"].startswith("mlx-moebench")


def test_missing_shards_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merge(folder / "part1", folder / "part3", "-o", tmp_path / "some")
    assert "Unfinished: shard 1/3, 3/3 of math, 16 of 24 documents" in capsys.readouterr().out.replace("\n", " ")
    data = read_report(tmp_path / "some")["data"]
    assert (data["complete"], data["shards"]) == (False, ["1/3", "3/3"])
    merge(tmp_path / "some", folder / "part2", "-o", tmp_path / "all")
    data = read_report(tmp_path / "all")["data"]
    assert (data["complete"], data["shards"]) == (True, None)
    assert [row for _, row in RoutingStats.load(folder / "part2").clusters] == list(range(1, 24, 3))


def test_data_sets(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merge(folder / "whole", folder / "code", "-o", tmp_path / "both", "--json", "--seed", "5", "--ci", "percentile")
    report = json.loads(capsys.readouterr().out)
    validate(report)
    assert report == read_report(tmp_path / "both")
    assert report["data"]["complete"] is True
    assert {source["name"] for source in report["data"]["sources"]} == {"math", "code"}
    assert report["settings"]["ci"] == {"method": "percentile", "resamples": 100, "seed": 5, "level": 0.95}
    merge(folder / "part1", folder / "code", "-o", tmp_path / "one")
    assert read_report(tmp_path / "one")["data"]["complete"] is False
    assert "Unfinished: shard 1/3 of math" in capsys.readouterr().out.replace("\n", " ")


def test_nothing_counts_twice(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".json", ".safetensors"):
        shutil.copy(folder / f"part1{suffix}", tmp_path / f"copy{suffix}")
    assert "Row 0 of math (8 rows in all)" in fails(capsys, folder / "part1", tmp_path / "copy", "-o", tmp_path / "x")
    assert "given twice" in fails(capsys, folder / "part1", folder / "part1", "-o", tmp_path / "x")
    assert "in two of" in fails(capsys, folder / "whole", folder / "part2", "-o", tmp_path / "x")
    assert "one of the pairs" in fails(capsys, folder / "part1", "-o", folder / "part1.json")
    assert not (tmp_path / "x.json").exists()


def test_other_choices_of_documents_are_refused(
    folder: Path, tmp_path: Path, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    few = SETTINGS | {"max_samples": 6}
    analyze(checkpoint, "math", output=tmp_path / "few", shard="2/3", **few)
    assert "max_samples 24 and 6" in fails(capsys, folder / "part1", tmp_path / "few", "-o", tmp_path / "x")
    assert "No stats pair" in fails(capsys, tmp_path / "nowhere", "-o", tmp_path / "x")


@pytest.mark.parametrize("shard", ["0/4", "5/4", "x", "1", "1/0", "-1/4", "1/4/2", "", "/"])
def test_impossible_shards(shard: str, checkpoint: Checkpoint) -> None:
    with pytest.raises(DataError, match=f"There is no shard '{shard}'"):
        analyze(checkpoint, "math", shard=shard)


def test_empty_shard(checkpoint: Checkpoint) -> None:
    with pytest.raises(DataError, match="Shard 4/4 is empty, there are only 3 documents"):
        analyze(checkpoint, "math", max_samples=3, shard="4/4")


def test_the_default_output_of_a_shard_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["analyze", "--max-samples", "4", "--max-length", "16", "--shard", "2/2", "--quiet"])
    assert (tmp_path / "routing_stats_moebench-nano_math_shard-2-of-2.json").exists()
    assert "Unfinished: shard 2/2" in capsys.readouterr().out


def test_facts_join_in_any_order_and_statistics_without_parts_say_nothing() -> None:
    def facts(shard: str | None, documents: int, done: int = 1) -> dict[str, Any]:
        part = {"shard": shard, "documents": documents, "batches": 1, "batches_done": done}
        return {"documents": 9, "truncated_sequences": 2, "parts": [part]}

    a, b, c = facts("1/3", 3), facts("2/3", 3), facts("3/3", 3)
    assert join(join(a, b), c) == join(c, join(b, a))
    assert completeness(join(join(a, b), c)) == {"complete": True, "shards": None}
    assert completeness(join(join(a, b), facts("3/3", 3, done=0))) == {"complete": False, "shards": None}
    assert completeness(join(a, facts(None, 9, done=0))) == {"complete": False, "shards": ["1/1", "1/3"]}
    assert join(a, b)["truncated_sequences"] == 4
    assert completeness({"name": "live"}) == {}
    assert "complete" not in make_stats().report(PLAN)["data"]


def test_models_that_differ_are_told_apart_by_what_differs() -> None:
    a, b = make_stats(range(2)), make_stats(range(2, 4))
    b.model["weight_bits"] = 4
    with pytest.raises(StatsError) as caught:
        RoutingStats.merge([a, b])
    assert str(caught.value).endswith(
        f"their models differ: weight_bits {a.model.get('weight_bits')} and weight_bits 4."
    )


def shards(count: int, rows: int = 3) -> list[RoutingStats]:
    """Statistics of 1/count to count/count of one data set."""
    return [make_stats(range(shard * rows, (shard + 1) * rows)) for shard in range(count)]


@pytest.mark.parametrize("count", [10, 60])
def test_one_pair_is_held_at_a_time_however_many_there_are(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(part.save(tmp_path / f"part{n:02d}", PLAN)[1]) for n, part in enumerate(shards(count))]
    alive: weakref.WeakSet[RoutingStats] = weakref.WeakSet()
    most, load = [0], RoutingStats.load

    def counted(path: str | Path) -> RoutingStats:
        most[0] = max(most[0], len(alive))
        alive.add(stats := load(path))
        return stats

    monkeypatch.setattr(RoutingStats, "load", staticmethod(counted))
    gc.disable()  # what is let go of is gone at once, or is counted
    try:
        merge(*names, "-o", tmp_path / "all.json", "--quiet")
    finally:
        gc.enable()
    assert most == [0], "pairs that were still held when another was read"
    assert len(load(tmp_path / "all").clusters) == 3 * count


def test_a_tree_of_merges_is_one_merge_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(part.save(tmp_path / f"part{n:02d}", PLAN)[1]) for n, part in enumerate(shards(11))]
    merge(*names, "-o", tmp_path / "flat", "--quiet")
    for number, first in enumerate(range(0, 11, 4)):
        merge(*names[first : first + 4], "-o", tmp_path / f"level{number}", "--quiet")
    merge(*(tmp_path / f"level{n}" for n in (2, 0, 1)), "-o", tmp_path / "tree", "--quiet")  # in any order
    flat, tree = RoutingStats.load(tmp_path / "flat"), RoutingStats.load(tmp_path / "tree")
    assert flat.clusters == tree.clusters
    for number in range(len(flat.specs)):
        for name in FIELDS:  # no two sums of fractions are added, so these are the same, too
            np.testing.assert_array_equal(getattr(flat.sums(number), name), getattr(tree.sums(number), name))
        np.testing.assert_array_equal(flat.pairs(number), tree.pairs(number))
    one, other = (read_report(tmp_path / name) for name in ("flat", "tree"))
    assert one["routers"] == other["routers"]
    assert one["summary"] == other["summary"]


def test_what_is_made_one_by_one_is_merged_and_checked() -> None:
    whole = RoutingStats.merge(iter(shards(4)))
    assert whole.clusters == make_stats(range(12)).clusters
    with pytest.raises(StatsError, match="There is nothing to merge"):
        RoutingStats.merge(iter(()))
    with pytest.raises(StatsError, match="would count twice"):
        RoutingStats.merge(iter([*shards(4), *shards(1)]))
