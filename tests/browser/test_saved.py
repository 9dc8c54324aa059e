"""Pictures that the report saves and prints, from a real Chromium: vectors with text as text, sharp, wide as paper."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from page_inputs import HOSTILE, NANO, QUICK, RESULTS, hostile_pairs, training_folder, uneven_stats, written

pytestmark = pytest.mark.browser

WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
SVG = "{http://www.w3.org/2000/svg}"
A4, LETTER = 703, 725
"""Widths in CSS pixels between the margins of 12 mm: 186 and 191.9 mm."""

SEVEN_POINTS = 7 * 96 / 72


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of pages of several kinds."""
    folder = tmp_path_factory.mktemp("pages")
    two = [RESULTS / "routing_stats_nano_math.json", f"4bit={RESULTS / 'routing_stats_nano_4bit_math.json'}"]
    uneven_stats("many experts", "a" * 64).save(folder / "large_stats.json", QUICK)
    return {
        "nano": written(folder, NANO, "nano"),
        "compared": written(folder, two, "compared"),
        "training": written(folder, [training_folder(folder / "floor")], "training"),
        "hostile": written(folder, hostile_pairs(folder), "hostile"),
        "large": written(folder, [folder / "large_stats.json"], "large"),
    }


def saved(page: Any, figure: str, kind: str) -> bytes:
    with page.expect_download() as download:
        page.locator(f"#{figure} .tools").get_by_text(kind, exact=True).click()
    assert download.value.suggested_filename.endswith(f".{kind.lower()}")
    return Path(download.value.path()).read_bytes()


def test_every_figure_is_saved_as_vectors(open_page: Any, pages: dict[str, str]) -> None:
    page = open_page(pages["nano"], viewport=WIDE)
    figures = page.locator("figure").evaluate_all("(figures) => figures.map((figure) => figure.id)")
    for figure in figures:
        page.locator(f"#{figure}").scroll_into_view_if_needed()
        root = ElementTree.fromstring(saved(page, figure, "SVG"))
        texts = [element.text for element in root.iter(f"{SVG}text")]
        assert page.locator(f"#{figure} h3").inner_text() in texts
        assert "Unit" in " ".join(map(str, texts))
        assert not list(root.iter(f"{SVG}image"))
        assert len([*root.iter(f"{SVG}path"), *root.iter(f"{SVG}line")]) > 3
        assert not [e for e in root.iter() if e.get("visibility") == "hidden" or "selected" in str(e.get("class"))]


