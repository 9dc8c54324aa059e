"""Stats pairs on disk: round trips, damage, a report without its sums, a full disk."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_reference import assert_same, make_stats, random_routing, reseal, validate

from mlx_moebench import RoutingStats, files
from mlx_moebench.errors import StatsError
from mlx_moebench.pair.storage import check_writable, pair_paths, read_report
from mlx_moebench.routing import Plan, RouterSpec, Sums, tally

PLAN = Plan(resamples=200)


def test_round_trip(tmp_path: Path) -> None:
    specs = (
        RouterSpec(0, 0, "attention", 16, 1, "softmax_then_topk_derived"),
        RouterSpec(0, 0, "mlp", 4, 4, "sigmoid_normalised", 4, ("ffn", "ffn", "zero", "copy"), (1, -1, 1, 1)),
    )
    stats = make_stats(specs=specs, tau=0.3, collapse_on="top_share_top1", phase="decode")
    report_path, sums_path = stats.save(tmp_path / "deep" / "run", PLAN)
    assert (report_path.name, sums_path.name) == ("run.json", "run.safetensors")
    for name in (report_path, sums_path, tmp_path / "deep" / "run"):
        again = RoutingStats.load(name)
        assert_same(stats, again)
        assert again.environment == stats.environment
    saved = json.loads(report_path.read_text())
    assert saved.pop("sums_sha256")
    assert saved.pop("seal")
    assert again.report(PLAN) == saved == stats.report(PLAN)
    validate(read_report(sums_path))
    again.save(tmp_path / "twice", PLAN)
    assert (tmp_path / "twice.safetensors").read_bytes() == sums_path.read_bytes()


def test_loaded_shards_merge_to_the_whole(tmp_path: Path) -> None:
    make_stats(range(6)).save(tmp_path / "a", PLAN)
    make_stats(range(6, 12)).save(tmp_path / "b", PLAN)
    merged = RoutingStats.merge([RoutingStats.load(tmp_path / "b"), RoutingStats.load(tmp_path / "a")])
    assert_same(merged, make_stats(range(12)))


def test_counts_alone_round_trip(tmp_path: Path) -> None:
    # Counts imported without logits: NaN sums stay NaN, in the file and after it.
    stats = RoutingStats([RouterSpec(0, 0, "mlp", 4, 2)], sources={"c": {"name": "counts"}})
    counts = np.array([[4, 3, 2, 1], [1, 2, 3, 4]])
    sums = Sums.from_counts(counts, [5, 5], 2, [[3, 2, 0, 0], [0, 0, 2, 3]])
    stats.add_sums(0, [("c", 0), ("c", 1)], sums, np.zeros((4, 4)))
    stats.save(tmp_path / "c", PLAN)
    again = RoutingStats.load(tmp_path / "c")
    assert_same(stats, again)
    assert math.isnan(again.values(0)["mean_entropy"])
    assert again.values(0)["top_share_token"] == 0.5


def test_undeclared_sources_round_trip(tmp_path: Path) -> None:
    stats = RoutingStats([RouterSpec(0, 0, "mlp", 6, 2)])
    stats.add(0, [("y", 0), ("x", 3)], tally(random_routing(0, (2, 4))))
    stats.save(tmp_path / "s", PLAN)
    assert_same(RoutingStats.load(tmp_path / "s"), stats)


def test_names_of_a_pair() -> None:
    for name in ("a/olmoe-0.5", "a/olmoe-0.5.json", "a/olmoe-0.5.safetensors"):
        assert pair_paths(Path(name)) == (Path("a/olmoe-0.5.json"), Path("a/olmoe-0.5.safetensors"))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(StatsError, match=r"No stats pair at .*x: neither x.json nor x.safetensors exists"):
        RoutingStats.load(tmp_path / "x")
    with pytest.raises(StatsError, match=r"Cannot read .*x.json: No such file"):
        read_report(tmp_path / "x")


@pytest.mark.parametrize("keep", [0, 4, 20, 500, -1])
def test_truncated_sums(tmp_path: Path, keep: int) -> None:
    _, path = make_stats(range(3)).save(tmp_path / "x", PLAN)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StatsError, match="damaged or from another version"):
        RoutingStats.load(path)


def test_foreign_files(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(StatsError, match="not routing statistics"):
        RoutingStats.load(tmp_path / "weights.safetensors")
    save_file({"w": np.zeros(3)}, tmp_path / "w.safetensors", {"mlx_moebench.routing_stats": "{}"})
    with pytest.raises(StatsError, match="damaged or from another version"):
        RoutingStats.load(tmp_path / "w.safetensors")
    for text, message in (("{", "is not JSON"), ("[1]", "not a routing report"), ('{"a": 1}', "not a routing report")):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(StatsError, match=message):
            read_report(tmp_path / "r.json")


def test_the_report_alone(tmp_path: Path) -> None:
    stats = make_stats()
    report_path, sums_path = stats.save(tmp_path / "x", PLAN)
    whole = read_report(report_path)
    sums_path.unlink()
    alone = read_report(sums_path)
    validate(alone)
    intervals = ("ci", "token_share")
    for before, after in zip(whole["routers"], alone["routers"], strict=True):
        for key in before.keys() | after.keys():
            assert key in intervals or before[key] == after[key]
        assert set(after["ci"]) == set(before["ci"])
        for ci in (*after["ci"].values(), after["token_share"]):
            assert (ci["low"], ci["high"]) == (None, None)
            assert ci["reason"] == "x.safetensors with the sums is missing"
    for name, entry in alone["summary"].items():
        assert entry["value"] == whole["summary"][name]["value"]
        assert entry["low"] is None
    with pytest.raises(StatsError, match=r"x.safetensors is not beside .*x.json"):
        RoutingStats.load(report_path)


@pytest.mark.parametrize("method", ["_write", "replace"])
@pytest.mark.parametrize("fails_on", [1, 2])
def test_a_full_disk_keeps_the_old_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, fails_on: int
) -> None:
    paths = make_stats(range(3)).save(tmp_path / "x", PLAN)
    old = {path: path.read_bytes() for path in paths}
    owner = files if method == "_write" else Path
    real, calls = getattr(owner, method), []

    def refuse(self: Any, *arguments: Any) -> Any:
        calls.append(self)
        if len(calls) == fails_on:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments)

    monkeypatch.setattr(owner, method, refuse)
    with pytest.raises(StatsError, match=r"Cannot write .*: No space left on device"):
        make_stats(range(4)).save(tmp_path / "x", PLAN)
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == sorted(paths), "no temporary file is left"
    assert RoutingStats.load(paths[0]).clusters
    if method == "_write" or fails_on == 1:
        assert {path: path.read_bytes() for path in paths} == old
    else:
        # Renaming is the last step and needs no space; the sums, from which the report is made, go first.
        assert len(RoutingStats.load(paths[0]).clusters) == 4


def test_check_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "x.json")
    assert list(tmp_path.iterdir()) == [], "asking makes no folder"
    with pytest.raises(StatsError, match="is a folder; name a file in it"):
        check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StatsError, match="Cannot write"):
        check_writable(tmp_path / "file" / "x.json")


def test_a_report_beside_the_sums_of_another_run_is_refused(tmp_path: Path) -> None:
    make_stats().save(tmp_path / "a", PLAN)
    make_stats(rows=range(3, 15)).save(tmp_path / "b", PLAN)
    read_report(tmp_path / "a")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes())
    with pytest.raises(StatsError, match="not the report of"):
        read_report(tmp_path / "a")


NAME = "layer.0.mlp"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{NAME}.p_sum": lambda a: np.where(a == a.max(), np.nan, a)}, "some experts only"),
        ({f"{NAME}.p_sum": lambda a: a - 1e6}, "negative"),
        ({f"{NAME}.scalars": lambda a: a + np.inf}, "infinite"),
        ({f"{NAME}.counts": lambda a: a + 0.5}, "is of float64"),
        ({f"{NAME}.top1_counts": lambda a: a * 100}, "first more often"),
        ({f"{NAME}.pairs": lambda a: a[:1, :1]}, "pairs"),
        ({"clusters.row": lambda a: a * 0}, "twice"),
        ({"clusters.source": lambda a: a - 1}, "no source"),
        ({f"{NAME}.n_tokens": lambda a: a + 1}, "every token"),
    ],
)
def test_sums_that_no_measurement_writes_are_refused(
    tmp_path: Path, change: dict[str, Callable[[np.ndarray], np.ndarray]], words: str
) -> None:
    _, path = make_stats().save(tmp_path / "x", PLAN)
    reseal(path, lambda arrays: arrays.update({key: function(arrays[key]) for key, function in change.items()}))
    with pytest.raises(StatsError, match=words):
        RoutingStats.load(path)


@pytest.mark.parametrize(
    "change", [{"schema_version": "99"}, {"phase": "sometimes"}, {"specs": []}, {"sources": [1]}, {"tau": 7}]
)
def test_facts_that_no_measurement_writes_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    _, path = make_stats().save(tmp_path / "x", PLAN)
    reseal(path, facts=lambda facts: facts.update(change))
    with pytest.raises(StatsError, match="damaged"):
        RoutingStats.load(path)


def test_statistics_made_by_hand_are_read_again(tmp_path: Path) -> None:
    """Nobody has to know the provenance of numbers to save and read them."""
    stats = make_stats(range(12), model={"id": "mine"}, environment={})
    stats.save(tmp_path / "x", PLAN)
    assert read_report(tmp_path / "x")["model"]["id"] == "mine"
