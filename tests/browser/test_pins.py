"""Reading values of the report in a real Chromium: with a finger, a mouse, the keyboard, on any screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chromium import wait_until
from page_inputs import HEBREW, NANO, RESULTS, hostile_pairs, written

pytestmark = pytest.mark.browser

SCREENS = {
    "desktop": {"viewport": {"width": 1440, "height": 900}},
    "tablet": {"viewport": {"width": 1024, "height": 768}, "has_touch": True},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    "zoomed to 200%": {"viewport": {"width": 720, "height": 450}, "device_scale_factor": 2},
    "dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "forced colours": {"viewport": {"width": 1440, "height": 900}, "forced_colors": "active"},
    "reduced motion": {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"},
}
"""Options of a browser's context."""

WIDE, PHONE = SCREENS["desktop"], SCREENS["phone"]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of the embedded model on its three domains."""
    return written(tmp_path_factory.mktemp("page"), NANO)


def drawn(page: Any, figure: str) -> Any:
    """A figure, on the screen; it is drawn when it comes there."""
    plot = page.locator(f"#{figure} .plot")
    plot.scroll_into_view_if_needed()
    plot.locator("> *").first.wait_for()
    return plot


def cell(page: Any, figure: str, row: int, place: int) -> tuple[float, float]:
    """The middle of a cell of a heatmap in the window, found with the page's own keyboard."""
    plot = drawn(page, figure)
    plot.focus()
    for key in ["ArrowRight", "PageUp", "Home", *["ArrowDown"] * row, *["ArrowRight"] * place]:
        page.keyboard.press(key)
    box = page.locator(f"#{figure} .mark.pointed").bounding_box()
    plot.blur()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def press(page: Any, options: dict[str, Any], place: tuple[float, float]) -> None:
    """A tap where there is a finger, else a click."""
    if options.get("has_touch"):
        page.touchscreen.tap(*place)
    else:
        page.mouse.click(*place)


@pytest.mark.parametrize("screen", SCREENS)
def test_a_tap_or_click_shows_a_value_that_stays(open_page: Any, nano: str, screen: str) -> None:
    options = SCREENS[screen]
    page = open_page(nano, **options)
    press(page, options, cell(page, "load-1", 2, 3))
    page.wait_for_timeout(300)  # what leaves with the finger has left
    lines = page.locator(".pin").inner_text().splitlines()
    assert lines[0] == "Layer 2, expert 3"
    assert "selections by 15,258 tokens" in lines[1]
    box = page.locator(".pin").bounding_box()
    width = options["viewport"]["width"]
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    press(page, options, cell(page, "load-1", 0, 1))
    assert page.locator(".pin").inner_text().startswith("Layer 0, expert 1\n")
    heading = page.locator("#load-1 h3")
    heading.tap() if options.get("has_touch") else heading.click()
    assert page.locator(".pin").count() == 0
    assert page.locator(".mark.pinned").count() == 0


def test_a_finger_that_scrolls_pins_nothing(open_page: Any, nano: str) -> None:
    page = open_page(nano, **PHONE)
    x, y = cell(page, "load-1", 1, 3)
    touch = page.context.new_cdp_session(page)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for step in range(1, 9):
        point = {"x": x, "y": y - 20 * step}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(200)
    assert page.locator(".pin").count() == 0
    assert page.locator("#tip").is_hidden()


def test_a_pin_stays_through_hovering_and_scrolling(open_page: Any, nano: str) -> None:
    page = open_page(nano, **WIDE)
    x, y = cell(page, "load-1", 2, 3)
    page.mouse.click(x, y)
    before = page.locator(".pin").bounding_box()["y"] + page.evaluate("scrollY")
    page.mouse.move(x + 150, y)
    assert page.inner_text("#tip").startswith("Layer 2, expert ")
    page.mouse.wheel(0, 120)
    page.wait_for_timeout(200)
    assert page.locator("#tip").is_hidden()
    assert page.locator(".pin").bounding_box()["y"] + page.evaluate("scrollY") == pytest.approx(before, abs=1)


def test_the_same_click_again_and_escape_let_go(open_page: Any, nano: str) -> None:
    page = open_page(nano, **WIDE)
    place = cell(page, "load-1", 2, 3)
    page.mouse.click(*place)
    page.mouse.click(*place)
    assert page.locator(".pin").count() == 0
    page.mouse.click(*place)
    page.keyboard.press("Escape")
    assert page.locator(".pin").count() == 0
    assert page.locator(".chosen").is_visible()
    page.keyboard.press("Escape")
    assert page.locator(".chosen").is_hidden()


def test_enter_pins_and_tab_leads_to_copy_and_close(open_page: Any, nano: str) -> None:
    page = open_page(nano, **WIDE)
    drawn(page, "layers-1").focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert "layer 1" in page.locator(".pin").inner_text()
    assert page.inner_text("#live").endswith("Pinned")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Copy these values"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".pin").count() == 0
    assert page.evaluate("document.activeElement.closest('figure').id") == "layers-1"