def test_a_saved_heatmap_has_every_cell_in_its_colour(open_page: Any, pages: dict[str, str]) -> None:
    page = open_page(pages["large"], viewport=WIDE)
    page.locator("#load-1").scroll_into_view_if_needed()
    root = ElementTree.fromstring(saved(page, "load-1", "SVG"))
    heat = next(iter(root.iter(f"{SVG}svg")), None)
    assert heat is not None
    cells = sum(path.get("d", "").count("M") for path in root.iter(f"{SVG}path") if path.get("shape-rendering"))
    assert cells >= 48 * 128
    colours = {path.get("fill") for path in root.iter(f"{SVG}path") if path.get("shape-rendering")}
    assert len(colours) > 50
    assert "47" in [element.text for element in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("figure", ["load-1", "layers-1", "coactivation-1"])
def test_a_saved_picture_is_sharp_and_the_same_from_a_phone(open_page: Any, pages: dict[str, str], figure: str) -> None:
    """Three pixels of the picture for each of the figure, drawn and not enlarged."""
    sizes = []
    for options in ({"viewport": WIDE}, {"viewport": PHONE, "has_touch": True, "is_mobile": True}):
        page = open_page(pages["nano"], **options)
        page.locator(f"#{figure}").scroll_into_view_if_needed()
        page.locator(f"#{figure} .plot > *").first.wait_for()
        content = saved(page, figure, "PNG")
        sizes.append((int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")))
    assert sizes[0] == sizes[1]
    assert sizes[0][0] >= 2800
    # Of what was enlarged three times, no two neighbours in a row differ at more than every third place.
    steps = page.evaluate(
        """async (data) => {
          const image = new Image();
          image.src = `data:image/png;base64,${data}`;
          await image.decode();
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.width, 200];
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const { data: pixels } = context.getImageData(0, 0, canvas.width, 200);
          const places = [0, 0, 0];
          for (let i = 4; i < pixels.length; i += 4)
            if (pixels[i] !== pixels[i - 4]) places[(i / 4) % 3] += 1;
          return places;
        }""",
        base64.b64encode(content).decode(),
    )
    assert min(steps) > 50


def test_a_dark_page_saves_a_dark_picture(open_page: Any, pages: dict[str, str]) -> None:
    page = open_page(pages["nano"], viewport=WIDE, color_scheme="dark")
    page.locator("#layers-1").scroll_into_view_if_needed()
    root = ElementTree.fromstring(saved(page, "layers-1", "SVG"))
    ground = next(root.iter(f"{SVG}rect")).get("fill")
    ink = {text.get("fill") for text in root.iter(f"{SVG}text")}
    assert ground == "#0f1318"
    assert ground not in ink


def test_hostile_names_are_text_in_a_saved_picture(open_page: Any, pages: dict[str, str]) -> None:
    page = open_page(pages["hostile"], viewport=WIDE)
    page.locator("#layers-1").scroll_into_view_if_needed()
    root = ElementTree.fromstring(saved(page, "layers-1", "SVG"))
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "title", "rect", "text", "line", "path", "circle", "g")
    }
    assert any(HOSTILE[:20] in str(element.text) for element in root.iter(f"{SVG}text"))
    assert saved(page, "layers-1", "PNG").startswith(b"\x89PNG")


def test_characters_that_xml_lacks_do_not_break_a_picture(open_page: Any, pages: dict[str, str]) -> None:
    page = open_page(pages["nano"], viewport=WIDE)
    page.locator("#load-1").scroll_into_view_if_needed()
    odd = r"svgText(MB.svg('text', {}, 'a\u0001b\ud800c\u{1f600}\ufffe&<'))"
    assert page.evaluate(odd).endswith(">a\ufffdb\ufffdc\U0001f600\ufffd&amp;&lt;</text>")


@pytest.mark.parametrize("width", [A4, LETTER], ids=["A4", "Letter"])
@pytest.mark.parametrize("name", ["nano", "compared", "training", "hostile", "large"])
def test_paper_shows_everything_at_a_size_that_can_be_read(
    open_page: Any, pages: dict[str, str], name: str, width: int
) -> None:
    """Nothing is wider than the paper, so that a browser shrinks nothing; no letter is below 7 points."""
    page = open_page(pages[name], viewport=WIDE)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.set_viewport_size({"width": width, "height": 1000})
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("figure .plot canvas").count() == 0  # vectors
    drawn = page.evaluate(
        """() => [...document.querySelectorAll("figure .plot svg")]
          .map((svg) => svg.getBoundingClientRect().width / Number(svg.getAttribute("width")))"""
    )
    assert min(drawn) == max(drawn) == 1
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
          .filter((e) => e.getClientRects().length && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
          .map((e) => parseFloat(getComputedStyle(e).fontSize))"""
    )
    assert min(sizes) >= SEVEN_POINTS


def test_printing_draws_on_paper_and_then_on_the_screen_again(open_page: Any, pages: dict[str, str]) -> None:
    page = open_page(pages["nano"], viewport=WIDE)
    page.locator("#load-1").scroll_into_view_if_needed()
    page.evaluate(
        "addEventListener('beforeprint', () => { window.printed = document.querySelectorAll('canvas').length })"
    )
    for paper, box in (("A4", (595, 842)), ("Letter", (612, 792))):
        pdf = page.pdf(format=paper)
        assert page.evaluate("window.printed") == 0
        sizes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
        assert {tuple(round(float(side)) for side in size) for size in sizes} <= {box, (box[0] + 1, box[1] + 1)}
    assert page.locator("#load-1 canvas").count() == 2
    page.locator("#load-1 .plot").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#tip").startswith("Layer 0, expert 0")
