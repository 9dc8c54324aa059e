"""The demo for readers with other needs: the rules of axe, forced colours, large letters, paper, another browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chromium import assert_accessible, wait_until
from demo_server import wait_for
from firefox import Firefox

pytestmark = pytest.mark.browser

pytest.importorskip("gradio", reason="gradio is not installed (extra demo)")
pytest.importorskip("mlx.core", reason="needs MLX to route texts")

WIDE = {"width": 1440, "height": 900}


def in_use(open_page: Any, url: str, **options: Any) -> Any:
    """The demo with a routed text and an expert chosen."""
    page = open_page(url, offline=False, **{"viewport": WIDE} | options)
    wait_for(page, "through 6 routers")
    page.locator("#text-a textarea").fill("one two three")
    wait_for(page, "moebench-nano: 3 tokens")
    page.locator(".mm-cell").nth(4).click()
    page.locator(".mt-takes").first.wait_for()
    return page


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"forced_colors": "active"}], ids=str)
def test_axe_finds_no_violation(open_page: Any, demo: tuple[str, Path], options: dict[str, Any]) -> None:
    assert_accessible(in_use(open_page, demo[0], **options))


def test_forced_colours_keep_data_and_show_what_is_chosen(open_page: Any, demo: tuple[str, Path]) -> None:
    page = in_use(open_page, demo[0], forced_colors="active")
    styles = "(selector) => { const s = getComputedStyle(document.querySelector(selector)); return {...s}; }"
    of = {name: page.evaluate(styles, name) for name in ("#route", "[type=radio]", ".mm-cell", ".moebench-tokens mark")}
    assert of["#route"]["borderTopWidth"] == "1px"  # Gradio draws a button by its background alone
    assert of["[type=radio]"]["appearance"] == "auto"
    assert of[".mm-cell"]["forcedColorAdjust"] == "none"
    assert of[".moebench-tokens mark"]["color"] != of[".moebench-tokens mark"]["backgroundColor"]


def test_twice_as_large_nothing_is_beyond_the_edge(open_page: Any, demo: tuple[str, Path]) -> None:
    page = in_use(open_page, demo[0], viewport={"width": 720, "height": 450}, device_scale_factor=2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 720


def test_paper_is_white_and_has_everything(open_page: Any, demo: tuple[str, Path]) -> None:
    page = in_use(open_page, demo[0], color_scheme="dark")
    colour = "getComputedStyle(document.querySelector('#tokens h2')).color"
    text = "document.querySelector('.mm-cell')?.parentNode.querySelector('text').getAttribute('fill')"
    dark = page.evaluate(text)
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(colour) == "rgb(27, 31, 36)"
    assert not page.locator("#actions").is_visible()
    assert not page.locator("#offer").is_visible()
    # What Chromium lays out as columns, or cuts off at its own height, loses its last page.
    layouts = """() => { const seen = []; let at = document.querySelector("#routers");
      while ((at = at.parentElement)) seen.push(getComputedStyle(at).display + getComputedStyle(at).overflow);
      return seen; }"""
    assert set(page.evaluate(layouts)) == {"blockvisible"}
    page.emulate_media(media="screen", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    wait_until(page, f"{text} === {dark!r}")


def test_in_firefox_a_text_is_routed_and_an_expert_chosen(firefox: Firefox, demo: tuple[str, Path]) -> None:
    firefox.open(demo[0])
    firefox.wait("document.querySelector('#message')?.innerText.includes('through 6 routers')")
    firefox.run("document.querySelector('#text-a textarea').select()")
    firefox.type("#text-a textarea", "three words more")
    firefox.wait("document.querySelector('#message').innerText.includes('moebench-nano: 4 tokens')")
    firefox.wait("document.querySelectorAll('.mp-map .mm-cell').length === 6 * 4")
    firefox.wait("document.querySelectorAll('#heatmap rect title').length === 6 * 16")
    firefox.run("document.querySelector('.mp-map').scrollIntoView()")
    firefox.point("mouse", ".mm-cell", 5, 5)
    firefox.wait("document.querySelector('.mp-words').innerText.includes('All its experts (weight)')")
    chosen = firefox.wait("document.querySelector('.mt-experts [aria-pressed=true]')?.dataset.expert")
    assert f"First expert {chosen}," in firefox.run("return document.querySelector('.mp-words').innerText")
    firefox.run("document.querySelector('#report').click()")
    firefox.wait("document.querySelector('#page iframe') !== null")
