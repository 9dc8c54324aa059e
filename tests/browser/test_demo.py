"""The demo in Chromium: text in, token view, heatmap and table out, on the embedded model, asking nothing of others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from chromium import wait_until
from demo_server import ADAPTER, SECONDS, wait_for

pytestmark = pytest.mark.browser

pytest.importorskip("gradio", reason="gradio is not installed (extra demo)")
pytest.importorskip("mlx.core", reason="needs MLX to route texts")

HOSTILE = "</script><img src=x onerror=document.title='owned'> <b>bold</b> שלום עולם \u202e&lt;"


def tokens(page: Any) -> list[str]:
    found: list[str] = page.locator("#tokens .mt-token > :first-child").all_inner_texts()
    return found


def test_text_in_heatmap_and_token_view_out(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False)
    wait_for(page, "through 6 routers (top-2 of 16)")
    page.locator("#text-a textarea").fill("Two experts for every token")
    page.locator("#route").click()
    wait_for(page, "moebench-nano: 8 tokens")
    assert "".join(tokens(page)).replace("␣", " ") == "Two experts for every token"
    assert "a text is one sequence" in page.inner_text("#message")
    assert page.locator("#heatmap figure svg[role=img]").count() == 1
    cells = page.locator("#heatmap rect title").all_text_contents()
    assert len(cells) == 6 * 16
    assert sum(int(cell.split("even, ")[1].split(" of ")[0]) for cell in cells) == 6 * 8 * 2
    assert page.locator("#routers tbody tr").count() == 6


def test_it_routes_while_one_types_and_keeps_what_is_shown(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False)
    wait_for(page, "through 6 routers")
    page.locator("#tokens select").nth(0).select_option("4")
    page.locator("#tokens select").nth(1).select_option("entropy")
    page.locator("#text-a textarea").fill("one two three")
    wait_for(page, "moebench-nano: 3 tokens")
    page.locator("#text-a textarea").press_sequentially(" four")
    wait_for(page, "moebench-nano: 4 tokens")
    assert page.locator("#tokens select").nth(0).input_value() == "4"
    assert page.locator("#tokens select").nth(1).input_value() == "entropy"


def test_two_texts_of_which_one_is_hostile(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False)
    wait_for(page, "through 6 routers")
    title = page.title()
    page.get_by_label("two texts").check()
    wait_for(page, "text B:")
    page.locator("#text-b textarea").fill(HOSTILE)
    page.locator("#text-a textarea").fill("harmless")
    page.locator("#route").click()
    page.locator(".mt-token", has_text="U+202E").wait_for(timeout=20_000)
    assert "".join(tokens(page)).replace("⋯", "").replace("␣", " ").endswith(HOSTILE.replace("\u202e", "U+202E"))
    assert page.locator("#heatmap figure").count() == 3
    assert page.inner_text("#routers").count("difference") == 5
    assert page.title() == title
    assert page.locator("#tokens img, #message img, #heatmap img, #routers img").count() == 0


def test_before_and_after_an_adapter(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False)
    page.get_by_label("before and after the adapter").check()
    wait_for(page, f"moebench-nano with {ADAPTER}, after:")
    assert "experts kept" in page.inner_text("#routers")
    assert page.locator("#tokens option[value=changed]").count() == 1
    page.locator("#tokens .mt-token").last.hover()
    assert "in before:" in page.inner_text("#tokens .mt-details")


def test_an_empty_text_and_a_long_one(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False)
    wait_for(page, "through 6 routers")
    page.locator("#text-a textarea").fill("")
    wait_for(page, "There is no token in an empty text: type some words.")
    assert page.locator(".mt-token, #heatmap svg, #routers table").count() == 0
    assert not page.locator(".token-map").is_visible()
    page.locator("#text-a textarea").fill("word " * 20_000)
    wait_for(page, "; the first 64 were run.")
    assert page.locator("#tokens .mt-token").count() == 64


def test_nothing_but_this_machine_is_asked(open_page: Any, demo: tuple[str, Path]) -> None:
    address, asked = demo
    page = open_page("about:blank", offline=False)
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(address)
    wait_for(page, "through 6 routers")
    page.locator("#tokens .mt-experts button").first.click()
    page.wait_for_timeout(500)
    policy = page.evaluate("fetch('/').then((answer) => answer.headers.get('content-security-policy'))")
    assert policy.startswith("default-src 'self' ")
    assert len(urls) > 10
    assert {urlsplit(url).netloc for url in urls if not url.startswith(("data:", "blob:"))} == {
        urlsplit(address).netloc
    }
    assert set(asked.read_text().split()) <= {"127.0.0.1", "localhost", "::1"}


PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def cells(page: Any) -> int:
    return int(page.locator(".mp-map .mm-cell").count())


def faint(page: Any) -> int:
    """Rows of the map that are not reached yet."""
    return int(page.locator('.mp-map g[data-token][opacity="0.08"]').count())


def test_the_map_has_every_layer_and_plays(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False)
    wait_for(page, "through 6 routers")
    page.locator("#text-a textarea").fill("Two experts for every token")
    wait_for(page, "moebench-nano: 8 tokens")
    wait_until(page, "document.querySelectorAll('.mp-map .mm-cell').length === 8 * 6")
    assert faint(page) == 0
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.locator(".mp-play").click()
    assert faint(page) == 7
    page.clock.run_for(500)
    assert faint(page) == 5
    assert page.locator(".mp-play").inner_text() == "Pause"
    page.locator(".mp-play").click()
    page.clock.run_for(2000)
    assert faint(page) == 5
    assert page.locator(".mp-where").inner_text().startswith("token 3 of 8")
    page.locator(".mp-controls input").focus()
    page.keyboard.press("ArrowRight")
    assert faint(page) == 4
    page.get_by_label("One token back").click()
    assert faint(page) == 5
    page.locator(".mp-play").click()
    page.clock.run_for(3000)
    assert faint(page) == 0
    assert page.locator(".mp-play").inner_text() == "Play"


def test_a_cell_is_read_and_its_expert_chosen_by_keys_and_by_touch(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False, color_scheme="dark", **PHONE)
    wait_for(page, "through 6 routers")
    page.locator(".mp-map .mm-cell").nth(8).tap()
    page.wait_for_timeout(400)  # what a finger shows stays
    words = page.locator(".mp-words").inner_text()
    assert "(token 1), layer 2. First expert " in words
    assert "All its experts (weight): " in words
    expert = words.split("First expert ")[1].split(",")[0]
    assert page.locator('#tokens .mt-experts button[aria-pressed="true"]').get_attribute("data-expert") == expert
    assert page.locator("#tokens select").nth(0).input_value() == "2"
    page.locator(".mp-map").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert "(token 2), layer 3. First expert " in page.locator(".mp-words").inner_text()
    page.keyboard.press("Enter")
    assert page.locator("#tokens select").nth(0).input_value() == "3"


def test_a_text_grows_in_the_map_and_stops(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False)
    wait_for(page, "through 6 routers")
    page.locator("#text-a textarea").fill("Once upon a time there was a farmer who")
    wait_for(page, "moebench-nano: 10 tokens")
    # From the script, since what is seen in between is over before a test has asked for it.
    page.evaluate(
        """() => {
          window.seen = [];
          const look = () => window.seen.push(document.querySelectorAll(".mp-map g[data-token]").length);
          new MutationObserver(look).observe(document.querySelector(".mp-map"), { childList: true });
        }"""
    )
    page.locator("#generate").click()
    wait_for(page, "generated: 64 tokens")
    wait_until(page, "document.querySelectorAll('.mp-map g[data-token]').length === 74")
    seen = page.evaluate("window.seen")
    assert len({rows for rows in seen if 10 < rows < 74}) > 2
    assert seen == sorted(seen)
    assert page.locator(".mp-map .mm-made").count() == 1
    assert page.locator("#heatmap figcaption").all_inner_texts() == [
        "the text",
        "generated",
        "generated minus the text",
    ]
    assert page.locator("#generate").is_enabled()
    page.locator("#generate").click()
    page.locator("#stop:not([disabled])").click()
    wait_for(page, "generated: ")
    made = int(page.inner_text("#message").split("generated: ")[1].split(" token")[0])
    assert 1 <= made < 64


def test_two_texts_side_by_side_have_outlines_with_how_few_they_are(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False)
    wait_for(page, "through 6 routers")
    page.get_by_role("button", name="One word, twice").click()
    wait_for(page, "text B:")
    outlined = page.locator(".mp-map .mm-changed")
    outlined.first.wait_for(state="attached", timeout=20_000)
    note = page.locator(".mp-note").inner_text()
    of = int(note.split("another first expert, ")[1].split(" of ")[0])
    assert outlined.count() == 2 * of  # on either side
    assert "no interval" in note
    differences = page.locator("#heatmap figure").nth(2)
    assert differences.locator("rect.real").count() == 0  # of ten tokens no difference is a finding
    assert differences.locator("rect.chance").count() == 6 * 16
    assert "of 96" in differences.locator("p").inner_text()


def test_a_link_shows_what_was_shown(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False)
    wait_for(page, "through 6 routers")
    page.get_by_label("two texts").check()
    text = "a=b&c#d <b>bold</b> 羊\nsecond line"
    page.locator("#text-a textarea").fill(text)
    page.locator("#text-b textarea").fill("another")
    wait_for(page, "text B: 2 tokens")
    page.wait_for_timeout(500)
    page.locator(".mp-map .mm-cell").nth(9).click()
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    page.locator("#share").click()
    link = page.locator("#shared input").input_value(timeout=20_000)
    assert len(page.url.split("#")) == 1  # nothing of a text is in the history of who typed it
    other = open_page(link, offline=False)
    wait_for(other, "text B: 2 tokens")
    assert other.locator("#text-a textarea").input_value() == text
    assert other.locator("#text-b textarea").input_value() == "another"
    other.locator(".mp-words", has_text="(token 1), layer 3").wait_for(timeout=20_000)
    assert other.locator(".mp-words").inner_text() == page.locator(".mp-words").inner_text()
    assert other.locator(".mp-map .mm-chosen").count() >= 1
    assert other.locator("#tokens b, #tokens img").filter(has_text="bold").count() == 0


def test_a_link_takes_no_long_text_and_believes_nothing(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(f"{demo[0]}#text=hello&show=77&model=../x&layer=99&token=-4&expert=1e9&<script>", offline=False)
    wait_for(page, "moebench-nano: ")
    assert page.locator("#text-a textarea").input_value() == "hello"
    page.locator("#text-a textarea").fill("word " * 500)
    wait_for(page, "the first 64 were run")
    page.locator("#share").click()
    page.locator(
        "#shared", has_text="No link: the text has 2,500 characters, and a link takes at most 2,000."
    ).wait_for()


def test_the_report_has_river_and_cards_and_reaches_nothing_of_the_demo(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False)
    wait_for(page, "through 6 routers")
    title = page.title()
    page.locator("#text-a textarea").fill(HOSTILE)
    page.locator("#report").click()
    frame = page.frame_locator("iframe.report")
    frame.get_by_role("heading", name="Expert cards").wait_for(timeout=30_000)
    assert frame.get_by_role("heading", name="River").count() >= 1
    assert frame.locator("img").count() == 0
    assert page.title() == title
    inside = next(one for one in page.frames if one.parent_frame is not None)
    seen = inside.evaluate("() => { try { return parent.document.title; } catch (error) { return error.name; } }")
    assert seen == "SecurityError"
    page.locator("#text-a textarea").fill("")
    page.locator("#report").click()
    page.locator("#page", has_text="There is no token in an empty text").wait_for(timeout=30_000)


def test_a_phone_shows_it_without_scrolling_sideways(open_page: Any, demo: tuple[str, Path]) -> None:
    page = open_page(demo[0], offline=False, color_scheme="dark", **PHONE)
    wait_for(page, "through 6 routers")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in (".mp-map", "#heatmap .load"):  # all layers and all experts, with nothing to scroll for
        hidden = "(name) => { const e = document.querySelector(name); return e.scrollWidth - e.clientWidth; }"
        assert page.evaluate(hidden, name) <= 1, name
    for button in page.locator(".mp-controls button, #actions button").all():
        assert button.bounding_box()["height"] >= 36


def test_a_port_that_is_taken_is_one_sentence(demo: tuple[str, Path]) -> None:
    port = str(urlsplit(demo[0]).port)
    command = [sys.executable, "-m", "mlx_moebench", "demo", "--no-browser", "--port", port]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert result.returncode == 1
    assert result.stderr.strip() == (
        f"Error: Cannot serve at 127.0.0.1, port {port} (Address already in use): choose another --port, or an address "
        "of this machine."
    )
