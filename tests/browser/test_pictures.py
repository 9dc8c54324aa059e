"""The river, the map of tokens by layers and the cards in a real Chromium: what a click, a key and a link do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import assert_accessible, wait_until
from page_inputs import HEBREW, HOSTILE, NANO, QUICK, uneven_stats

from mlx_moebench.routing import RouterSpec
from mlx_moebench.routing.tokens import Choices, TokenSequence
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page import build_page
from mlx_moebench.show.tokens import token_data_of

pytestmark = pytest.mark.browser

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
TEXTS = [" The", HOSTILE, HEBREW, "\n", " end"]


def tokens_of(seed: int, model: str = "moebench-nano") -> dict[str, Any]:
    """Two sequences of random choices by routers like those of the embedded model."""
    rng = np.random.default_rng(seed)
    specs = [RouterSpec(layer, layer, "mlp", 16, 2) for layer in range(6)]

    def choices() -> list[Choices]:
        n = len(TEXTS)
        return [
            Choices(np.argsort(rng.random((n, 16)))[:, :2], rng.random((n, 2)), rng.random(n), rng.random(n))
            for _ in specs
        ]

    sequences = [TokenSequence(name, TEXTS, choices()) for name in ("row 0", "row 1")]
    return token_data_of(specs, sequences, model={"id": model}, name="data")


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded model on three domains, without tokens."""
    path = tmp_path_factory.mktemp("pictures") / "nano.html"
    path.write_text(build_page(read_inputs(NANO, plan=QUICK)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same on one domain, with tokens of two traces."""
    path = tmp_path_factory.mktemp("traced") / "nano.html"
    inputs = read_inputs(NANO[:1], plan=QUICK)
    page = build_page(inputs, tokens=tokens_of(0), beside=tokens_of(1, "moebench-nano with tuned"))
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


def drawn(page: Any, section: str) -> Any:
    page.locator(f"#{section} .plot").first.scroll_into_view_if_needed()
    page.locator(f"#{section} .plot svg").first.wait_for()
    return page.locator(f"#{section}")


def node(page: Any, column: int, expert: str) -> Any:
    nodes = page.locator(f'#river .river-node[data-column="{column}"]')
    return nodes.filter(has=page.locator(f'text:text-is("{expert}")')).first


def opacities(page: Any) -> list[float]:
    return page.evaluate(
        "[...document.querySelectorAll('#river path[data-gap]')].map((p) => Number(p.getAttribute('fill-opacity')))"
    )


def test_the_river_lights_the_paths_of_an_expert(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    river = drawn(page, "river")
    assert river.locator(".river-node").count() == 6 * 16
    before = opacities(page)
    node(page, 2, "11").locator("rect").click()
    assert (
        river.locator(".river-status")
        .inner_text()
        .startswith("Layer 2, expert 11: its moves, followed forward and back")
    )
    assert opacities(page) != before
    # At its own column all goes through the one expert: the other 15 are faint.
    own = page.locator('#river .river-node[data-column="2"]')
    faint = [own.nth(n).get_attribute("opacity") for n in range(16)]
    assert sorted(map(float, faint)) == [0.25] * 15 + [1.0]
    river.get_by_text("Its card").click()
    assert page.locator("#card-2-11 h3").inner_text().startswith("Layer 2, expert 11")


def test_the_river_is_walked_by_keys(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    drawn(page, "river")
    page.locator("#river .plot").focus()
    page.keyboard.press("ArrowDown")
    first = page.inner_text("#live")
    assert first.startswith("Layer 0, expert ")
    assert "lift" in first
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#live").startswith("Layer 1, expert ")
    page.keyboard.press("Enter")
    assert page.locator("#river .river-status").inner_text().startswith("Layer 1, expert ")
    page.keyboard.press("Escape")
    assert page.locator("#river .river-status").inner_text().startswith("Click an expert")
    assert page.locator("#tip").is_hidden()


def test_ribbons_tell_their_moves_and_their_lift(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    drawn(page, "river")
    page.locator("#river path[data-gap]").last.dispatch_event("pointermove", {"pointerType": "mouse"})
    assert page.locator("#tip div").count() == 4
    assert "to layer" in page.inner_text("#tip")
    assert "(chance 1)" in page.inner_text("#tip")
    assert "no interval: the counts are pooled over all sequences" in page.inner_text("#tip")


def test_many_layers_are_windowed(open_page: Any, tmp_path: Path) -> None:
    stats = uneven_stats("many", "a" * 64, layers=20, experts=40, top_k=4, sequences=3, tokens=80)
    stats.save(tmp_path / "a.json", QUICK)
    path = tmp_path / "many.html"
    path.write_text(build_page(read_inputs([tmp_path / "a.json"], plan=QUICK)), encoding="utf-8")
    page = open_page(path.as_uri(), viewport=WIDE)
    river = drawn(page, "river")
    assert river.get_by_text("Layers 0 to 5 of 20").is_visible()
    assert river.locator(".river-node").count() == 6 * 13
    assert river.get_by_text("other 28").count() == 6
    assert river.get_by_role("button", name="Earlier layers").is_disabled()
    river.get_by_role("button", name="Later layers").click()
    assert river.get_by_text("Layers 5 to 10 of 20").is_visible()
    page.locator("#river .plot").focus()
    page.keyboard.press("ArrowDown")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert river.get_by_text("Layers 10 to 15 of 20").is_visible(), "the keys go on into the next window"


def test_a_sentence_is_sent_through_the_river(open_page: Any, traced: str) -> None:
    page = open_page(traced, viewport=WIDE)
    river = drawn(page, "river")
    node(page, 1, "3").locator("rect").click()
    assert "true paths of the" in river.locator(".river-status").inner_text()
    river.get_by_role("button", name="Next token").click()
    river.get_by_role("button", name="Next token").click()
    assert "onerror" in river.locator("mark").inner_text()
    assert page.locator("#river path.river-token").count() == 1
    path = str(page.locator("#river path.river-token").get_attribute("d"))
    assert float(path.split("L")[-1].split(",")[0]) > 1000, "all the way to the last layer"
    river.get_by_role("button", name="Play").click()
    assert river.get_by_role("button", name="Stop").is_visible()
    wait_until(page, "document.querySelector('#river mark')?.textContent !== undefined")
    river.get_by_role("button", name="Stop").click()
    assert page.evaluate("window.hit") is None


def test_nothing_moves_for_those_who_ask_for_it(open_page: Any, traced: str) -> None:
    page = open_page(traced, viewport=WIDE, reduced_motion="reduce")
    river = drawn(page, "river")
    assert river.get_by_role("button", name="Play").count() == 0
    river.get_by_role("button", name="Next token").click()
    assert river.locator("mark").text_content() == " The"


def test_the_map_outlines_what_two_runs_change(open_page: Any, traced: str) -> None:
    page = open_page(traced, viewport=WIDE)
    drawn(page, "map")
    assert page.locator("#map .mm-cell").count() == 2 * 5 * 6
    differ = sum(
        page.evaluate("""() => {
          const of = (data) => new MoebenchTokens.Data(data);
          const [a, b] = [of(MB.data.tokens), of(MB.data.beside)];
          const same = (r, t) => a.firstOf(r, t) === b.firstOf(r, t);
          return a.routers.map((_, r) => [0, 1, 2, 3, 4].filter((t) => !same(r, t)).length);
        }""")
    )
    assert page.locator("#map .mm-changed").count() == 2 * differ
    assert f"{differ} of 30 cells" in page.inner_text("#map .plot")
    page.get_by_label("Beside", exact=True).select_option("")
    assert page.locator("#map .mm-cell").count() == 5 * 6
    assert page.locator("#map .mm-changed").count() == 0
    page.get_by_label("Beside", exact=True).select_option("a1")
    assert page.locator("#map .mm-cell").count() == 2 * 5 * 6, "another sentence of the same trace"
    assert page.evaluate("window.hit") is None
    assert page.locator("img").count() == 0


CELLS = "cells => cells.map((c) => [c.closest('[data-token]').dataset.token, c.dataset.layer, c.dataset.expert])"
"""Token, layer and first expert of cells, in the order in which they are drawn."""


def test_a_cell_tells_its_expert_and_a_click_shows_where_else_it_is(open_page: Any, traced: str) -> None:
    page = open_page(traced, viewport=WIDE)
    drawn(page, "map")
    cell = page.locator("#map .mm-cell").first
    expert = cell.get_attribute("data-expert")
    order = page.locator("#map .mm-cell").evaluate_all(CELLS)
    cell.hover()
    assert page.inner_text("#tip").splitlines()[1].startswith(f"First expert {expert}, gate weight 0.")
    cell.click()
    chosen = page.locator("#map .mm-chosen")
    assert {chosen.nth(n).get_attribute("data-expert") for n in range(chosen.count())} == {expert}
    bright = page.locator("#map .mm-cell").evaluate_all(
        "cells => cells.filter((c) => !c.closest('[opacity=\"0.25\"]')).map((c) => [c.dataset.layer, c.dataset.expert])"
    )
    expected = sorted(one[1:] for one in order if one[1:] == ["0", expert])
    assert sorted(bright) == expected
    page.locator("#map .plot").focus()
    page.keyboard.press("Escape")
    assert page.locator("#map .mm-cell").evaluate_all(CELLS) == order
    assert page.locator('#map [opacity="0.25"]').count() == 0
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert "layer 1" in page.inner_text("#live")
    assert page.locator("#map .mm-chosen").count() == 0


def test_a_card_is_made_when_it_is_asked_for(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    assert page.locator(".card").count() == 0
    first = page.locator(".card-index a").first
    name = first.inner_text()
    first.click()
    assert page.locator(".card").count() == 1
    assert page.locator(".card h3").inner_text().startswith(name)
    assert page.evaluate("location.hash.split('?')[0]") == first.get_attribute("href")
    assert page.locator(".card-bars tr").count() == 3
    words = page.locator("#cards").get_by_label("Layer", exact=True)
    words.select_option("5")
    page.locator("#cards").get_by_label("Expert", exact=True).select_option("7")
    page.get_by_role("button", name="Open its card").click()
    assert page.locator("#card-5-7").count() == 1
    assert page.evaluate("location.hash") == "#card-5-7?router=5&expert=7"
    page.locator("#card-5-7").get_by_text("previous expert").click()
    assert page.locator("#card-5-6").count() == 1
    page.go_back()
    page.locator("#card-5-7").wait_for()


def test_the_lists_of_cards_follow_what_is_chosen(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    page.evaluate("MB.select({ router: 4, expert: 9 })")
    page.locator("#cards").get_by_text("Open its card").click()
    assert page.locator("#cards h4, #cards h3").first.inner_text().startswith("Layer 4, expert 9")
    page.evaluate("MB.select({ router: 2 })")
    assert page.locator("#cards").get_by_label("Layer", exact=True).first.input_value() == "2"


def test_a_link_opens_its_card_and_the_numbers_are_those_of_the_report(open_page: Any, nano: str) -> None:
    page = open_page(f"{nano}#card-3-7", viewport=WIDE)
    run = read_inputs(NANO, plan=QUICK).runs[0]
    router = run.report["routers"][3]
    share = 100 * router["selection_counts"][7] / router["n_tokens"]
    low, high = (100 * router["token_share"][end][7] for end in ("low", "high"))
    said = page.locator("#card-3-7 > p").nth(1).inner_text()
    assert said.startswith(f"{share:.1f} [{low:.1f}, {high:.1f}]% of all tokens choose it")
    code = run.domains["code"]["routers"][3]
    row = page.locator(".card-bars tr").filter(has_text="code").inner_text()
    assert f"{100 * code['selection_counts'][7] / code['n_tokens']:.1f}" in row


def test_an_anchor_of_no_card_opens_none(open_page: Any, nano: str) -> None:
    for wrong in ("#card-9-0", "#card-3-99", "#card-x", "#card-3-7-1", "#card%"):
        page = open_page(nano + wrong, viewport=WIDE)
        assert page.locator(".card").count() == 0


@pytest.mark.parametrize("which", ["nano", "traced"])
def test_the_pictures_fit_a_phone(open_page: Any, which: str, request: pytest.FixtureRequest) -> None:
    page = open_page(request.getfixturevalue(which) + "#card-0-1", viewport=PHONE, has_touch=True)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator("#river").get_by_text("Layers 0 to 2 of 6").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_with_tokens(open_page: Any, traced: str, scheme: str) -> None:
    page = open_page(traced, viewport=WIDE, color_scheme=scheme)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    page.locator(".mt-experts button").first.click()
    page.locator(".mt-takes").first.wait_for()
    assert_accessible(page)