@pytest.mark.parametrize("allowed", [True, False], ids=["clipboard", "fallback"])
def test_values_are_copied_from_disk(open_page: Any, nano: str, allowed: bool) -> None:
    assert nano.startswith("file:")
    page = open_page(nano, **WIDE, permissions=["clipboard-read", "clipboard-write"])
    if not allowed:
        refuse = "() => Promise.reject(new Error('refused'))"
        page.evaluate(f"Object.defineProperty(navigator.clipboard, 'writeText', {{ value: {refuse} }})")
    page.mouse.click(*cell(page, "load-1", 2, 3))
    page.locator(".pin").get_by_text("Copy", exact=True).click()
    page.locator(".pin").get_by_text("Copied", exact=True).wait_for()
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[:2] == ["Layer by expert load: all domains", "Layer 2, expert 3"]
    assert "[" in lines[3]


def test_ctrl_c_copies_what_is_pinned(open_page: Any, nano: str) -> None:
    page = open_page(nano, **WIDE, permissions=["clipboard-read", "clipboard-write"])
    drawn(page, "coactivation-1").focus()
    for key in ("ArrowRight", "ArrowRight", "Enter", "Control+c"):
        page.keyboard.press(key)
    assert page.evaluate("navigator.clipboard.readText()").startswith("Experts 0 and 1, layer 0\n")


def test_a_pinned_expert_is_shown_in_all_figures(open_page: Any, nano: str) -> None:
    page = open_page(nano, **WIDE)
    for figure in ("load-1", "domains-5", "coactivation-1", "layers-1"):
        drawn(page, figure)
    page.mouse.click(*cell(page, "load-1", 4, 6))
    assert page.evaluate("MB.selection") == {"router": 4, "expert": 6}
    assert page.locator(".chosen").inner_text().startswith("Layer 4, expert 6 selected")
    drawn(page, "layers-1").locator("rect.selected").wait_for(state="attached")
    assert page.locator("#domains-5 h3").inner_text() == "Experts by domain, layer 4"
    drawn(page, "domains-5").locator(".mark.selected").wait_for(state="attached")
    assert page.locator("#coactivation-1 h3").inner_text().endswith("of layer 4")
    drawn(page, "coactivation-1").locator(".mark.selected").nth(1).wait_for(state="attached")
    # The list of layers of one figure is that of the others.
    page.locator("#coactivation-1").get_by_label("Layer", exact=True).select_option(label="1")
    assert page.locator("#domains-5 h3").inner_text() == "Experts by domain, layer 1"
    page.locator(".chosen").get_by_text("Clear", exact=True).click()
    assert page.locator(".chosen").is_hidden()
    wait_until(page, "document.querySelectorAll('.mark.selected, rect.selected').length === 0")


def test_scripts_select_and_are_told(open_page: Any, nano: str) -> None:
    page = open_page(nano, **WIDE)
    page.evaluate("MB.onSelect((chosen) => (window.told ??= []).push({ ...chosen }))")
    assert page.evaluate("MB.select({ router: 2 })") is True
    assert page.evaluate("MB.select({ router: 2 })") is False
    page.evaluate("MB.select({ expert: 15 })")
    page.evaluate("MB.select({ router: 99, expert: 'x' })")  # what is not there is none
    assert page.evaluate("window.told") == [
        {"router": 2, "expert": None},
        {"router": 2, "expert": 15},
        {"router": None, "expert": None},
    ]


def test_routers_are_found_by_layer_and_kind(open_page: Any, tmp_path: Path) -> None:
    page = open_page(written(tmp_path, hostile_pairs(tmp_path)), **WIDE)
    routers = page.evaluate("MB.data.routers")
    assert [page.evaluate(f"MB.routerOf({r['layer']}, '{r['router']}')") for r in routers] == list(range(len(routers)))
    page.mouse.click(*cell(page, "load-1", 1, 1))
    assert page.evaluate("MB.selection.router") == 1


def test_a_right_to_left_name_is_copied_without_its_marks(open_page: Any, tmp_path: Path) -> None:
    page = open_page(
        written(tmp_path, hostile_pairs(tmp_path)), **WIDE, permissions=["clipboard-read", "clipboard-write"]
    )
    page.locator("#load").get_by_label("Data", exact=True).select_option(index=2)
    page.mouse.click(*cell(page, "load-1", 0, 0))
    page.locator(".pin").get_by_text("Copy", exact=True).click()
    page.locator(".pin").get_by_text("Copied", exact=True).wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert HEBREW[1:6] in copied
    assert not set(copied) & set("\u2066\u2067\u2068\u2069\u202e")


def test_a_pin_of_a_chart_of_steps_selects_nothing(open_page: Any, tmp_path: Path) -> None:
    page = open_page(
        written(tmp_path, [RESULTS / "routing_stats_nano_math.json", RESULTS / "uncertainty" / "nano_math.json"]),
        **WIDE,
    )
    drawn(page, "uncertainty-1").focus()
    for key in ("ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.locator(".pin").count() == 1
    assert page.evaluate("MB.selection") == {"router": None, "expert": None}
