"""The address of the report in a real Chromium: it holds what was chosen, and opens the page with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chromium import wait_until
from page_inputs import NANO, QUICK

from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page import build_page

pytestmark = pytest.mark.browser

WIDE = {"width": 1400, "height": 900}


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of the embedded model on its three domains."""
    path = tmp_path_factory.mktemp("page") / "nano.html"
    path.write_text(build_page(read_inputs(NANO, plan=QUICK)), encoding="utf-8")
    return path.as_uri()


def choose(page: Any, part: str, label: str, option: str) -> None:
    page.locator(f"#{part}").get_by_label(label, exact=True).first.select_option(label=option)


def chosen(page: Any) -> dict[str, Any]:
    """Everything on the page that a reader can have changed."""
    return dict(
        page.evaluate(
            """() => ({
              lists: [...document.querySelectorAll("main select")].map((select) => select.value),
              selection: { ...MB.selection },
              lines: [...document.querySelectorAll(".legend button")].map((b) => b.getAttribute("aria-pressed")),
              tables: [...document.querySelectorAll("figure details")].map((details) => details.open),
              headings: [...document.querySelectorAll("figure h3")].map((heading) => heading.textContent),
            })"""
        )
    )


def change_everything(page: Any) -> None:
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    choose(page, "load", "Data", "code")
    choose(page, "load", "Experts in the order of", "their load, each layer its own")
    choose(page, "layers", "Quantity", "Gini coefficient of the load")
    page.locator("#layers-1 .legend button").nth(2).click()
    choose(page, "coactivation-1", "Layer", "3")
    page.evaluate("MB.select({ expert: 7 })")
    page.locator("#layers-1 summary").click()
    wait_until(page, "location.hash.includes('layers-1.table')")


def test_a_link_opens_the_page_as_it_was_left(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    untouched = chosen(page)
    change_everything(page)
    left = chosen(page)
    assert left != untouched
    other = open_page(page.url, viewport=WIDE)
    other.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    assert chosen(other) == left
    assert other.locator("#layers-1 tbody tr").count() > 0


def test_the_theme_is_the_readers_own(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE, color_scheme="light")
    page.click("#theme")
    choose(page, "load", "Data", "code")
    other = open_page(page.url, viewport=WIDE, color_scheme="light")
    assert other.get_attribute("#theme", "aria-pressed") == "false"


def test_back_and_forward_go_through_what_was_chosen(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    data = page.locator("#load").get_by_label("Data", exact=True)
    first = page.url
    choose(page, "load", "Data", "code")
    choose(page, "load", "Data", "math")
    choose(page, "coactivation-1", "Layer", "2")
    page.go_back()
    wait_until(page, "MB.selection.router === null")
    assert page.locator("#domains-5").get_by_label("Layer", exact=True).input_value() == "0"
    page.go_back()
    wait_until(page, "document.querySelector('#load-1 h3').textContent.endsWith('code')")
    page.go_back()
    wait_until(page, "document.querySelector('#load-1 h3').textContent.endsWith('all domains')")
    assert (page.url, data.input_value()) == (first, "0")
    for _ in range(3):
        page.go_forward()
    wait_until(page, "MB.selection.router === 2")
    assert page.locator("#load-1 h3").inner_text().endswith("math")


def test_values_looked_at_one_after_the_other_are_one_step_back(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    choose(page, "load", "Data", "code")
    plot = page.locator("#load-1 .plot")
    plot.focus()
    for key in ("ArrowRight", "Enter", "ArrowRight", "Enter", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("MB.selection") == {"router": 1, "expert": 1}
    page.go_back()
    wait_until(page, "MB.selection.router === null")
    assert page.locator("#load-1 h3").inner_text().endswith("code")


def test_every_figure_has_a_link_that_leads_to_it(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE, permissions=["clipboard-read", "clipboard-write"])
    choose(page, "load", "Data", "code")
    figures = page.locator("figure")
    names = figures.evaluate_all("(figures) => figures.map((figure) => figure.id)")
    assert len(set(names)) == len(names) >= 6
    link = page.locator("#coactivation-1 .anchor")
    link.click()
    wait_until(page, "document.querySelector('#coactivation-1 .anchor').textContent === 'Link copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.url == f"{nano}#coactivation-1?load-1.view=1"
    other = open_page(copied, viewport=WIDE)
    top = "document.getElementById('coactivation-1').getBoundingClientRect().top"
    wait_until(other, f"{top} > -5 && {top} < innerHeight")
    assert other.locator("#load-1 h3").inner_text().endswith("code")


def test_links_within_the_page_keep_what_was_chosen(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    choose(page, "load", "Data", "code")
    page.locator("nav").get_by_text("Domains", exact=True).click()
    assert page.url == f"{nano}#domains?load-1.view=1"
    assert page.locator("#load-1 h3").inner_text().endswith("code")
    assert page.evaluate("document.getElementById('domains').getBoundingClientRect().top") < 500
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "answer"


@pytest.mark.parametrize(
    "address",
    [
        "#load-1?load-1.view=99&router=-1&expert=1e9&layers-1.lines=x.99h.0h&nothing=1",
        "#%E0%A4%A?router=%00&load.order=%3Cscript%3E",
        "#<img src=x onerror=window.hit=1>?router=<b>&__proto__=1&constructor.name=2",
        "#figures?router=5?expert=2",
    ],
)
def test_an_address_of_others_does_no_harm(open_page: Any, nano: str, address: str) -> None:
    page = open_page(nano + address, viewport=WIDE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    assert page.evaluate("window.hit") is None
    assert page.locator("#load-1 h3").inner_text().endswith("all domains")
    choose(page, "load", "Data", "code")
    assert page.locator("#load-1 h3").inner_text().endswith("code")
    assert page.url.startswith(f"{nano}#load-1?")


def test_a_page_in_a_frame_without_an_address_works(open_page: Any, nano: str, tmp_path: Path) -> None:
    """As notebooks and mail programmes show it: the frame's own address cannot be changed."""
    html = Path(nano.removeprefix("file://")).read_text(encoding="utf-8")
    (tmp_path / "outer.html").write_text("<!doctype html><iframe id=f width=1200 height=800></iframe>")
    page = open_page((tmp_path / "outer.html").as_uri(), viewport=WIDE)
    page.evaluate("(html) => { f.sandbox = 'allow-scripts'; f.srcdoc = html; }", html)
    frame = page.frame_locator("#f")
    frame.locator("#load").get_by_label("Data", exact=True).select_option(label="code")
    assert frame.locator("#load-1 h3").inner_text().endswith("code")
