"""The first screen in a real Chromium: the answer, the strip of layers beside it, and what it says without colours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import wait_until
from page_inputs import NANO, QUICK, RESULTS, training_folder, uneven_stats
from routing_reference import make_stats

from mlx_moebench.routing.tally import SCALARS
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page import build_page

pytestmark = pytest.mark.browser

WIDE, NARROW, PHONE = ({"width": w, "height": h} for w, h in ((1440, 900), (1024, 800), (390, 844)))


def written(folder: Path, arguments: list[Any]) -> str:
    path = folder / "page.html"
    path.write_text(build_page(read_inputs(arguments, plan=QUICK)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("page"), NANO)


@pytest.mark.parametrize("size", [WIDE, NARROW, PHONE])
def test_answer_and_layers_stand_in_the_first_screen(open_page: Any, nano: str, size: dict[str, int]) -> None:
    page = open_page(nano, viewport=size)
    said, strip = (page.locator(name).bounding_box() for name in (".said", ".strip"))
    assert page.locator(".strip a").count() == 6
    assert strip["y"] + strip["height"] < size["height"]
    assert (strip["x"] > said["x"] + said["width"] - 1) == (size is not PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert "Strongest: expert" in page.inner_text(".lead")


def test_sentence_strip_and_table_do_not_contradict_each_other(open_page: Any, nano: str) -> None:
    """Each names the same word for the same layers, the strongest expert is that of its layer's cell, and no flag of
    one domain stands beside findings over several."""
    page = open_page(nano, viewport=WIDE)
    said = page.inner_text(".lead")
    cells = page.locator(".strip .unseen").all_text_contents()
    words = [found[1] for found in (re.match(r"Layer \d+: (\w+)", text) for text in cells) if found]
    assert len(words) == 6
    counted: dict[str, int] = {}
    for number, which in re.findall(r"in (\d+) of 6 layers[^;.]*\((\w+)\)", said):
        counted[which] = counted.get(which, 0) + int(number)
    assert counted == {word: words.count(word) for word in words}
    ((expert, layer, size),) = re.findall(r"Strongest: expert (\d+) of layer (\d+) takes (\d+%)", said)
    cell = page.locator(".strip a").nth(int(layer))
    assert cell.locator(".size").inner_text() == size
    assert f"expert {expert} takes {size}" in cell.get_attribute("title")
    assert not re.search("collapsed|flagged|tau|undetermined", page.inner_text("#answer .said"))


def test_a_layer_that_cannot_be_flagged_is_not_said_to_be_clear(open_page: Any, tmp_path: Path) -> None:
    """As after a training that ruined a router, when all scores tie."""
    stats = make_stats()
    for sums in stats._sums:
        sums._arrays["scalars"][:, SCALARS.index("tied")] = sums._arrays["n_tokens"]
        sums._arrays["scalars"][:, SCALARS.index("selection_margin")] = 0
    stats.save(tmp_path / "tied.json", QUICK)
    page = open_page(written(tmp_path, [tmp_path / "tied.json"]), viewport=WIDE)
    assert page.locator(".strip .letter").all_inner_texts() == ["x"] * 3
    assert "cannot be flagged" in page.inner_text(".states")
    assert "can be flagged: scores tie" in page.inner_text(".lead")


@pytest.mark.parametrize("size", [WIDE, NARROW, PHONE])
def test_intervals_fit_their_cells(open_page: Any, tmp_path: Path, size: dict[str, int]) -> None:
    page = open_page(written(tmp_path, [RESULTS / "comparisons" / "nano_4bit.json"]), viewport=size)
    for text in ("0.02 to 0.03", "99.6 to 100%", "99 to >99.9%"):
        page.evaluate("(text) => document.querySelectorAll('.ends').forEach((e) => { e.textContent = text; })", text)
        over = "[...document.querySelectorAll('.strip a')].filter((a) => a.scrollWidth > a.clientWidth).length"
        assert page.evaluate(over) == 0, text


def test_48_layers_of_128_experts_fit_the_first_screen(open_page: Any, tmp_path: Path) -> None:
    for sha in "ab":
        uneven_stats(f"domain {sha}", sha * 64, tokens=100).save(tmp_path / f"{sha}.json", QUICK)
    page = open_page(written(tmp_path, sorted(tmp_path.glob("?.json"))), viewport=WIDE)
    assert page.locator(".strip a").count() == 48
    box = page.locator(".strip").bounding_box()
    assert box["y"] + box["height"] < WIDE["height"]


def test_a_layer_is_told_by_letter_number_and_words(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE, forced_colors="active")
    first = page.locator(".strip a").first
    assert first.locator(".letter").inner_text() in "CDISB?"
    assert first.locator(".size").inner_text().endswith("%")
    assert " to " in first.locator(".ends").inner_text()
    assert first.get_attribute("title").startswith("Layer 0: ")
    assert first.locator(".unseen").text_content() == first.get_attribute("title")
    legend = page.locator(".states").inner_text()
    for letter in set(page.locator(".strip .letter").all_inner_texts()):
        assert letter in legend


def test_a_click_on_a_layer_goes_to_its_figures(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    page.locator(".strip a").nth(4).click()
    wait_until(page, "Math.abs(document.getElementById('domains').getBoundingClientRect().top) < 200")
    assert page.evaluate("location.hash").startswith("#domains")
    chosen = page.locator("#domains").get_by_label("Layer", exact=True).first
    assert chosen.evaluate("(select) => select.value") == "4"


def test_words_and_table_are_folded_and_open(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    assert page.locator(".words dl").is_hidden()
    assert page.locator("table.facts").is_hidden()
    page.locator(".words summary").click()
    assert "told by" in page.inner_text(".words dl") or "specialised:" in page.inner_text(".words dl")
    page.locator("details.table summary").click()
    assert page.locator("table.facts").is_visible()
    assert "collapsed" not in page.inner_text("table.facts")


def test_a_training_that_went_wrong_is_an_alert_in_words(open_page: Any, tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "floor")
    log = folder / "training_log.jsonl"
    lines = log.read_text().splitlines()[:30]
    ends = [json.dumps({"step": 0, "val_ce": 4.39}), *lines, json.dumps({"step": 30, "val_ce": 6.55})]
    log.write_text("\n".join(ends) + "\n")
    page = open_page(written(tmp_path, [folder]), viewport=WIDE)
    alert = page.get_by_role("alert")
    assert alert.inner_text().startswith("Went wrong: training floor: validation loss rose from 4.390 to 6.550")
    assert alert.bounding_box()["y"] < 300
    red = alert.evaluate("(p) => getComputedStyle(p).borderTopColor")
    assert red == "rgb(179, 18, 43)"


def test_nothing_to_draw_of_pairs_has_no_lists_around_it(open_page: Any, tmp_path: Path) -> None:
    page = open_page(written(tmp_path, [RESULTS / "routing_stats_olmoe_counts.json"]), viewport=WIDE)
    section = page.locator("#coactivation")
    assert "there is nothing to draw: " in section.inner_text()
    assert section.locator("select, button, figure").count() == 0


def test_no_null_is_shown(open_page: Any, tmp_path: Path) -> None:
    page = open_page(written(tmp_path, [RESULTS / "routing_stats_olmoe_counts.json"]), viewport=WIDE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert "null" not in page.inner_text("body")
