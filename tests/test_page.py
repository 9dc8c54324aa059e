"""The report: what its inputs are taken for, the numbers behind its figures, and the page itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from dynamics_files import write as write_course
from page_inputs import (
    HEBREW,
    HOSTILE,
    NANO,
    QUICK,
    RESULTS,
    decoded,
    drawings,
    hostile_pairs,
    training_folder,
    uneven_stats,
)
from routing_reference import MODEL, make_stats

from mlx_moebench import RoutingStats
from mlx_moebench.cli import group
from mlx_moebench.errors import MoebenchError, StatsError
from mlx_moebench.pair.seal import sealed_text
from mlx_moebench.routing import RouterSpec
from mlx_moebench.routing.tokens import Choices, TokenSequence
from mlx_moebench.show.figures import (
    LAYER_METRICS,
    answer,
    coactivation_series,
    dead_series,
    difference_series,
    domain_series,
    layer_series,
    load_heat,
    load_series,
    training_series,
    uncertainty_series,
)
from mlx_moebench.show.inputs import Inputs, Run, read_inputs
from mlx_moebench.show.names import isolated
from mlx_moebench.show.numbers import difference
from mlx_moebench.show.page import build_page
from mlx_moebench.show.page.data import page_data
from mlx_moebench.show.tokens import token_data_of


@pytest.fixture(scope="module")
def nano() -> Inputs:
    return read_inputs(NANO, plan=QUICK)


def saved(folder: Path, name: str, **settings: Any) -> str:
    stats = make_stats(**settings)
    stats.save(folder / name, QUICK)
    return str(folder / name)


def run_of(stats: RoutingStats) -> Run:
    return Run("a run", stats.report(QUICK), stats, {})


# -- inputs ----------------------------------------------------------------------------------------------------------


def test_both_names_of_a_pair_and_its_stem_are_one_run(tmp_path: Path) -> None:
    place = saved(tmp_path, "a.json")
    found = read_inputs([place, place.replace(".json", ".safetensors"), place.removesuffix(".json")], plan=QUICK)
    assert [run.name for run in found.runs] == ["test/tiny"]
    assert found.runs[0].stats is not None
    assert not found.profiles
    assert not found.comparisons


def test_pairs_of_one_model_on_other_data_are_domains_of_one_run(nano: Inputs) -> None:
    (run,) = nano.runs
    assert list(run.domains) == ["code", "general", "math"]
    assert run.report["data"]["n_tokens"] == sum(d["data"]["n_tokens"] for d in run.domains.values())
    assert list(nano.profiles) == [run.name]
    assert run.domains["math"] == json.loads(Path(NANO[0]).read_text())


def test_domains_take_the_names_that_were_given(tmp_path: Path) -> None:
    first, second = saved(tmp_path, "a.json"), saved(tmp_path, "b.json", sha="b" * 64)
    found = read_inputs([f"law={first}", f"code={second}"], plan=QUICK)
    assert list(found.runs[0].domains) == ["code", "law"]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("my new law", "my new law"),
        (" Code (C++), r\u00e9sum\u00e9 & \u6f22\u5b57 ", "Code (C++), r\u00e9sum\u00e9 & \u6f22\u5b57"),
        ("R&D/law", "R&D/law"),
        ("lr=0.1", "lr=0.1"),
        (HEBREW, HEBREW),
    ],
)
def test_a_name_is_any_line_of_text(tmp_path: Path, typed: str, name: str) -> None:
    (tmp_path / "lr=3e-5, b=2").mkdir()
    place = saved(tmp_path / "lr=3e-5, b=2", "a = b.json")
    assert read_inputs([place], plan=QUICK).runs[0].name == "test/tiny"
    stem = place.removesuffix(".json")
    for path in (place, stem, f"{stem}.safetensors"):
        assert read_inputs([f"{typed}={path}"], plan=QUICK).runs[0].name == name


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("={}", "nothing before its ="),
        ("  ={}", "nothing before its ="),
        ("law=", "nothing after its ="),
        ("two\nlines={}", "control characters"),
        ("my law=none.json", "There is no none.json"),
        ("a/b=none.json", "There is no a/b=none.json"),
    ],
)
def test_what_no_name_can_be_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, words: str
) -> None:
    place = saved(tmp_path, "a.json")
    monkeypatch.setattr(RoutingStats, "load", lambda _: pytest.fail("read before all arguments were looked at"))
    with pytest.raises(MoebenchError, match=words):
        read_inputs([place, argument.format(place)], plan=QUICK)


def test_a_merged_pair_is_its_domains(tmp_path: Path) -> None:
    whole = RoutingStats.merge([make_stats(), make_stats(sha="b" * 64)])
    whole.save(tmp_path / "whole.json", QUICK)
    found = read_inputs([tmp_path / "whole.json"], plan=QUICK)
    assert list(found.runs[0].domains) == ["data-a", "data-b"]
    assert list(found.profiles) == [found.runs[0].name]


def test_two_runs_are_compared(tmp_path: Path) -> None:
    first = saved(tmp_path, "a.json")
    second = saved(tmp_path, "b.json", model=MODEL | {"weight_bits": 4})
    found = read_inputs([f"base={first}", second], plan=QUICK)
    assert [run.name for run in found.runs] == ["base", "test/tiny at 4 bits per expert weight"]
    series = difference_series(found.comparisons[0])
    assert series.names == ("base", "test/tiny at 4 bits per expert weight")
    assert series.paired is True
    assert series.effects[0]["mean_entropy"].effect.value == 0


def test_runs_of_one_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    found = read_inputs([saved(tmp_path, "chat.json"), saved(tmp_path, "chat.decode.json", phase="decode")], plan=QUICK)
    assert [run.name for run in found.runs] == ["test/tiny (chat)", "test/tiny (chat.decode)"]
    assert "--allow phase" in " ".join(found.notes)


def test_two_runs_that_do_not_compare_stand_side_by_side_with_the_reason(tmp_path: Path) -> None:
    first = saved(tmp_path, "a.json")
    second = saved(tmp_path, "b.json", sha="b" * 64, model=MODEL | {"id": "test/other"})
    found = read_inputs([first, second], plan=QUICK)
    assert not found.comparisons
    assert any("not compared" in caution for caution in answer(found).cautions)
    assert read_inputs([first, second], plan=QUICK, allow=["data"]).comparisons


def test_a_report_without_its_sums_has_values_and_the_reason_for_no_intervals(tmp_path: Path) -> None:
    place = saved(tmp_path, "a.json")
    (tmp_path / "a.safetensors").unlink()
    found = read_inputs([place], plan=QUICK)
    series = load_series(found.runs[0])
    band = series.routers[0].band
    assert band is not None
    assert np.isnan(band.low).all()
    assert "missing" in str(band.reason)
    assert coactivation_series(found.runs[0], 0).pairs is None
    assert any("no intervals" in caution for caution in answer(found).cautions)
    assert "no interval: a.safetensors with the sums is missing</span>" in build_page(found)


def test_profiles_comparisons_and_uncertainty_are_known_by_what_is_in_them() -> None:
    found = read_inputs(
        [
            RESULTS / "profiles" / "nano.json",
            RESULTS / "comparisons" / "nano_4bit.json",
            RESULTS / "uncertainty" / "nano_math.json",
        ]
    )
    assert list(found.profiles) == ["moebench-nano"]
    assert (len(found.runs), len(found.comparisons), len(found.uncertainties)) == (0, 1, 1)
    assert len(answer(found).sentences) == 3


def test_a_profile_comes_with_the_pairs_beside_it(tmp_path: Path) -> None:
    runner = CliRunner()
    pairs = [saved(tmp_path, f"{sha}.json", sha=sha * 64) for sha in "ab"]
    output = tmp_path / "profile"
    assert runner.invoke(group, ["profile", *pairs, "--output", str(output), "--resamples", "100"]).exit_code == 0
    assert not read_inputs([output]).runs  # a profile of pairs that lie elsewhere
    (output / "test-tiny").mkdir()
    for sha in "ab":
        for suffix in (".json", ".safetensors"):
            shutil.copy(tmp_path / f"{sha}{suffix}", output / "test-tiny" / f"data-{sha}{suffix}")
    found = read_inputs([output])
    assert list(found.runs[0].domains) == ["data-a", "data-b"]
    assert (
        found.profiles[found.runs[0].name]["routers"]
        == json.loads((output / "profile.json").read_text())["models"][0]["routers"]
    )
    saved(output / "test-tiny", "data-a.json", sha="c" * 64)  # a pair of another run
    assert not read_inputs([output / "profile.json"]).runs


def test_a_training_is_its_log_and_the_routing_before_and_after(tmp_path: Path) -> None:
    found = read_inputs([training_folder(tmp_path / "floor")], plan=QUICK)
    assert [run.name for run in found.runs] == ["floor before", "floor after"]
    assert difference_series(found.comparisons[0]).names == ("floor before", "floor after")
    series = training_series(found.trainings[0])
    assert series.steps == tuple(range(1, 31))  # the line that was cut short is left out
    assert series.validation[0] == (30,)
    assert series.routers["load_entropy"].shape == (30, 3)
    assert series.floors == (1.9,)
    assert "never fired" in " ".join(answer(found).cautions)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.json", None, "There is no"),
        ("none.safetensors", None, "There is no"),
        ("list.json", "[1]", "nothing that a report is made of"),
        ("other.json", '{"a": 1}', "nothing that a report is made of"),
        ("broken.json", "{", "is not JSON"),
        (
            "old.json",
            '{"routers": [{"layer": 0}], "summary": {}, "data": {}, "model": {}, "settings": {}}',
            "damaged or from another version",
        ),
        ("u.json", '{"mean_loss": 1, "n_pairs": 2}', "it lacks 'model'"),
        ("profile.json", '{"models": [{}], "settings": {}}', "it lacks 'name'"),
        ("training_log.jsonl", "{\n{}\n", "line 1 is not JSON"),
        ("training_log.jsonl", '{"ce": 1}\n', "line 1 is not a line"),
    ],
)
def test_what_is_no_input_is_refused_in_a_sentence(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(StatsError, match=words):
        read_inputs([tmp_path / name])


def test_a_folder_of_something_else_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StatsError, match="neither a profile, a trace nor a training"):
        read_inputs([tmp_path])
    with pytest.raises(StatsError, match="nothing to report"):
        read_inputs([])


# -- series ----------------------------------------------------------------------------------------------------------


def test_the_bands_are_those_of_the_report(nano: Inputs) -> None:
    for domain in (None, "math"):
        series = load_series(nano.runs[0].view(domain))
        report = nano.runs[0].report if domain is None else nano.runs[0].domains[domain]
        for router, entry in zip(series.routers, report["routers"], strict=True):
            busiest = int(np.argmax(router.counts))
            assert router.shares[busiest] == entry["top_share_token"]
            assert router.band is not None
            if "token_share" in entry:  # else of before it stood in reports, and made from the sums
                for end in ("low", "high"):
                    np.testing.assert_allclose(getattr(router.band, end), entry["token_share"][end], atol=1e-12)
            assert router.band.low[busiest] < router.shares[busiest] < router.band.high[busiest]


def test_loads_are_even_at_one_and_shares_sum_to_k(nano: Inputs) -> None:
    for router in load_series(nano.runs[0]).routers:
        assert router.ratios.mean() == pytest.approx(1)
        assert router.shares.sum() == pytest.approx(router.router.top_k)


def test_one_sequence_has_no_band_and_says_why() -> None:
    band = load_series(run_of(make_stats(range(1)))).routers[0].band
    assert band is not None
    assert np.isnan(band.high).all()
    assert "too few" in str(band.reason)


def test_coactivation_is_that_of_the_statistics(nano: Inputs) -> None:
    run = nano.runs[0]
    assert run.stats is not None
    series = coactivation_series(run, 2)
    np.testing.assert_array_equal(series.lift, run.stats.coactivation_lift(2))
    np.testing.assert_array_equal(series.shares, run.stats.coactivation(2))
    assert series.chance_lift == pytest.approx(16 * 1 / (2 * 15))
    assert series.chance == pytest.approx(1 / 15)


def test_coactivation_of_one_expert_a_token_is_empty_and_says_so() -> None:
    specs = (RouterSpec(0, 0, "mlp", 8, 1),)
    series = coactivation_series(run_of(make_stats(specs=specs)), 0)
    assert series.pairs is None
    assert "K = 1" in str(series.reason)
    assert np.isnan(series.lift).all()


def test_dead_experts_are_named_and_expected() -> None:
    stats = make_stats(range(1), length=2, specs=(RouterSpec(0, 0, "mlp", 8, 2),))
    series = dead_series(run_of(stats).report)
    counts = stats.totals(0).counts
    assert series.experts[0] == tuple(np.flatnonzero(counts == 0))
    assert series.dead[0] == len(series.experts[0]) > 0
    assert series.expected[0] == pytest.approx(8 * (6 / 8) ** stats.n_tokens)


@pytest.mark.parametrize("metric", LAYER_METRICS)
def test_every_layer_metric_says_what_it_is(nano: Inputs, metric: str) -> None:
    series = layer_series(nano.runs[0].report, metric)
    assert series.unit
    assert series.definition.count(".") >= 2
    assert len(series.values) == len(series.chance) == 6
    assert np.isfinite(series.chance).all()
    assert all(value.has_interval or value.reason for value in series.values)
    assert (series.n_sequences, series.level) == (nano.runs[0].report["data"]["n_sequences"], 0.95)


def test_domains_have_shares_bands_and_verdicts(nano: Inputs) -> None:
    series = domain_series("nano", nano.profiles[nano.runs[0].name])
    assert series.highest == pytest.approx(np.log(3))
    for router in series.routers:
        np.testing.assert_allclose(router.shares.sum(axis=1), 2)
        assert router.word in ("collapsed", "specialised", "balanced", "undetermined")
        assert router.mi.low <= router.mi.value
        assert router.mi.p <= 0.05
        assert len(router.divergences) == 3


def test_uncertainty_has_a_curve_of_every_router() -> None:
    (report,) = read_inputs([RESULTS / "uncertainty" / "nano_math.json"]).uncertainties
    series = uncertainty_series(report)
    assert [len(curves) for curves in series.curves.values()] == [6, 6]
    curve = series.curves["entropy"][0]
    assert sum(curve.tokens) == series.n_tokens
    assert list(curve.scores) == sorted(curve.scores)
    assert curve.loss[0].low <= curve.loss[0].value <= curve.loss[0].high


def test_the_answer_carries_findings_and_their_numbers(nano: Inputs) -> None:
    found = answer(nano)
    assert "(specialised)" in found.sentences[0]
    assert re.search(r"\d+% \[\d+%, \d+%\] of the tokens of (code|general|math)", found.sentences[0])
    assert {fact.unit for fact in found.facts} >= {"nats", "share of tokens", "ratio"}


def test_names_of_right_to_left_scripts_are_isolated_and_others_untouched() -> None:
    assert isolated("OLMoE-1B (7B), 漢字 é") == "OLMoE-1B (7B), 漢字 é"
    inside = isolated(HEBREW)
    assert (inside[0], inside[-1]) == ("\u2068", "\u2069")
    assert not set("\u2067\u202e") & set(inside)


# -- the page --------------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """What a browser would find: elements with their attributes, text, and what script and style elements hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.text: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open = f"{tag} {dict(attrs).get('type') or ''}".strip()

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside.setdefault(self._open, []).append(data)
        else:
            self.text.append(data)

    def data(self) -> Any:
        return json.loads("".join(self.inside["script application/json"]))


