"""`compare`: what is refused and why, who is paired with whom, what is left out, and what a report alone gives."""

from __future__ import annotations

import io
import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from rich.console import Console
from routing_reference import make_stats

import mlx_moebench
from mlx_moebench import RoutingStats
from mlx_moebench.cli.compare import KINDS as CLI_KINDS
from mlx_moebench.errors import MoebenchError, StatsError
from mlx_moebench.measure import analyze
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.pair import Comparison, compare
from mlx_moebench.pair.seal import sealed_text
from mlx_moebench.routing import METRICS, Plan, RouterSpec, Sums
from mlx_moebench.routing.comparison.comparability import OBSTACLES
from mlx_moebench.routing.comparison.differences import ROUNDING
from mlx_moebench.show.export.summary import to_markdown
from mlx_moebench.show.figures import answer, change_heat, difference_series, distance_chart, effect_chart
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.plots.comparison import plot_effects
from mlx_moebench.show.tables.comparison import print_comparison

SCHEMA = json.loads(files("mlx_moebench.routing").joinpath("schema/comparison.schema.json").read_text("utf-8"))
PLAN = Plan(resamples=200)
COUNTED = ("load", "top_share", "top_load", "max_violation", "cv", "gini", "n_eff", "n90", "dead_experts", "eae")
"""Beginnings of the names of metrics that depend on counts alone."""


def check(found: Comparison) -> dict[str, Any]:
    """The comparison as a reader of the JSON sees it, valid against the schema."""
    report = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    jsonschema.Draft202012Validator(SCHEMA).validate(report)
    return report  # type: ignore[no-any-return]


def plain(rows: range = range(12), **settings: Any) -> RoutingStats:
    return make_stats(rows, **settings)


# -- the same twice ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Path:
    """``one`` and ``other``: the same measurement in batches of other sizes; ``code``: other text."""
    folder = tmp_path_factory.mktemp("pairs")
    settings: dict[str, Any] = {"max_samples": 16, "max_length": 48, "plan": PLAN}
    analyze(checkpoint, "math", output=folder / "one", batch_size=5, **settings)
    analyze(checkpoint, "math", output=folder / "other", batch_size=1, **settings)
    analyze(checkpoint, "code", output=folder / "code", batch_size=5, **settings)
    return folder


def test_a_model_with_itself_is_exactly_nothing(pairs: Path) -> None:
    found = compare(pairs / "one", pairs / "one.json", plan=PLAN)
    assert found.design == {
        "paired": True,
        "sequences": {"a": 16, "b": 16, "shared": 16},
        "compared": {"a": 16, "b": 16},
        "repeated": {"a": 0, "b": 0},
    }
    for row in (*found.routers, *found.overall.values()):
        for name, e in row.items():
            assert e.effect == 0, name
            if METRICS[name.removeprefix("peak_")].interval != "none":
                assert (e.interval.low, e.interval.high, e.p) == (0, 0, 1), name
    assert (found.allowed, found.notes) == ([], [])
    report = check(found)
    assert report["schema_version"] == "2"
    nothing = {"value": 0, "low": 0, "high": 0, "plugin": 0, "bias": 0, "p": 1, "q": 1, "detectable": 0}
    assert report["routers"][0]["load"]["load_l1"] == nothing | {"method": "random halves of the sequences"}


def test_another_batch_size_is_nothing_but_rounding(pairs: Path) -> None:
    found = compare(pairs / "one", pairs / "other", plan=PLAN)
    for row in found.routers:
        for name, e in row.items():
            scale = max(1.0, abs(e.a), abs(e.b))
            assert abs(e.effect) <= (0 if name.startswith(COUNTED) and name != "load_gap" else ROUNDING * scale), name
            assert e.p in (1, None)


