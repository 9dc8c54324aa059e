"""The HTML report for readers with other needs, in a real Chromium: the rules of axe, targets, keyboard, colours."""

from __future__ import annotations

from typing import Any

import pytest
from chromium import assert_accessible
from page_inputs import NANO, RESULTS, hostile_pairs, training_folder, written

pytestmark = pytest.mark.browser

WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of pages of several kinds."""
    folder = tmp_path_factory.mktemp("pages")
    two = [RESULTS / "routing_stats_nano_math.json", f"4bit={RESULTS / 'routing_stats_nano_4bit_math.json'}"]
    return {
        "nano": written(folder, NANO, "nano"),
        "compared": written(folder, two, "compared"),
        "training": written(folder, [training_folder(folder / "floor")], "training"),
        "hostile": written(folder, hostile_pairs(folder), "hostile"),
    }


def in_use(page: Any) -> None:
    """All figures drawn, all tables open, a value pinned."""
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    page.evaluate("document.querySelectorAll('main details').forEach((details) => (details.open = true))")
    page.locator("#load-1 .plot").focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.locator(".pin").wait_for()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nano", {"viewport": WIDE}),
        ("nano", {"viewport": WIDE, "color_scheme": "dark"}),
        ("nano", {"viewport": PHONE, "has_touch": True, "is_mobile": True}),
        ("compared", {"viewport": WIDE}),
        ("training", {"viewport": WIDE}),
        ("hostile", {"viewport": WIDE}),
    ],
    ids=["light", "dark", "phone", "compared", "training", "hostile names"],
)
def test_axe_finds_no_violation(open_page: Any, pages: dict[str, str], name: str, options: dict[str, Any]) -> None:
    page = open_page(pages[name], **options)
    in_use(page)
    assert_accessible(page)


def test_what_is_pressed_is_large_enough_for_a_finger(open_page: Any, pages: dict[str, str]) -> None:
    """24 CSS pixels both ways, as WCAG 2.2 asks."""
    page = open_page(pages["nano"], viewport=PHONE, has_touch=True, is_mobile=True)
    in_use(page)
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("main button, main select, .anchor, .chosen button, summary, #theme")]
          .filter((element) => element.getClientRects().length)
          .map((element) => [element.outerHTML.slice(0, 80), element.getBoundingClientRect()])
          .filter(([, box]) => Math.min(box.width, box.height) < 24)
          .map(([words, box]) => `${words}: ${box.width} x ${box.height}`)"""
    )
    assert sizes == []


def test_forced_colours_reach_what_is_drawn(open_page: Any, pages: dict[str, str]) -> None:
    page = open_page(pages["nano"], viewport=WIDE, forced_colors="active")
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    assert page.evaluate("[MB.colour('fg'), MB.colour('bg')]") == ["CanvasText", "Canvas"]
    fills = page.evaluate("[...document.querySelectorAll('#layers-1 svg text')].map((t) => t.getAttribute('fill'))")
    assert set(fills) == {"CanvasText"}
    assert page.evaluate("getComputedStyle(document.querySelector('#load-1 .heat')).forcedColorAdjust") == "none"


def test_the_whole_page_can_be_used_by_keyboard(open_page: Any, pages: dict[str, str]) -> None:
    """Tab goes through everything, in the order of the page, and comes out at its end."""
    page = open_page(pages["nano"], viewport=WIDE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    seen: list[str] = []
    for _ in range(200):
        page.keyboard.press("Tab")
        at = page.evaluate("document.activeElement.closest('figure, section')?.id ?? ''")
        if not seen or seen[-1] != at:
            seen.append(at)
        if at == "provenance":
            break
    figures = [name for name in seen if "-" in name]
    assert figures == page.locator("figure").evaluate_all("(figures) => figures.map((figure) => figure.id)")
    assert seen[-1] == "provenance"
