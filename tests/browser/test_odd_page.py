"""The HTML report in a real Chromium where names are long, lines many, and the reader has a keyboard or paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from page_inputs import NANO, QUICK, RESULTS, written
from routing_reference import make_stats

from mlx_moebench.show.figures import Line, Points, styles_of
from mlx_moebench.show.page.data import look

pytestmark = pytest.mark.browser

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of the embedded model on its three domains."""
    return written(tmp_path_factory.mktemp("page"), NANO)


def drawn(page: Any, section: str) -> Any:
    """The first figure of a section, on the screen; it is drawn when it comes there."""
    plot = page.locator(f"#{section} .plot").first
    plot.scroll_into_view_if_needed()
    plot.locator("> *").first.wait_for()
    return plot


def test_dotted_lines_carry_their_name(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    drawn(page, "layers")
    assert page.locator("#layers .line-name").all_text_contents() == ["ln E"]
    page.locator("#layers").get_by_label("Quantity", exact=True).select_option(label="Busiest expert, of tokens")
    assert page.locator("#layers .line-name").all_text_contents() == ["K/E"]
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    names = page.locator("#domains .line-name").all_text_contents()
    assert names == ["4 times the even odds, dominated above", "r = 0.5"]


def test_a_name_of_any_length_leaves_room_for_the_picture(open_page: Any, tmp_path: Path) -> None:
    for letter, name in (("a", "long" * 1250), ("b", "short")):
        stats = make_stats(sha=letter * 64)
        stats.sources[letter * 64]["name"] = name
        stats.save(tmp_path / f"{letter}.json", QUICK)
    page = open_page(written(tmp_path, [tmp_path / "a.json", tmp_path / "b.json"]), viewport=PHONE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    assert page.evaluate("Math.max(...[...document.querySelectorAll('canvas')].map((c) => c.width))") < 2000
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_long_name_in_a_heading_does_not_widen_a_phone(open_page: Any, tmp_path: Path) -> None:
    place = tmp_path / ("statistics_" * 8 + ".json")
    make_stats().save(place, QUICK)
    make_stats(phase="decode").save(tmp_path / "decode.json", QUICK)
    page = open_page(written(tmp_path, [place, tmp_path / "decode.json"]), viewport=PHONE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_keyboard_stays_on_a_button_of_the_legend(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    drawn(page, "layers")
    page.locator("#layers .legend button").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "false"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


def test_many_lines_differ(open_page: Any, nano: str) -> None:
    page = open_page(nano)
    for domains in ([None] * 32, ["", *map(str, range(31))]):
        lines = [Line("", Points((), (), ()), (), domain=domain) for domain in domains]
        numbers = [look(line, style) for line, style in zip(lines, styles_of(lines), strict=True)]
        looks = page.evaluate("(numbers) => numbers.map(MB.style).map(({ colour, dash }) => colour + dash)", numbers)
        assert len(set(looks)) == 32


def test_paper_has_the_provenance(open_page: Any, tmp_path: Path) -> None:
    page = open_page(written(tmp_path, [NANO[0], RESULTS / "routing_stats_nano_4bit_math.json"]), viewport=WIDE)
    assert page.locator("#provenance details[open]").count() == 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#provenance details[open]").count() == page.locator("#provenance details").count() > 1
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#provenance details[open]").count() == 0
