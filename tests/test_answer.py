"""The answer in words: right for every kind of input, the same everywhere, and never against another on one screen."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dynamics_files import write as write_course
from page_inputs import NANO, QUICK, RESULTS, training_folder, uneven_stats
from rich.console import Console
from routing_reference import make_stats

from mlx_moebench import RoutingStats
from mlx_moebench.cli import group
from mlx_moebench.pair.profile import profile_document, profile_of_stats
from mlx_moebench.routing import RouterSpec
from mlx_moebench.show.export import to_card, to_markdown
from mlx_moebench.show.figures import answer, definitions, difference_series, report_sentence, strips, training_verdict
from mlx_moebench.show.inputs import Inputs, Run, Training, read_inputs
from mlx_moebench.show.numbers import even_share, share
from mlx_moebench.show.page import build_page
from mlx_moebench.show.tables.comparison import render as render_comparison
from mlx_moebench.show.tables.dynamics import render as render_course
from mlx_moebench.show.tables.loss import render as render_loss
from mlx_moebench.show.tables.profile import render_profile
from mlx_moebench.show.tables.quant import render as render_quant
from mlx_moebench.show.tables.routers import render as render_report
from mlx_moebench.show.tables.training import print_training

TWO_KINDS = tuple(
    RouterSpec(layer, layer, kind, experts, 2) for layer in range(3) for kind, experts in (("attention", 4), ("mlp", 8))
)
COUNTS = RESULTS / "routing_stats_olmoe_counts.json"


@pytest.fixture(scope="module")
def nano() -> Inputs:
    return read_inputs(NANO, plan=QUICK)


def said(inputs: Inputs) -> str:
    return answer(inputs).sentences[0]


def saved(folder: Path, name: str, **settings: Any) -> Path:
    make_stats(**settings).save(folder / name, QUICK)
    return folder / name


def shown(renderable: Any, width: int = 120) -> str:
    console = Console(width=width, record=True, file=None, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


# -- sentences -------------------------------------------------------------------------------------------------------


def test_published_counts_say_what_their_values_lean_to_and_why_no_more() -> None:
    found = read_inputs([COUNTS])
    sentence = said(found)
    assert "in 3 of 3 layers an expert is busy mainly on one domain, by the values alone" in sentence
    assert "there are no intervals (counts do not say which text a token came from)" in sentence
    assert "Strongest: expert 0 of layer 0 takes 98% of the tokens of arxiv and 7.8% of the others'" in sentence
    assert "12.5% would be even" in sentence
    assert sentence.endswith("4 count files, 835,584 tokens; 3 layers of 64 experts, 8 a token.")
    (strip,) = strips(found)
    assert [(p.label, p.state, p.number, p.leans) for p in strip.places] == [
        ("0", "specialised", "98%", True),
        ("7", "specialised", "76%", True),
        ("15", "specialised", "94%", True),
    ]
    assert not any(place.ends for place in strip.places)


def test_the_strongest_expert_is_that_of_the_profile(nano: Inputs) -> None:
    (profile,) = nano.profiles.values()
    own = [
        (
            shares[domain][e["expert"]] - sum(row[e["expert"]] for d, row in shares.items() if d != domain) / 2,
            r,
            e,
            domain,
        )
        for r in profile["routers"]
        for shares in [r["domain_specialisation"]["shares"]]
        for e in r["findings"]["findings"]["specialised"].get("experts", ())
        for domain in e["domains"]
    ]
    _, router, expert, domain = max(own, key=lambda one: one[0])
    ends = router["domain_specialisation"]
    here = [ends[key][domain][expert["expert"]] for key in ("shares", "low", "high")]
    value, low, high = map(share, here)
    layer = router["layer"]
    assert (
        f"expert {expert['expert']} of layer {layer} takes {value} [{low}, {high}] of the tokens of {domain}"
        in said(nano)
    )


def test_layers_with_each_word_add_up_and_the_strip_has_the_same(nano: Inputs) -> None:
    counts = [int(n) for n in re.findall(r"in (\d+) of 6 layers", said(nano))]
    assert sum(counts) == 6
    (strip,) = strips(nano)
    words = [r["findings"]["word"] for r in next(iter(nano.profiles.values()))["routers"]]
    assert [place.state for place in strip.places] == words
    for place in strip.places:
        assert place.number in place.words
        assert place.ends
    assert strip.section == "domains"


def test_one_domain_names_its_busiest_expert_and_claims_no_collapse(nano: Inputs) -> None:
    found = read_inputs(NANO[:1], plan=QUICK)
    report = found.runs[0].report
    router = max(report["routers"], key=lambda r: float(r["top_share_token"]))
    expert = router["selection_counts"].index(max(router["selection_counts"]))
    assert (
        f"the busiest is expert {expert} of layer {router['layer']}, with {share(router['top_share_token'])} ["
        in said(found)
    )
    assert "One domain cannot tell collapse from specialisation" in said(found)
    assert "collapsed" not in said(found)


def test_two_routers_a_layer_are_told_apart(tmp_path: Path) -> None:
    first = saved(tmp_path, "a.json", specs=TWO_KINDS)
    alone = said(read_inputs([first], plan=QUICK))
    assert "of the attention router of layer" in alone
    assert "No attention router can be flagged: even routing already gives 0.5 >= tau = 0.4" in alone
    assert "3 attention routers of 4 experts, 2 a token and 3 mlp routers of 8 experts, 2 a token" in alone
    both = read_inputs([first, saved(tmp_path, "b.json", specs=TWO_KINDS, sha="b" * 64)], plan=QUICK)
    assert re.search(r"in \d of 3 attention routers", said(both))
    assert re.search(r"in \d of 3 mlp routers", said(both))
    assert [place.label for place in strips(both)[0].places][:2] == ["0 attention", "0 mlp"]


def test_one_layer_of_eight_experts_is_the_only_one(tmp_path: Path) -> None:
    one = (RouterSpec(0, 0, "mlp", 8, 2),)
    first = saved(tmp_path, "a.json", specs=one)
    assert "the only layer" in said(read_inputs([first], plan=QUICK)).lower()
    both = said(read_inputs([first, saved(tmp_path, "b.json", specs=one, sha="b" * 64)], plan=QUICK))
    assert "in the only layer" in both
    assert "1 layer of 8 experts, 2 a token" in both


def test_too_few_texts_decide_nothing_and_say_so(tmp_path: Path) -> None:
    places = [saved(tmp_path, f"{sha}.json", sha=sha * 64, rows=range(3)) for sha in "ab"]
    found = read_inputs(places, plan=QUICK)
    assert "by the values alone: these texts do not decide" in said(found)
    assert {place.state for place in strips(found)[0].places} == {"open"}


def test_many_layers_are_counted_and_not_listed(tmp_path: Path) -> None:
    for sha in "ab":
        uneven_stats(f"domain {sha}", sha * 64, layers=12, experts=32, top_k=4).save(tmp_path / f"{sha}.json", QUICK)
    found = read_inputs(sorted(tmp_path.glob("?.json")), plan=QUICK)
    counted = [int(n) for n in re.findall(r"in (\d+) of 12 layers", said(found))]
    assert sum(counted) == 12
    assert not re.search(r"\(\d+(, \d+){6,}\)", said(found))
    assert len(strips(found)[0].places) == 12


def test_a_comparison_says_how_many_layers_moved_and_who_gained() -> None:
    found = read_inputs([RESULTS / "comparisons" / "nano_4bit.json"])
    sentence = said(found)
    routers = found.comparisons[0]["routers"]
    moved = sum(r["load"]["load_l1"]["q"] < 0.05 for r in routers)
    assert f"the load moved by more than chance in {moved} of 6 layers (q < 0.05)" in sentence
    largest = max(routers, key=lambda r: r["load"]["load_l1"]["value"])
    assert f"the most in layer {largest['layer']} (L1 distance {largest['load']['load_l1']['value']:.3f} [" in sentence
    (expert, layer) = re.findall(r"Expert (\d+) of layer (\d+) (?:gains|loses) the most", sentence)[0]
    changes = {r["layer"]: r["load"]["token_share_change"]["values"] for r in routers}
    assert abs(changes[int(layer)][int(expert)]) == max(abs(x) for row in changes.values() for x in row)
    assert sum(place.state == "moved" for place in strips(found)[0].places) == moved


def test_flags_of_one_domain_do_not_stand_beside_findings(nano: Inputs) -> None:
    assert not any(fact.metric == "collapsed_fraction" for fact in answer(nano).facts)
    page = build_page(nano)
    assert "flagged" not in page.partition("<body>")[2].partition("<script")[0]
    merged = RoutingStats.merge([RoutingStats.load(path) for path in NANO])
    for text in (to_markdown(nano), shown(render_report(merged.report(QUICK)))):
        assert "above tau" not in text
        assert "flagged" not in text


def test_the_sentence_is_the_same_everywhere(nano: Inputs) -> None:
    sentence = said(nano)
    plain = re.sub(r"\s+", " ", sentence)
    (name, profile) = next(iter(nano.profiles.items()))
    tables = render_profile(
        profile | {"name": name, "phase": "prefill"}, dict(nano.runs[0].domains), profile["settings"]
    )
    assert plain in re.sub(r"\s+", " ", shown(tables))
    for markdown in (to_markdown(nano), to_card(nano)):
        assert sentence.replace("[", "\\[").replace("]", "\\]") in markdown
    one = read_inputs(NANO[:1], plan=QUICK)
    assert re.sub(r"\s+", " ", said(one)) in re.sub(r"\s+", " ", shown(render_report(one.runs[0].report)))
    assert report_sentence(one.runs[0].report) == said(one)


def test_reports_of_other_kinds_end_with_their_sentence(tmp_path: Path) -> None:
    course = write_course(tmp_path / "course.json")
    quant, loss = (RESULTS / kind / "nano_math.json" for kind in ("quant_drift", "uncertainty"))
    for path, render in ((course, render_course), (quant, render_quant), (loss, render_loss)):
        inputs = read_inputs([path])
        table = re.sub(r"\s+", " ", shown(render(json.loads(path.read_text(encoding="utf-8")))))
        assert table.endswith(re.sub(r"\s+", " ", said(inputs)) + " ")
        assert said(inputs).replace("[", "\\[").replace("]", "\\]") in to_markdown(inputs)
    rows = json.loads(quant.read_text(encoding="utf-8"))["arms"][0]["routers"]
    kept = [row["own"]["exact_set_rate"]["value"] for row in rows]
    assert f"fewest in layer {rows[kept.index(min(kept))]['layer']}, {min(kept):.3f} [" in said(read_inputs([quant]))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *((0, "0%"), (1, "100%"), (0.9999, ">99.9%"), (0.0001, "<0.1%"), (0.125, "12%"), (0.996, "99.6%")),
        *((0.05, "5.0%"), (0.0996, "10%"), (math.nan, "not defined"), (None, "not defined")),
    ],
)
def test_shares_are_percent_that_never_lie(value: float | None, words: str) -> None:
    assert share(value) == words


def test_even_shares_are_as_they_are() -> None:
    assert [even_share(x) for x in (0.125, 0.0625, 0.25, 2 / 3)] == ["12.5%", "6.25%", "25%", "66.7%"]


def test_only_words_that_are_used_are_defined(nano: Inputs, tmp_path: Path) -> None:
    assert "tau, flagged" not in dict(definitions(nano))
    alone = dict(definitions(read_inputs(NANO[:1], plan=QUICK)))
    assert "40%" in alone["tau, flagged"]
    assert "went well, went wrong" in dict(definitions(read_inputs([training_folder(tmp_path / "floor")], plan=QUICK)))


# -- trainings -------------------------------------------------------------------------------------------------------


def training(
    called: str = "floor",
    *,
    signal: tuple[float, float] = (2.0, 2.6),
    validation: tuple[float | None, float | None] = (4.0, 3.5),
    floor: float = 2.5,
    **loss: Any,
) -> Training:
    """A training of 40 steps whose signal goes from one value to another, and its validation loss, too."""
    settings = {"routing_loss": {"name": "entropy_floor", "weight": 0.1, "signal": "load", **loss}, "seed": 0}
    log: list[dict[str, Any]] = [{"step": 0, "val_ce": validation[0]}]
    for step in range(1, 41):
        now = signal[0] + (signal[1] - signal[0]) * (step - 1) / 39
        gap = max(floor - now, 0.0)  # NaN where it is NaN
        log.append({"step": step, "ce": 4.0, "routing_loss": gap, "tokens": 100, "signal": [now] * 3})
    log.append({"step": 40, "val_ce": validation[1]})
    ce = {"validation_before": validation[0], "validation_after": validation[1]}
    report = {"model": "m", "settings": settings, "ce": ce, "routing_loss": {"floor_nats": [floor], "warnings": []}}
    return Training(called, report, log)


def test_a_ruined_training_went_wrong_by_its_own_signal_and_its_loss() -> None:
    verdict = training_verdict(training(signal=(2.3, 1.5), validation=(4.39, 6.55)))
    assert verdict.state == "bad"
    assert "validation loss rose from 4.390 to 6.550 nats per token (+49.2%)" in verdict.sentence
    assert "load entropy, the signal it trained, ended further below its floor" in verdict.sentence
    assert "floor 2.500; 3 of 3 routers end below it" in verdict.sentence
    assert verdict.sentence.startswith("Went wrong: training floor: ")


def test_a_training_that_reached_its_floor_and_lost_nothing_went_well() -> None:
    verdict = training_verdict(training())
    assert verdict.state == "good"
    assert "reached its floor" in verdict.sentence
    assert "validation loss fell from 4.000 to 3.500" in verdict.sentence


@pytest.mark.parametrize(
    ("settings", "state", "words"),
    [
        ({"signal": (1.5, 2.0)}, "open", "has not reached its floor, and ended nearer to it than it began"),
        ({"validation": (4.0, 4.01)}, "open", "validation loss did not clearly change"),
        ({"validation": (4.0, 4.2)}, "bad", "validation loss rose"),
        ({"validation": (4.0, None)}, "bad", "no number any more"),
        ({"signal": (2.0, math.nan)}, "bad", "load entropy, the signal it trained, is no number any more"),
        ({"signal": (2.6, 2.7)}, "good", "is at its floor or above, as at the start"),
        ({"weight": 0}, "good", "validation loss fell"),
        ({"name": "switch"}, "good", "its switch loss fell from 0.4"),
        ({"name": "z", "signal": (2.3, 1.0)}, "bad", "its z loss rose"),
    ],
)
def test_verdicts(settings: dict[str, Any], state: str, words: str) -> None:
    verdict = training_verdict(training(**settings))
    assert (verdict.state, words in verdict.sentence) == (state, True), verdict.sentence


def test_a_control_is_what_the_loss_is_held_against() -> None:
    control = training("control", weight=0, validation=(4.0, 3.0))
    verdict = training_verdict(training(), [control])
    assert verdict.state == "bad"
    assert (
        "above that of its control: 3.500 nats per token against 3.000 of its control control (+16.7%)"
        in verdict.sentence
    )
    other = Training("other", control.report | {"settings": control.report["settings"] | {"seed": 1}}, control.log)
    assert "its control" not in training_verdict(training(), [other]).sentence


def test_noise_of_steps_is_no_change() -> None:
    made = training(name="switch")
    log = [dict(entry) for entry in made.log if "ce" in entry]
    for number, entry in enumerate(log):
        entry["routing_loss"] = 1.0 + 0.2 * (number % 2) + (0.05 if number > 35 else 0.0)
        entry["ce"] = 4.0 + (number * 7919 % 13) / 10
    made = Training("n", made.report | {"ce": {}, "settings": {"routing_loss": {"name": "switch", "weight": 1}}}, log)
    assert training_verdict(made).state == "open"


def test_a_verdict_stands_in_page_markdown_and_terminal(tmp_path: Path) -> None:
    made = training(signal=(2.3, 1.5), validation=(4.39, 6.55))
    page = build_page(Inputs(trainings=(made,)))
    assert '<p class="verdict bad" role="alert" dir="auto"><strong>Went wrong</strong>: training floor' in page
    good = build_page(Inputs(trainings=(training(),)))
    assert '<p class="verdict good" role="note"' in good
    assert 'role="alert"' not in good
    entry = {"value": 1.5, "low": 1.0, "high": 2.0}
    keys = ("load_entropy", "n_eff", "dead_experts", "peak_top_share_token", "marginal_entropy", "mean_entropy")
    more = {"tokens_trained": 10, **{f"routing_{when}": dict.fromkeys(keys, entry) for when in ("before", "after")}}
    report = json.loads(json.dumps(made.report)) | more
    report["ce"]["test_after"] = None
    markdown = to_markdown(Inputs(trainings=(Training("floor", report, made.log),)))
    assert "**Went wrong**: training floor: validation loss rose" in markdown
    console = Console(width=200)
    with console.capture() as captured:
        print_training(report, made.log, console, name="floor")
    assert training_verdict(made).sentence in re.sub(r"\s+", " ", captured.get())


# -- terminals -------------------------------------------------------------------------------------------------------


NUMBERS = re.compile(r"[+-]?\d[\d.,]*(?: \[[^\]\n]*\])?")


@pytest.mark.parametrize("width", [80, 120])
def test_tables_keep_their_numbers_whole_and_caveats_stand_before_them(width: int, nano: Inputs) -> None:
    profile = profile_document([profile_of_stats([RoutingStats.load(path) for path in NANO], QUICK)], QUICK)
    model = profile["models"][0]
    few = make_stats(rows=range(3)).report(QUICK)
    comparison = json.loads((RESULTS / "comparisons" / "nano_decode.json").read_text())
    reports = dict(nano.runs[0].domains)
    for renderable, caveat, first_row in (
        (render_report(few), "No intervals:", "    0"),
        (render_profile(model, reports, profile["settings"]), "", "    0"),
        (render_comparison(comparison), "Allowed (phase)", "Mean over"),
    ):
        text = shown(renderable, width)
        assert max(map(len, text.splitlines())) <= width
        assert text.index(caveat) < text.index(first_row)
        for line in text.splitlines():
            if re.match(r"\s*\d+ ", line):  # a row of a table
                assert line.count("[") == line.count("]"), line


def test_every_metric_of_a_comparison_has_words() -> None:
    text = shown(render_comparison(json.loads((RESULTS / "comparisons" / "nano_4bit.json").read_text())), 120)
    for words in (
        "Gini coefficient of the load: gini",
        "Size of the logits (z-loss): router_z",
        "Entropy of the load: load",
    ):
        assert words in text


def test_sides_of_a_comparison_take_names(tmp_path: Path) -> None:
    paths = [RESULTS / f"routing_stats_nano{bits}_math.json" for bits in ("", "_4bit")]
    named = [f"{name}={path}" for name, path in zip(("my base", "4 bit = small"), paths, strict=True)]
    output = tmp_path / "out.json"
    result = CliRunner().invoke(group, ["compare", *named, "--resamples", "100", "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "A: my base, moebench-nano on math" in result.output
    assert said(read_inputs([output])).startswith("4 bit = small against my base, paired")
    lost = CliRunner().invoke(group, ["compare", f"my base={tmp_path}/none.json", str(paths[1])])
    assert "none.json" in str(lost.exception)
    assert "my base=" not in str(lost.exception)


def test_a_band_of_a_change_ends_at_all_of_the_tokens() -> None:
    """An expert that went from 4% to all of the tokens did not gain 103 points."""
    comparison = json.loads((RESULTS / "comparisons" / "nano_4bit.json").read_text())
    change = comparison["routers"][0]["load"]["token_share_change"]
    change["values"][:2] = [0.96, -0.96]
    change |= {"below": 0.07, "above": 0.07}
    load = difference_series(comparison).loads[0]
    assert (load.low[0], load.high[0]) == pytest.approx((0.89, 1.0))
    assert (load.low[1], load.high[1]) == pytest.approx((-1.0, -0.89))


def test_a_layer_that_cannot_be_flagged_is_not_said_to_be_clear() -> None:
    stats = make_stats()
    inputs = Inputs(runs=(Run("a", stats.report(QUICK), None, {}),))
    for router in inputs.runs[0].report["routers"]:
        router |= {"collapsed": None, "collapsed_reason": "scores tie", "collapsed_open": None}
    (strip,) = strips(inputs)
    assert {place.state for place in strip.places} == {"unknown"}
    assert "Layer 0: cannot be flagged (scores tie); " in strip.places[0].words
    assert strip.legend[0][2] == "cannot be flagged"


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("olmoe", ["routing_stats_olmoe_counts.json"]),
        ("nano", [f"routing_stats_nano_{domain}.json" for domain in ("math", "general", "code")]),
        ("compared", ["comparisons/nano_4bit.json"]),
    ],
)
def test_the_gallery_says_what_the_page_answers(name: str, files: list[str]) -> None:
    screens = json.loads((RESULTS.parent / "docs" / "gallery" / "first_screens.json").read_text(encoding="utf-8"))
    said = answer(read_inputs([RESULTS / file for file in files])).sentences
    shown_there = re.sub("[\u2066-\u2069]", "", " ".join(said))
    assert screens[name]["said"] == shown_there, "run python scripts/make_first_screens.py"