def test_the_page_is_small_and_fetches_nothing(nano: Inputs) -> None:
    text = build_page(nano)
    assert len(text.encode()) < 400_000
    page = _Page(text)
    links = [attrs[key] for _, attrs in page.elements for key in ("src", "href", "action", "data") if key in attrs]
    assert all(str(link).startswith("#") for link in links)
    assert not re.search(r"url\(|@import", "".join(page.inside["style"]))
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|eval|innerHTML)\b", "".join(page.inside["script"]))


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(nano: Inputs) -> None:
    page = _Page(build_page(nano))
    (policy,) = (attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv"))
    for kind in ("script", "style"):
        digest = hashlib.sha256("".join(page.inside[kind]).encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}';" in str(policy)
    assert "default-src 'none'" in str(policy)
    assert not any("style" in attrs or any(key.startswith("on") for key in attrs) for _, attrs in page.elements)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    found = read_inputs(hostile_pairs(tmp_path), plan=QUICK)
    page = _Page(build_page(found, title=HOSTILE, command=f"mlx-moebench report '{HOSTILE}'"))
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 2
    assert HOSTILE in "".join(page.text)
    views = drawings(page.data(), "load")
    assert [view["title"].partition(": ")[2] for view in views] == ["all domains", HOSTILE, isolated(HEBREW)]
    assert {page.data()["shared"][view["row_cells"]][0][0] for view in views[1:]} == {HOSTILE, HEBREW}
    raw = build_page(found)
    assert "<img" not in raw
    assert "\u2028" not in raw


def test_the_page_reads_without_scripts(nano: Inputs) -> None:
    text = "".join(_Page(build_page(nano, command="mlx-moebench report x")).text)
    assert answer(nano).sentences[0] in text
    assert "Mean entropy of a token's routing" in text
    assert str(nano.runs[0].report["data"]["sources"][0]["sha256"]) in text
    assert "mlx-moebench report x" in text


def test_counts_shares_bands_and_pairs_reach_the_page(nano: Inputs) -> None:
    (run,) = nano.runs
    assert run.stats is not None
    data = _Page(build_page(nano)).data()
    heat, pairs = drawings(data, "load")[0], drawings(data, "coactivation")
    upper = np.triu_indices(16, 1)
    for number, router in enumerate(load_series(run).routers):
        assert router.band is not None
        np.testing.assert_array_equal(decoded(heat, "selections")[number], router.counts)
        np.testing.assert_array_equal(decoded(heat, "share")[number], router.shares)
        np.testing.assert_allclose(decoded(heat, "ratio")[number], router.ratios, rtol=1e-14)
        for end in ("low", "high"):
            np.testing.assert_allclose(decoded(heat, "share", end)[number], getattr(router.band, end), atol=5.1e-6)
        series = coactivation_series(run, number)
        np.testing.assert_array_equal(decoded(pairs[number], "pairs"), run.stats.pairs(number)[upper])
        np.testing.assert_allclose(decoded(pairs[number], "raw"), series.lift[upper], rtol=1e-14)
        np.testing.assert_allclose(decoded(pairs[number], "lift"), series.over_chance[upper], rtol=1e-14)
        np.testing.assert_array_equal(decoded(pairs[number], "share"), series.shares[upper])
    (entropy, _, _) = drawings(data, "layers")[0]["lines"][0]["values"][0]
    assert entropy == pytest.approx(run.report["routers"][0]["mean_entropy"], rel=1e-4)


def test_the_page_draws_what_is_described(nano: Inputs) -> None:
    run, profile = nano.runs[0], domain_series("nano", next(iter(nano.profiles.values())))
    for measure in load_heat(load_series(run), 2.0).measures.values():
        assert all(np.isfinite(row).all() for row in measure.values)
    ratios = load_heat(load_series(run), 2.0).measures["ratio"].values
    np.testing.assert_allclose(ratios, [r.ratios for r in load_series(run).routers], rtol=1e-14)
    heat = drawings(_Page(build_page(nano)).data(), "domains")[-1]
    last = profile.routers[-1]
    np.testing.assert_allclose(decoded(heat, "share"), last.shares, rtol=1e-6)
    np.testing.assert_allclose(decoded(heat, "ratio"), last.ratios, rtol=1e-6)
    for end in ("low", "high"):
        np.testing.assert_allclose(decoded(heat, "share", end), getattr(last, end), atol=5.1e-6)


def test_bands_that_the_report_holds_are_not_made_again(nano: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    report = json.loads(json.dumps(nano.runs[0].report))
    for router in report["routers"]:
        router["token_share"] = {"low": [0.25] * router["n_experts"], "high": [0.5] * router["n_experts"]}
    report["routers"][0]["token_share"] = {"low": None, "high": None, "reason": "too few sequences"}
    monkeypatch.setattr("mlx_moebench.show.figures.load.measured", None)
    none, *bands = [router.band for router in load_series(Run("a run", report, nano.runs[0].stats, {})).routers]
    assert none is not None
    assert (np.isnan(none.low).all(), none.reason) == (True, "too few sequences")
    assert all(band is not None and set(band.low) == {0.25} and set(band.high) == {0.5} for band in bands)


def test_an_undefined_number_is_null_with_its_reason(tmp_path: Path) -> None:
    data = page_data(read_inputs([saved(tmp_path, "a.json", rows=range(3))], plan=QUICK))
    value, low, high, reason = drawings(data, "layers")[0]["lines"][0]["values"][0]
    assert value > 0
    assert (low, high) == (None, None)
    assert "too few" in data["reasons"][reason]


def test_a_large_report_leaves_out_pairs_and_says_so(monkeypatch: pytest.MonkeyPatch, nano: Inputs) -> None:
    monkeypatch.setattr("mlx_moebench.show.page.contents.MAX_PAIRS", 1000)
    data = page_data(nano)
    routers = drawings(data, "coactivation")
    assert [number for number, one in enumerate(routers) if one["kind"] == "heat"] == [0, 2, 3, 5]
    assert "2 routers of 6" in data["shared"][routers[0]["caption"][-1]]
    assert "left out" in routers[1]["reason"]


def test_48_routers_of_128_experts_on_5_domains_stay_under_3_mb(tmp_path: Path) -> None:
    paths = []
    for sha in "abcde":
        uneven_stats(f"domain {sha}", sha * 64, sequences=2, tokens=60).save(tmp_path / f"{sha}.json", QUICK)
        paths.append(tmp_path / f"{sha}.json")
    assert len(build_page(read_inputs(paths, plan=QUICK)).encode()) < 3_000_000


def test_every_kind_of_input_makes_a_page(tmp_path: Path) -> None:
    specs = tuple(RouterSpec(layer, layer, kind, 8, 2) for layer in range(2) for kind in ("attention", "mlp"))
    found = read_inputs(
        [
            training_folder(tmp_path / "floor"),
            saved(tmp_path, "two_routers.json", specs=specs),
            saved(tmp_path, "top1.json", specs=(RouterSpec(0, 0, "mlp", 8, 1),)),
            RESULTS / "uncertainty" / "nano_math.json",
            RESULTS / "quant_drift" / "nano_math.json",
            write_course(tmp_path / "course.json"),
            RESULTS / "comparisons" / "nano_decode.json",
            RESULTS / "routing_stats_olmoe_counts.json",
            RESULTS / "testbed" / "testbed.json",
        ],
        plan=QUICK,
    )
    data = _Page(build_page(found)).data()
    assert [section["id"] for section in data["sections"]] == [
        *("load", "layers", "domains", "differences", "differences1", "river", "cards", "coactivation", "dead"),
        *("uncertainty", "quant", "dynamics", "testbed", "testbed-2", "testbed-3", "training"),
    ]
    assert data["shared"][drawings(data, "load")[2]["rows"]][0] == "0 attention"


def test_a_token_view_is_a_section_with_its_own_assets(nano: Inputs) -> None:
    sequence = TokenSequence("s", [HOSTILE], [Choices(np.array([[1, 0]]), *(np.ones(s) for s in ((1, 2), 1, 1)))])
    view = token_data_of([RouterSpec(0, 0, "mlp", 8, 2)], [sequence], model={"id": "m"}, name="data")
    with_tokens = _Page(build_page(nano, tokens=view))
    assert "map" in [section["id"] for section in with_tokens.data()["sections"]]
    assert with_tokens.data()["tokens"]["texts"] == [HOSTILE]
    assert "MoebenchTokens = " in "".join(with_tokens.inside["script"])
    assert "MoebenchTokens = " not in "".join(_Page(build_page(nano)).inside["script"])


# -- the command -----------------------------------------------------------------------------------------------------


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(group, ["report", *map(str, arguments)])


def test_the_command_writes_a_page_and_its_own_again(tmp_path: Path) -> None:
    place, output = saved(tmp_path, "a.json"), tmp_path / "out" / "report.html"
    for _ in range(2):
        result = invoke(place, "-o", output, "--resamples", 100)
        assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Wrote {output} (")
    assert answer(read_inputs([place])).sentences[0] in "".join(_Page(output.read_text()).text)


def test_the_command_replaces_no_file_of_another_kind(tmp_path: Path) -> None:
    place, output = saved(tmp_path, "a.json"), tmp_path / "mine.html"
    output.write_text("<p>my own</p>")
    result = invoke(place, "-o", output)
    assert isinstance(result.exception, StatsError)
    assert "exists and holds no report of mlx-moebench" in str(result.exception)
    assert output.read_text() == "<p>my own</p>"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "x.pdf"], "say --format"),
        (["--format", "md", "--title", "t"], "--title is for a page"),
        (["--allow", "everything"], "is not one of 'data'"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = invoke(saved(tmp_path, "a.json"), *arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_a_damaged_input_is_one_sentence(tmp_path: Path) -> None:
    comparison = json.loads((RESULTS / "comparisons" / "nano_4bit.json").read_text())
    comparison["routers"][0]["load"] = []
    (tmp_path / "c.json").write_text(sealed_text(comparison))
    result = invoke(tmp_path / "c.json", "-o", tmp_path / "report.html")
    assert isinstance(result.exception, StatsError)
    assert "damaged or from another version" in str(result.exception)
    assert not (tmp_path / "report.html").exists()


def test_a_name_that_no_file_can_hold_is_replaced(tmp_path: Path) -> None:
    place = Path(saved(tmp_path, "a.json", model=MODEL | {"id": "half \ud800 a pair"}))
    output = tmp_path / "report.html"
    assert invoke(place, "-o", output, "--resamples", 100).exit_code == 0
    assert "half \ufffd a pair" in output.read_text(encoding="utf-8")


def test_a_trace_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    result = invoke(saved(tmp_path, "a.json"), "-o", output, "--trace", tmp_path)
    assert isinstance(result.exception, MoebenchError)
    assert not output.exists()


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.0031, 0.0027, 0.0035), "+0.0031 [+0.0027, +0.0035]"),
        ((-2.8e-8, -6.1e-8, 1.6e-9), "-2.8e-08 [-6.1e-08, +1.6e-09]"),
        ((0.0, 0.0, 0.0), "0 [0, 0]"),
        ((0.00002, -0.0001, 0.0002), "+0.0000 [-0.0001, +0.0002]"),
    ],
)
def test_signed_numbers_do_not_round_to_nothing(numbers: tuple[float, float, float], expected: str) -> None:
    value, low, high = numbers
    assert difference(value, {"low": low, "high": high}) == expected
