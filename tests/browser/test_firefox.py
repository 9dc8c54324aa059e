"""The HTML report in a real Firefox, from disk: what differs most between browsers."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from firefox import Firefox
from page_inputs import NANO, QUICK

from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page import build_page

pytestmark = pytest.mark.browser

ENTER, RIGHT, ESCAPE = "\ue007", "\ue014", "\ue00c"
PINNED = "document.querySelector('.pin')?.innerText ?? ''"


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of the embedded model on its three domains."""
    path = tmp_path_factory.mktemp("page") / "nano.html"
    path.write_text(build_page(read_inputs(NANO, plan=QUICK)), encoding="utf-8")
    return path.as_uri()


def show(firefox: Firefox, figure: str) -> None:
    """Bring a figure onto the screen, where it is drawn."""
    firefox.run("document.querySelector(arguments[0]).scrollIntoView()", f"#{figure}")
    firefox.wait(f"document.querySelector('#{figure} .plot > *') !== null")


@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_a_click_or_tap_pins(firefox: Firefox, nano: str, kind: str) -> None:
    firefox.open(nano)
    show(firefox, "load-1")
    firefox.point(kind, "#load-1 canvas", 300, 50)
    lines = firefox.wait(PINNED).splitlines()
    assert lines[0].startswith("Layer 1, expert ")
    time.sleep(0.3)  # what leaves with the finger has left
    assert firefox.run(f"return {PINNED}").splitlines() == lines
    firefox.wait("location.hash.startsWith('#load-1?router=1&expert=')")
    firefox.point(kind, "#load-1 h3", 5, 5)
    firefox.wait("document.querySelector('.pin') === null")


def test_hovering_and_keys(firefox: Firefox, nano: str) -> None:
    firefox.open(nano)
    show(firefox, "load-1")
    firefox.point("mouse", "#load-1 canvas", 300, 50, press=False)
    assert firefox.wait("!tip.hidden && tip.innerText").startswith("Layer 1, expert ")
    firefox.type("#load-1 .plot", RIGHT + RIGHT + ENTER)
    assert "expert" in firefox.wait(PINNED)
    firefox.type("#load-1 .plot", ESCAPE)
    firefox.wait("document.querySelector('.pin') === null")


def test_the_address_keeps_what_was_chosen(firefox: Firefox, nano: str) -> None:
    firefox.open(nano)
    firefox.run(
        "const s = document.querySelector('#load-1 select'); s.value = '1'; s.dispatchEvent(new Event('change'))"
    )
    firefox.wait("location.hash === '#load-1?load-1.view=1'")
    firefox.run("document.querySelector('nav a[href=\"#domains\"]').click()")
    firefox.wait("location.hash === '#domains?load-1.view=1'")
    firefox("WebDriver:Back")
    firefox("WebDriver:Back")
    firefox.wait("document.querySelector('#load-1 h3').textContent.endsWith('all domains')")
    firefox("WebDriver:Forward")
    firefox.wait("document.querySelector('#load-1 h3').textContent.endsWith('code')")
    firefox.open(f"{nano}#domains?load-1.view=1&router=2")
    firefox.wait("document.querySelector('#load-1 h3').textContent.endsWith('code')")
    assert firefox.run("return document.querySelector('#domains-5 select').value") == "2"


def test_pictures_are_saved(firefox: Firefox, nano: str) -> None:
    firefox.open(nano)
    for figure in ("load-1", "layers-1"):
        show(firefox, figure)
        before = set(firefox.saved.iterdir())
        for kind in ("SVG", "PNG"):
            firefox.run(
                "[...document.querySelectorAll(arguments[0])].find((b) => b.textContent === arguments[1]).click()",
                f"#{figure} .tools button",
                kind,
            )
        started = time.monotonic()
        while len(files := {f for f in set(firefox.saved.iterdir()) - before if f.stat().st_size}) < 2:
            assert time.monotonic() - started < 30
            time.sleep(0.1)
        time.sleep(0.5)
        svg, png = (next(f for f in files if f.suffix == suffix) for suffix in (".svg", ".png"))
        assert "layer" in "".join(ElementTree.parse(svg).getroot().itertext())
        assert png.read_bytes().startswith(b"\x89PNG")


def test_a_narrow_window_and_paper(firefox: Firefox, nano: str) -> None:
    firefox.open(nano, width=460)
    show(firefox, "load-1")
    assert firefox.run("return document.documentElement.scrollWidth - innerWidth") <= 0
    pdf = base64.b64decode(firefox("WebDriver:Print")["value"])
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000
    assert firefox.wait("document.querySelector('#load-1 canvas') !== null")  # after printing, a canvas again


def test_nothing_is_asked_of_a_network(firefox: Firefox, nano: str, tmp_path: Path) -> None:
    firefox.open(nano)
    assert firefox.run("return performance.getEntriesByType('resource').length") == 0