def test_two_texts(pairs: Path) -> None:
    with pytest.raises(StatsError, match=r"other data sets \(math and code\). To compare .* --allow data\.$"):
        compare(pairs / "one", pairs / "code")
    found = compare(pairs / "one", pairs / "code", allow=["data"], plan=PLAN)
    assert found.allowed == [("data", "math and code")]
    assert found.design["paired"] is False
    report = check(found)
    assert report["a"]["model"]["id"] == report["b"]["model"]["id"] == "moebench-nano"
    assert report["b"]["data"]["name"] == "code"
    one, code = RoutingStats.load(pairs / "one"), RoutingStats.load(pairs / "code")
    for number, row in enumerate(report["routers"]):
        for name, e in row["effects"].items():
            assert e["effect"] == pytest.approx(code.values(number)[name] - one.values(number)[name], abs=1e-12)
            if e["low"] is not None:
                assert e["low"] <= e["effect"] <= e["high"]
                assert (e["detectable"] >= 0) == (e["p"] is not None)
        for distance in (row["load"]["load_l1"], row["load"]["load_jsd"]):
            assert 0 <= distance["low"] <= distance["value"] <= distance["high"]
            assert distance["value"] <= distance["plugin"]
            assert (distance["low"] > 0) == (distance["p"] <= 0.05)
        share = np.array(row["load"]["token_share_change"]["values"])
        assert share.sum() == pytest.approx(0, abs=1e-12)
    mean = np.mean([row["effects"]["gini"]["effect"] for row in report["routers"]])
    assert report["overall"]["mlp"]["gini"]["effect"] == pytest.approx(mean)


def test_the_package_offers_it(pairs: Path, tmp_path: Path) -> None:
    found = mlx_moebench.compare(RoutingStats.load(pairs / "one"), pairs / "other", plan=PLAN)
    assert isinstance(found, mlx_moebench.Comparison)
    assert repr(found) == "Comparison(moebench-nano on math minus moebench-nano on math: 6 routers, paired)"
    assert (found.a["file"], found.b["file"]) == ("A", str(pairs / "other.json"))
    frame = found.to_dataframe()
    assert len(frame) == 6 * (len(METRICS) + 2)
    assert set(frame["metric"]) == {*METRICS, "load_l1", "load_jsd"}
    assert (frame.loc[frame["metric"] == "gini", "effect"] == 0).all()
    assert json.loads(found.save(tmp_path / "deep" / "c.json").read_text())["kind"] == "comparison"


# -- what is refused -----------------------------------------------------------------------------------------------


def specs(**changes: Any) -> tuple[RouterSpec, ...]:
    fields = {"router": "mlp", "n_experts": 8, "top_k": 2} | changes
    return tuple(RouterSpec(layer=layer, moe_layer=layer, **fields) for layer in range(3))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("data", {"sha": "b" * 64}, "other data sets (data-a and data-b)"),
    ("reading", {"max_length": 99}, "read their text otherwise (max_length 64 and 99)"),
    ("reading", {"reading": {"unit": "blank"}}, "read their text otherwise (unit row and blank)"),
    ("reading", {"reading": {"long": "windows"}}, "read their text otherwise (long truncate and windows)"),
    ("phase", {"phase": "decode"}, "one measured prompts, the other generated tokens (prefill and decode)"),
    ("routers", {"specs": specs()[:2]}, "not the same ones (3 and 2, of which 2 have a namesake)"),
    ("experts", {"specs": specs(n_experts=6)}, "other limits (layer.0.mlp: 8 and 6)"),
    ("top-k", {"specs": specs(top_k=3)}, "choose other numbers of experts, so that shares have other limits"),
    ("distribution", {"specs": specs(distribution="sigmoid_normalised")}, "softmax and sigmoid_normalised"),
    ("collapse", {"tau": 0.5}, "flags mean something else (top_share_token > 0.4 and top_share_token > 0.5)"),
    ("collapse", {"collapse_on": "top_share_top1"}, "top_share_top1 > 0.4"),
]


