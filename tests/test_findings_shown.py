"""Findings in words, tables and exports: thresholds as they are, whom and why, and which ends are over what."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from routing_reference import make_stats

from mlx_moebench.options import Plan
from mlx_moebench.pair.profile import profile_of_stats
from mlx_moebench.pair.stats import RoutingStats
from mlx_moebench.show.export import to_card, to_csv, to_markdown
from mlx_moebench.show.figures import answer
from mlx_moebench.show.findings import flags, meanings, remarks
from mlx_moebench.show.inputs import Inputs, read_inputs
from mlx_moebench.show.names import NUMBERS, QUANTITIES, counts_for, data_warnings, label_and_unit
from mlx_moebench.show.page.data import page_data
from mlx_moebench.show.plots import get_plot
from mlx_moebench.show.tables import comparison as comparison_table
from mlx_moebench.show.tables.profile import render_profile
from mlx_moebench.show.tables.routers import render
from mlx_moebench.types import Json

PLAN, LAYER = Plan(resamples=100), Plan(resamples=100, method="layer")


def shown(part: RenderableType) -> str:
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(part)
    return " ".join(captured.get().split())


def parts(sequences: int = 12) -> list[RoutingStats]:
    """Statistics on two domains."""
    return [make_stats(range(sequences), sha=sha * 64) for sha in "ab"]


def inputs(folder: Path, plan: Plan = PLAN, sequences: int = 12) -> Inputs:
    places = [folder / "a.json", folder / "b.json"]
    for part, place in zip(parts(sequences), places, strict=True):
        part.save(place, plan)
    return read_inputs(places)


def router(idle: str = "yes", s: float | None = 0.6, word: str = "specialised", **more: Any) -> Json:
    """A router of 16 experts whose findings are these."""
    no = {"answer": "no", "parts": {}}
    experts = {"experts": [{"expert": e, "domains": ["x", "y"]} for e in range(12)]} if idle == "yes" else {}
    findings = {
        "collapsed": {"answer": "no", "parts": {"specialisation": {"value": s, "threshold": 0.5}}},
        "dominated": no,
        "idle": {"answer": idle, "parts": {}, **experts, **more},
        "specialised": no,
    }
    return {"n_experts": 16, "findings": {"word": word, "findings": findings}}


def test_thresholds_are_shown_as_they_are() -> None:
    thresholds = Plan().thresholds.__dict__ | {
        "used": 0.985,
        "specialisation": 0.4999,
        "odds": 4.125,
        "idle_load": 1e-3,
    }
    said = meanings(thresholds)
    assert "r < 0.985 and s < 0.4999" in said
    assert "over 4.125 times" in said
    assert "below 0.001 of the even load" in said


@pytest.mark.parametrize(("idle", "s", "said"), [("yes", 0.5, True), ("yes", 0.49, False), ("yes", None, False)])
@pytest.mark.parametrize("word", ["idle", "specialised", "dominated", "open"])
def test_domains_that_nobody_measured_are_named_where_domains_have_experts_of_their_own(
    idle: str, s: float | None, said: bool, word: str
) -> None:
    clauses = list(remarks(router(idle, s, word)))
    assert "idle: 12 of 16 experts" in clauses
    assert ("the idle experts may be those of domains that nobody measured" in clauses) == said
    assert not any("nobody" in clause for clause in remarks(router("no", s, word)))


def test_what_is_open_says_why() -> None:
    (clause,) = remarks(router("open"))
    assert clause == "idle open (too few texts to say how many would decide it)"
    (clause,) = remarks(router("open", sequences=[25, 299]))
    assert "25 to 299 texts" in clause


def test_answers_and_words_are_flags() -> None:
    made = dict(flags(router("open")))
    assert [made[f"finding.{name}"]["value"] for name in ("collapsed", "dominated", "idle")] == [0, 0, None]
    assert made["finding.idle"]["reason"].startswith("open (too few texts")
    assert made["word.specialised"]["value"] == 1
    assert dict(flags(router("yes")))["finding.idle"]["value"] == 1
    assert dict(flags(router() | {"findings": router()["findings"] | {"word": None}}))["word"]["value"] is None


def test_ends_over_layers_and_over_sequences_are_told_apart(tmp_path: Path) -> None:
    both = RoutingStats.merge(parts())
    assert "over layers, a census and not a sample; those of findings are over sequences." in shown(
        render(both.report(LAYER))
    )
    assert "not a sample." in shown(render(parts()[0].report(LAYER)))
    made = profile_of_stats(parts(), LAYER)
    settings = {"ci": {"method": "layer", "level": 0.95, "resamples": 100}, "thresholds": Plan().thresholds.__dict__}
    said = shown(render_profile(made.report(), made.reports, settings))
    assert "[low, high] of a domain: 95% bootstrap over layers" in said
    assert "of findings: 95% intervals over sequences" in said
    found = inputs(tmp_path, LAYER)
    assert "[low, high]: 95% intervals over layers, a census" in to_markdown(found)
    assert "[low, high]: 95% intervals over sequences, drawn inside each domain" in to_markdown(found)
    assert "[low, high] is an interval over layers;" in to_card(found)


def test_idle_experts_have_their_interval_and_domains_their_order_in_every_table(tmp_path: Path) -> None:
    made = profile_of_stats(parts()[::-1], PLAN)
    report = made.report()
    settings = {"ci": {"method": "bca", "level": 0.95, "resamples": 100}, "thresholds": Plan().thresholds.__dict__}
    part = report["routers"][0]["findings"]["findings"]["idle"]["parts"]["experts"]
    assert part["low"] is not None
    said = shown(render_profile(report, made.reports, settings))
    assert f"{part['value']:.2f} [{part['low']:.2f}, {part['high']:.2f}]" in said
    assert f"Findings over {', '.join(made.reports)} " in said
    page = to_markdown(inputs(tmp_path))
    assert "| idle, share of experts |" in page
    assert f"| {part['value']:.3f} [{part['low']:.3f}, {part['high']:.3f}] |" in page
    for clause in remarks(report["routers"][0]):
        assert clause in page


def test_no_flags_of_one_domain_where_several_are_measured(tmp_path: Path) -> None:
    found = inputs(tmp_path)
    assert "flagged" not in to_card(found)
    assert "flagged" in to_card(read_inputs([tmp_path / "a.json"]))
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert not [row for row in rows if row["metric"].startswith("collapsed")]
    assert [
        r for r in csv.DictReader(io.StringIO(to_csv(read_inputs([tmp_path / "a.json"])))) if "collaps" in r["metric"]
    ]


def test_every_row_between_domains_has_its_method_and_sizes(tmp_path: Path) -> None:
    found = inputs(tmp_path)
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    between = [r for r in rows if r["metric"] in ("idle_experts", "dominant_share", "jensen_shannon")]
    assert between
    assert all(bool(r["method"]) == bool(r["low"]) and r["n_sequences"] == "24" for r in between)
    assert any(r["method"] for r in between if r["metric"] == "idle_experts")
    words = [r["metric"] for r in rows if r["metric"].startswith("word.")]
    assert words == [f"word.{r['findings']['word']}" for r in found.runs[0].report["routers"]]
    assert {r["metric"] for r in rows if r["metric"].startswith("finding.")} == {
        f"finding.{name}" for name in ("collapsed", "dominated", "idle", "specialised")
    }


def test_a_single_router_and_no_word_read_well(tmp_path: Path) -> None:
    found = inputs(tmp_path)
    name, profile = next(iter(found.profiles.items()))
    routers = json.loads(json.dumps(profile["routers"]))
    for number, word, words in (
        (1, "idle", "in the only layer many experts are idle on every domain"),
        (1, None, "in the only layer no expert and no domain stands out, by the values alone: there are no intervals"),
        (3, None, "in 3 of 3 layers no expert and no domain stands out, by the values alone: there are no intervals"),
        (3, "dominated", "in 3 of 3 layers one expert leads on most domains"),
    ):
        for router in routers:
            router["findings"]["word"] = word
        changed = Inputs((), {name: profile | {"routers": routers[:number]}})
        assert f": {words}" in answer(changed).sentences[0]


def test_flags_that_differ_are_those_that_both_sides_have() -> None:
    sides = ((True, False), (False, None), (None, True), (True, True))
    routers = [{"layer": n, "collapsed": {"a": a, "b": b}} for n, (a, b) in enumerate(sides)]
    settings = {"ci": {"level": 0.95, "resamples": 100}}
    notes = comparison_table._notes({"settings": settings, "allowed": [], "notes": [], "routers": routers}, True)
    assert "collapse flags that differ: layer 0 (collapsed to not)." in notes.plain
    assert "n/a" not in notes.plain


def test_copies_and_unequal_domains_are_said_as_they_count() -> None:
    data: Json = {"n_sequences": 80, "repeated_sequences": 40, "effective_sequences": {"x": 1.2}}
    assert list(counts_for(data)) == ["The 40 different texts, each as long as its copies together, count for 1."]
    data["repeated_sequences"] = 0
    assert list(counts_for(data)) == ["The 80 sequences differ in length and count for 1."]
    (said,) = data_warnings({"unequal_domains": ["a has 41 sequences, b 10."]})
    assert said.startswith(
        "a has 41 sequences, b 10: intervals and tests hold for that; findings weigh each domain 1/D"
    )
    (said,) = data_warnings({"repeated_sequences": 1})
    assert said.endswith("intervals take all copies of a text together as one.")


def test_a_quantity_has_one_name_and_symbol_everywhere(tmp_path: Path) -> None:
    """Terminal, Markdown, page and picture take them from the same table."""
    given = inputs(tmp_path)
    ((_, profile),) = given.profiles.items()
    heads = [QUANTITIES[key].head for key in NUMBERS]
    markdown, page = to_markdown(given), json.dumps(page_data(given))
    for head in heads:
        assert head in markdown
        assert head in page
    titles = [" ".join(axis.get_title().split()) for axis in get_plot("domains").draw(given).axes]
    information = QUANTITIES["domain_information"].title
    assert information in titles
    assert information in page
    assert QUANTITIES["mixture_spread"].title in titles
    assert label_and_unit("jensen_shannon") == ("Divergence of the loads of two domains", "nats")
    every = profile | {"name": "m", "phase": "prefill", "data": given.runs[0].report["data"]}
    terminal = shown(render_profile(every, dict(given.runs[0].domains), profile["settings"]))
    for key in NUMBERS[:4]:
        assert f" {QUANTITIES[key].symbol} " in terminal
    for old in ("MI(domain; expert)", "information of the domain, nats", "What the domain tells"):
        assert old not in markdown + page + terminal