@pytest.mark.parametrize(("kind", "change", "words"), REFUSED)
def test_what_is_not_comparable_is_refused_and_can_be_allowed(kind: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(StatsError) as refused:
        compare(plain(), plain(**change), allow=[other for other in OBSTACLES if other != kind])
    assert words in str(refused.value)
    assert str(refused.value).endswith(f"To compare them anyway: --allow {kind}.")
    found = compare(plain(), plain(**change), allow=[kind], plan=PLAN)
    assert {one for one, _ in found.allowed} == {kind}
    check(found)


def test_all_reasons_are_named_at_once() -> None:
    with pytest.raises(StatsError) as refused:
        compare(plain(), plain(sha="b" * 64, phase="decode", tau=0.5))
    assert str(refused.value).endswith("--allow data --allow phase --allow collapse.")


def test_kinds() -> None:
    assert tuple(OBSTACLES) == CLI_KINDS
    with pytest.raises(StatsError, match=r"nothing of the kind 'dta' to allow. Did you mean 'data'\?"):
        compare(plain(), plain(), allow=["dta"])


def test_a_bos_token_is_one_reading_whatever_its_id() -> None:
    sides = [plain(), plain(), plain()]
    for stats, bos in zip(sides, ("first, id 1, counted", "first, id 50279, counted", "none"), strict=True):
        next(iter(stats.sources.values()))["bos"] = bos
    compare(sides[0], sides[1], plan=PLAN)
    with pytest.raises(StatsError, match="bos first and none"):
        compare(sides[0], sides[2])


def test_nothing_in_common_and_nothing_at_all() -> None:
    attention = specs(router="attention")
    with pytest.raises(StatsError, match="No router of one side has a namesake"):
        compare(plain(), plain(specs=attention), allow=["routers"])
    with pytest.raises(StatsError, match="B holds no sequence"):
        compare(plain(), RoutingStats(specs()))
    with pytest.raises(MoebenchError, match="resamples sequences, not layers"):
        compare(plain(), plain(), plan=Plan("layer"))


# -- who is compared with whom -------------------------------------------------------------------------------------


def test_sequences_that_one_side_lacks_are_left_out() -> None:
    found = compare(plain(range(20)), plain(range(4, 22)), plan=PLAN)
    assert found.design == {
        "paired": True,
        "sequences": {"a": 20, "b": 18, "shared": 16},
        "compared": {"a": 16, "b": 16},
        "repeated": {"a": 0, "b": 0},
    }
    assert found.notes == [
        "4 sequences of A that the other side lacks are left out.",
        "2 sequences of B that the other side lacks are left out.",
    ]
    assert all(e.effect == 0 for row in found.routers for e in row.values())


def test_few_shared_sequences_are_not_paired() -> None:
    found = compare(plain(range(20)), plain(range(15, 35)), plan=PLAN)
    assert found.design["paired"] is False
    assert found.design["compared"] == {"a": 20, "b": 20}
    assert found.notes == ["5 sequences are in both sides, too few to pair; unpaired intervals ignore that."]


def test_parts_of_one_data_set_are_independent() -> None:
    found = compare(plain(range(15)), plain(range(15, 30)), plan=PLAN)
    assert (found.design["paired"], found.allowed, found.notes) == (False, [], [])


def test_what_was_watched_live_is_never_paired() -> None:
    sides = [plain(sha="live"), plain(sha="live")]
    for stats in sides:
        stats.sources = {"live": {"name": "live"}}
    found = compare(*sides, plan=PLAN)
    assert found.design["paired"] is False
    assert "nothing says which texts ran" in found.notes[0]


def test_two_phases_are_paired_by_sequence() -> None:
    found = compare(plain(), plain(phase="decode"), allow=["phase"], plan=PLAN)
    assert found.design["paired"]


def test_other_tokenizers_and_machines_are_noted() -> None:
    other = plain(
        length=17, model={"id": "y", "dtype": "bfloat16", "warnings": ["Low."]}, environment={"device": "gpu"}
    )
    notes = compare(plain(), other, plan=PLAN).notes
    assert "12 of 12 shared sequences have other numbers of tokens: other tokenizers, or ends." in notes
    assert "They computed otherwise: dtype float32 and bfloat16." in notes
    assert "They ran elsewhere, which rounds otherwise: device cpu and gpu." in notes
    assert "B: Low." in notes


def test_kinds_of_routers_are_never_pooled() -> None:
    both = tuple(RouterSpec(layer, layer, kind, 8, 2) for layer in range(2) for kind in ("attention", "mlp"))
    found = compare(plain(specs=both), plain(specs=both, sha="b" * 64), allow=["data"], plan=PLAN)
    assert list(found.overall) == ["attention", "mlp"]
    for kind, effects in found.overall.items():
        own = [row["gini"].effect for s, row in zip(found.specs, found.routers, strict=True) if s.router == kind]
        assert effects["gini"].effect == pytest.approx(np.mean(own))
        p = sorted(row["gini"].p for s, row in zip(found.specs, found.routers, strict=True) if s.router == kind)
        q = [row["gini"].q for s, row in zip(found.specs, found.routers, strict=True) if s.router == kind]
        assert max(q) == pytest.approx(p[1])  # adjusted over two routers, not four
    check(found)


def test_routers_are_matched_by_name() -> None:
    found = compare(plain(), plain(specs=specs()[1:]), allow=["routers"], plan=PLAN)
    assert [spec.layer for spec in found.specs] == [1, 2]


# -- a report without its sums -------------------------------------------------------------------------------------


def test_a_report_alone_gives_values_and_the_reason(pairs: Path, tmp_path: Path) -> None:
    shutil.copy(pairs / "code.json", tmp_path / "code.json")
    found = compare(pairs / "one", tmp_path / "code", allow=["data"], plan=PLAN)
    whole = compare(pairs / "one", pairs / "code", allow=["data"], plan=PLAN)
    reason = "code.safetensors with the sums per sequence is not beside code.json"
    assert found.design == {
        "paired": None,
        "sequences": {"a": 16, "b": 16, "shared": None},
        "compared": None,
        "repeated": None,
    }
    assert found.notes[0] == f"{reason}: values, but no intervals."
    for alone, full in zip(found.routers, whole.routers, strict=True):
        assert alone.keys() == full.keys()
        for name, e in alone.items():
            assert e.effect == pytest.approx(full[name].effect, abs=1e-8)
            assert (e.interval.low, e.interval.reason, e.p, e.q) == (None, reason, None, None)
    assert found.overall["mlp"]["peak_top_share_token"].effect == whole.overall["mlp"]["peak_top_share_token"].effect
    for load, full_load in zip(found.loads, whole.loads, strict=True):
        assert load.change == pytest.approx(full_load.change)
        assert load.distances["load_l1"].value == pytest.approx(full_load.distances["load_l1"].plugin)
        assert load.band is None
    assert found.flags == whole.flags
    check(found)


def test_files_that_are_none(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(StatsError, match="No stats pair at"):
        compare(pairs / "one", tmp_path / "nowhere")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(StatsError, match="JSON, but not a routing report"):
        compare(tmp_path / "other.json", pairs / "one")
    report = json.loads((pairs / "one.json").read_text())
    del report["routers"][0]["selection_counts"]
    (tmp_path / "damaged.json").write_text(sealed_text(report))
    with pytest.raises(StatsError, match="damaged or from another version"):
        compare(tmp_path / "damaged.json", pairs / "one")


# -- texts, sizes and counts ---------------------------------------------------------------------------------------


def with_texts(stats: RoutingStats, texts: list[int]) -> RoutingStats:
    stats.texts = dict(zip(stats.clusters, texts, strict=True))
    return stats


@pytest.mark.parametrize("shared", [True, False])
def test_a_text_that_occurs_twice_counts_once(shared: bool) -> None:
    def sides(texts: list[int]) -> list[RoutingStats]:
        others = range(0 if shared else 30, 20 if shared else 50)
        return [with_texts(plain(rows), texts) for rows in (range(20), others)]

    found = compare(*sides([*range(1, 20), 1]), plan=PLAN)
    assert found.design["paired"] is shared
    assert found.design["repeated"] == {"a": 1, "b": 1}
    sentence = "repeats an earlier one token for token; all copies of a text are one unit in intervals."
    of = ["1 sequence"] if shared else ["1 sequence of A", "1 sequence of B"]
    assert found.notes == [f"{which} {sentence}" for which in of]
    assert found.overall["mlp"]["gini"].interval.low is not None
    check(found)
    few = compare(*sides([row % 9 + 1 for row in range(20)]), plan=PLAN)
    assert few.notes[0].startswith("11 sequences repeat" if shared else "11 sequences of A repeat")
    assert few.overall["mlp"]["gini"].interval.reason == (
        f"{'' if shared else 'A: '}20 sequences hold 9 texts: 10 or more are needed"
    )


def test_copies_of_every_text_do_not_narrow_intervals() -> None:
    def twice(rows: range) -> RoutingStats:
        """The first sequences again under the numbers of others, which are equal to them."""
        once, copy = plain(rows), RoutingStats(specs(), sources=plain(rows).sources, model=plain(rows).model)
        for number in range(3):
            sums, n = once.sums(number), len(rows)
            for start in (0, 1000):
                copy.add_sums(
                    number, [("a" * 64, start + row) for row in rows], sums.take(range(n)), np.zeros((8, 8), int)
                )
        return with_texts(copy, [row % 1000 + 1 for _, row in copy.clusters])

    alone, copied = (compare(kind(range(20)), kind(range(50, 72)), plan=PLAN) for kind in (plain, twice))
    assert copied.design["repeated"] == {"a": 20, "b": 22}
    for one, other in zip(alone.routers, copied.routers, strict=True):
        for name in ("gini", "mean_entropy", "n90"):
            ends = [(e.interval.low, e.interval.high) for e in (one[name], other[name])]
            assert ends[0] == pytest.approx(ends[1]), name


def test_sides_of_other_sizes_are_pointed_out() -> None:
    found = compare(plain(range(12)), plain(range(20, 80)), plan=PLAN)
    assert found.notes == [
        "A has 12 sequences, B 60: by more than a factor of 4; intervals and tests hold for such sides, too."
    ]
    longer = compare(plain(range(12)), plain(range(20, 32), length=70), plan=PLAN)
    assert longer.notes == [
        "A has 16 tokens a sequence, B 72: by more than a factor of 4; intervals and tests hold for such sides, too."
    ]


def counts(seed: int, windows: int = 1, model: str = "x") -> RoutingStats:
    """Counts of two data sets, in so many windows each."""
    rng = np.random.default_rng(seed)
    stats = RoutingStats(specs(distribution=None), model={"id": model, "backend": "counts"})
    for name in "pq":
        stats.sources[name * 64] = {"name": name, "padding": "none", "max_length": None, "bos": None}
        rows = [(name * 64, row) for row in range(windows)]
        for number in range(3):
            even = rng.multinomial(40, np.full(8, 1 / 8), size=windows)
            chosen = np.minimum(even, 20)
            chosen[:, 0] += 40 - chosen.sum(axis=1)
            stats.add_sums(number, rows, Sums.from_counts(chosen, np.full(windows, 20), 2), np.diag(chosen.sum(0)))
    return stats


def test_counts_of_the_same_windows_are_paired() -> None:
    found = compare(counts(0, 8), counts(1, 8, "y"), plan=PLAN)
    assert found.design["paired"]
    assert found.design["compared"] == {"a": 16, "b": 16}
    assert found.overall["mlp"]["gini"].interval.low is not None
    assert "mean_entropy" not in found.overall["mlp"]


def test_whole_counts_are_compared_by_value_and_nothing_else_is_said(tmp_path: Path) -> None:
    found = compare(counts(0), counts(1, model="y"), plan=PLAN)
    reason = "A and B have a single sum for each data set"
    assert found.design["paired"] is None
    assert found.notes == [f"{reason}: values, but no intervals."]
    assert {e.interval.reason for row in found.routers for e in row.values()} == {reason}
    assert all(d.p is None and d.interval.reason == reason for load in found.loads for d in load.distances.values())
    said = everything_said(check(found), tmp_path)
    for words in ("sequences on either side", "independent", "paired", "resample", "draws", "at random", "permut"):
        assert words not in said, words
    for words in ("q <", "; q:", "; p:", "detect", "95%", "band", "Bars", "sequences,"):
        assert words not in said, words
    assert "Values only, without intervals" in said
    assert "2 count files" in said


def test_what_is_said_of_pairs_and_of_samples(tmp_path: Path) -> None:
    for other, words, others in (
        (range(12), "aired on the same sequences", "independent"),
        (range(30, 42), "npaired, as independent samples", "same sequences"),
    ):
        said = everything_said(check(compare(plain(), plain(other), plan=PLAN)), tmp_path)
        assert words in said
        assert others not in said
        assert "detectable: the smallest true difference that 4 of 5" in said
        assert "at random" not in said
        few = everything_said(check(compare(plain(range(9)), plain(other), plan=PLAN)), tmp_path)
        assert f"{words}, without intervals" in few
        for absent in ("detect", "q <", "95%"):
            assert absent not in few


def everything_said(comparison: dict[str, Any], folder: Path) -> str:
    """Every sentence about a comparison: the table, the figures, the page, Markdown, the picture."""
    series = difference_series(comparison)
    charts = [effect_chart(series, "gini"), distance_chart(series), change_heat(series)]
    console = Console(width=200, file=io.StringIO(), record=True)
    print_comparison(comparison, ["gini"], console)
    (folder / "c.json").write_text(sealed_text(comparison))
    inputs = read_inputs([folder / "c.json"])
    plot_effects(comparison, folder / "c.svg", ["gini"])
    texts = [console.export_text(), to_markdown(inputs), *answer(inputs).sentences]
    for chart in charts:
        assert chart is not None
        texts += [chart.caption, chart.label, *(line for line in chart.tip if line != "{band}")]
    return " ".join(" ".join(texts).split())
