"""The token view in Chromium, from a page on disk without a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import assert_accessible

from mlx_moebench.routing import RouterSpec
from mlx_moebench.routing.tokens import Choices, TokenSequence
from mlx_moebench.show.colours import CHOSEN, OTHER, expert_colours
from mlx_moebench.show.tokens import token_data_of, token_page

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=document.title='owned'>"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def sequence(name: str, texts: list[str], specs: list[RouterSpec], seed: int = 0, **facts: Any) -> TokenSequence:
    """Random choices of every router, in descending order of weight."""
    rng = np.random.default_rng(seed)
    choices = []
    for spec in specs:
        chosen = np.argsort(rng.random((len(texts), spec.n_experts)), axis=1)[:, : spec.top_k]
        weights = -np.sort(-rng.random(chosen.shape), axis=1)
        entropy = rng.random(len(texts)) * np.log(spec.n_experts)
        choices.append(Choices(chosen, weights, entropy, rng.random(len(texts))))
    return TokenSequence(name, texts, choices, **facts)


def routers(count: int, experts: int, k: int) -> list[RouterSpec]:
    return [RouterSpec(layer=n, moe_layer=n, router="mlp", n_experts=experts, top_k=k) for n in range(count)]


def write(
    path: Path, specs: list[RouterSpec], sequences: list[TokenSequence], **limits: Any
) -> tuple[str, dict[str, Any]]:
    data = token_data_of(specs, sequences, model={"id": "a<b>model"}, name=HOSTILE, **limits)
    path.write_text(token_page(data), encoding="utf-8")
    return path.as_uri(), data


@pytest.fixture
def plain(tmp_path: Path) -> tuple[str, list[TokenSequence]]:
    """Two layers of 8 experts, top-2, and eight sequences of few different words."""
    specs = routers(2, 8, 2)
    words = ["The", " cat", " sat", " on", " the", " mat", ".", "\n"]
    sequences = [sequence(f"row {n}", words * 3, specs, seed=n) for n in range(8)]
    return write(tmp_path / "tokens.html", specs, sequences)[0], sequences


def first_expert(sequences: list[TokenSequence], router: int = 0) -> int:
    """The expert that most tokens choose, ties to the lower number."""
    chosen = np.concatenate([s.choices[router].experts.ravel() for s in sequences])
    return int(np.bincount(chosen, minlength=8).argmax())


def test_prompt_layer_and_colour_can_be_chosen(open_page: Any, plain: tuple[str, list[TokenSequence]]) -> None:
    url, sequences = plain
    page = open_page(url)
    assert page.locator(".mt-token").count() == 24
    label = page.locator(".mt-token").nth(1).get_attribute("aria-label")
    a, b = sequences[0].choices[0].experts[1]
    assert label.startswith(f"␣cat: experts {a} (weight ")
    assert f", {b} (weight " in label
    page.get_by_label("Prompt").select_option("3")
    page.get_by_label("Layer").select_option("1")
    a, _ = sequences[3].choices[1].experts[1]
    assert page.locator(".mt-token").nth(1).get_attribute("aria-label").startswith(f"␣cat: experts {a} (weight ")
    colours = set()
    for colour in ("expert", "entropy", "margin"):
        page.get_by_label("Colour").select_option(colour)
        colours.add(page.locator(".mt-token").nth(1).evaluate("e => e.style.backgroundColor"))
        assert page.locator(".mt-bar").count() == (colour != "expert")
    assert len(colours) == 3
    assert page.locator("option[value=changed]").count() == 0
    page.get_by_label("Prompt").select_option("-1")
    assert page.locator(".mt-token").count() == 8 * 24


def test_pointing_at_a_token_tells_its_numbers(open_page: Any, plain: tuple[str, list[TokenSequence]]) -> None:
    url, sequences = plain
    page = open_page(url)
    page.locator(".mt-token").nth(2).hover()
    told = page.inner_text(".mt-details")
    choices = sequences[0].choices[0]
    for expert, weight in zip(choices.experts[2], choices.weights[2], strict=True):
        assert f"{expert} ({float(np.float16(weight)):.3g})" in told
    assert f"{float(np.float16(choices.entropy[2])):.3g} nats of at most 2.08" in told
    assert f"selection margin: {float(np.float16(choices.margin[2])):.3g}" in told
    assert "token 2 of row 0" in told
    numbers = page.locator(".mt-number")
    assert not numbers.first.is_visible()
    page.get_by_label("expert numbers").check()
    assert numbers.nth(2).inner_text() == str(choices.experts[2, 0])


def test_an_expert_shows_the_tokens_that_choose_it_most(open_page: Any, plain: tuple[str, list[TokenSequence]]) -> None:
    url, sequences = plain
    page = open_page(url)
    expert = first_expert(sequences)
    takes = [(s.choices[0].experts == expert).any(axis=1) for s in sequences]
    button = page.locator(".mt-experts button").first
    assert button.get_attribute("data-expert") == str(expert)
    assert button.get_attribute("title").startswith(f"expert {expert}: chosen by {sum(map(sum, takes))} tokens")
    assert button.text_content() == f"expert {expert} {sum(map(sum, takes))}"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator(".mt-takes").count() == takes[0].sum()
    veiled = "e => getComputedStyle(e).backgroundImage !== 'none'"
    assert [t.evaluate(veiled) for t in page.locator(".mt-token").all()] == [not takes_it for takes_it in takes[0]]
    assert page.locator('.mt-token[aria-selected="true"]').count() == takes[0].sum()
    counts: dict[str, int] = {}
    for one, chosen in zip(sequences, takes, strict=True):
        for text, takes_it in zip(one.texts, chosen, strict=True):
            counts[text] = counts.get(text, 0) + int(takes_it)
    rows = page.locator(".mt-most tbody tr")
    found = [[cell.inner_text() for cell in rows.nth(n).locator("td").all()] for n in range(rows.count())]
    assert [int(row[1]) for row in found] == sorted(filter(None, counts.values()), reverse=True)
    assert {row[0]: int(row[1]) for row in found}["␣cat"] == counts[" cat"]
    assert all(row[2] == "24" for row in found)
    page.get_by_role("button", name="␣cat").click()
    marked = page.locator(".mt-contexts mark")
    assert marked.count() == min(20, counts[" cat"])
    assert set(marked.all_inner_texts()) == {" cat"}
    button.click()
    assert not any(t.evaluate(veiled) for t in page.locator(".mt-token").all())
    assert page.locator('.mt-takes, [aria-selected="true"]').count() == 0


def test_the_busiest_experts_have_a_colour_and_any_other_by_choosing_it(open_page: Any, tmp_path: Path) -> None:
    specs = routers(1, 64, 2)
    texts = ["word"] * 200
    url, data = write(tmp_path / "tokens.html", specs, [sequence("row", texts, specs)])
    page = open_page(url)

    def swatch(expert: int) -> str:
        place = page.locator(f"[data-expert='{expert}'] .mt-swatch")
        return str(place.evaluate("(element) => getComputedStyle(element).backgroundColor"))

    def rgb(colour: str) -> str:
        return f"rgb({', '.join(str(int(colour[start : start + 2], 16)) for start in (1, 3, 5))})"

    expected = expert_colours(data["routers"][0]["first"])
    assert [swatch(expert) for expert in range(64)] == [rgb(colour) for colour in expected]
    grey = expected.index(OTHER)
    page.locator(f"[data-expert='{grey}']").click()
    assert swatch(grey) == rgb(CHOSEN)
    page.locator(f"[data-expert='{grey}']").click()
    assert swatch(grey) == rgb(OTHER)


def test_the_keyboard_reaches_everything(open_page: Any, plain: tuple[str, list[TokenSequence]]) -> None:
    url, sequences = plain
    page = open_page(url)
    focused = "document.activeElement.dataset.token ?? document.activeElement.tagName"
    for _ in range(5):  # prompt, layer, colour, numbers, tokens
        page.keyboard.press("Tab")
    assert page.evaluate(focused) == "0"
    for key, token in (("ArrowRight", "1"), ("ArrowRight", "2"), ("ArrowLeft", "1"), ("End", "23"), ("Home", "0")):
        page.keyboard.press(key)
        assert page.evaluate(focused) == token
    page.keyboard.press("ArrowDown")  # the line below, which starts with token 8
    assert page.evaluate(focused) == "8"
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == "0"
    page.keyboard.press("Enter")
    expert = int(sequences[0].choices[0].experts[0, 0])
    assert page.locator('[aria-pressed="true"]').get_attribute("data-expert") == str(expert)
    assert page.evaluate(focused) == "0"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator('.mt-experts [aria-pressed="true"]').count() == 1


def test_hostile_text_is_text(open_page: Any, tmp_path: Path) -> None:
    specs = routers(1, 8, 2)
    texts = [HOSTILE, "<b>bold</b>", "\u202eevil", "\x00\x07", "", "e\u0301", "\u0301", "שלום", "&lt;", "{{x}}${y}"]
    url, _ = write(tmp_path / "hostile.html", specs, [sequence(HOSTILE, texts * 2, specs), sequence("b", texts, specs)])
    page = open_page(url)
    assert page.title() == "Tokens and their experts"
    shown = [token.locator(".mt-text").inner_text() for token in page.locator(".mt-token").all()[: len(texts)]]
    assert shown[0] == HOSTILE.replace(" ", "␣")
    assert shown[1:5] == ["<b>bold</b>", "U+202Eevil", "\\x00\\x07", "∅"]
    assert shown[5:] == ["e\u0301", "◌\u0301", "שלום", "&lt;", "{{x}}${y}"]
    for button in page.locator(".mt-experts button").all():
        button.click()
        page.locator(".mt-token").first.hover()
    assert page.locator("img, .moebench-tokens b b").count() == 0
    assert page.title() == "Tokens and their experts"
    assert page.locator(".mt-title").first.inner_text().startswith(HOSTILE)


def test_names_cannot_turn_what_stands_around_them(open_page: Any, tmp_path: Path) -> None:
    specs, name = routers(1, 8, 2), "\u202egnp.exe"
    pair = [sequence(name, ["a", "b"], specs), sequence("אבג", ["a", "b"], specs, seed=1, against=0)]
    data = token_data_of(specs, pair, model={"id": name}, name=name)
    (tmp_path / "names.html").write_text(token_page(data), encoding="utf-8")
    page = open_page((tmp_path / "names.html").as_uri())
    page.locator(".mt-token").last.hover()
    page.locator(".mt-experts button").first.click()
    assert "\u202e" not in page.inner_text("#tokens")
    assert page.locator("#tokens option", has_text="U+202Egnp.exe").count() == 1
    assert "in U+202Egnp.exe:" in page.inner_text(".mt-details")
    assert page.locator(".mt-title").nth(1).inner_text() == "אבג, 2 tokens"
    assert page.locator(".mt-title").nth(1).evaluate("e => getComputedStyle(e).direction") == "ltr"


def test_what_a_list_leaves_out_and_how_it_is_ordered_is_said(open_page: Any, tmp_path: Path) -> None:
    specs = routers(1, 2, 2)
    texts = ["日", "日", "日", "a", "b", "b"]
    page = open_page(write(tmp_path / "o.html", specs, [sequence("s", texts, specs, continued=[1, 2])])[0])
    page.locator(".mt-experts button").first.click()
    rows = page.locator(".mt-most tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [["b", "2", "2", "100%"], ["日", "1", "1", "100%"], ["a", "1", "1", "100%"]]
    caption = page.inner_text(".mt-most caption")
    assert "by how often they choose it, then by share." in caption
    assert "Not here: 2 later pieces of characters." in caption


def test_where_every_expert_is_chosen_there_is_no_scale_of_margins(open_page: Any, tmp_path: Path) -> None:
    specs = routers(1, 2, 2)
    one = sequence("s", ["a", "b"], specs)
    whole = [replace(choices, margin=np.full(2, np.nan)) for choices in one.choices]
    page = open_page(write(tmp_path / "all.html", specs, [replace(one, choices=whole)])[0])
    page.get_by_label("Colour").select_option("margin")
    assert page.inner_text(".mt-scale").startswith("No selection margin: every expert is chosen")
    assert page.locator(".mt-bar").count() == 0
    page.locator(".mt-token").first.hover()
    assert "selection margin: not defined" in page.inner_text(".mt-details")


def test_lines_of_right_to_left_text_run_from_the_right(open_page: Any, tmp_path: Path) -> None:
    specs = routers(1, 8, 2)
    texts = ["שלום", " עולם", "\n", "left", " word"]
    page = open_page(write(tmp_path / "rtl.html", specs, [sequence("s", texts, specs)])[0])
    x = [token.bounding_box()["x"] for token in page.locator(".mt-token").all()]
    assert x[0] > x[1]
    assert x[3] < x[4]
    page.locator(".mt-token").first.click()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.token") == "1"


def test_pieces_of_a_character_are_said_to_be_that(open_page: Any, tmp_path: Path) -> None:
    specs = routers(1, 8, 2)
    one = sequence("s", ["a", "日", "日", "日"], specs, continued=[2, 3])
    page = open_page(write(tmp_path / "pieces.html", specs, [one])[0])
    assert page.locator(".mt-token > :first-child").all_inner_texts() == ["a", "日", "⋯", "⋯"]
    assert page.locator(".mt-token").nth(2).get_attribute("aria-label").startswith("later piece of 日: ")


def test_before_and_after_can_be_coloured_by_what_changed(open_page: Any, tmp_path: Path) -> None:
    specs = routers(1, 8, 2)
    texts = [f"w{n}" for n in range(30)]
    before, after = sequence("before", texts, specs), sequence("after", texts, specs, seed=1, against=0)
    page = open_page(write(tmp_path / "pair.html", specs, [before, after])[0])
    assert page.get_by_label("Colour").input_value() == "changed"
    pairs = zip(before.choices[0].experts, after.choices[0].experts, strict=True)
    for number, (a, b) in enumerate(pairs):
        changed = len({*b} - {*a})
        label = page.locator(".mt-token").nth(30 + number).get_attribute("aria-label")
        assert label.endswith(f"; {changed} expert{'' if changed == 1 else 's'} changed")
    page.locator(".mt-token").nth(30).hover()
    assert "in before:" in page.inner_text(".mt-details")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(
    open_page: Any, plain: tuple[str, list[TokenSequence]], scheme: str
) -> None:
    page = open_page(plain[0], color_scheme=scheme, **PHONE)
    page.locator(".mt-experts button").first.tap()
    page.locator(".mt-token").first.tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)"
    assert dark == (scheme == "dark")


def test_text_on_every_colour_can_be_read(open_page: Any, tmp_path: Path) -> None:
    specs = routers(1, 128, 1)
    page = open_page(write(tmp_path / "many.html", specs, [sequence("s", ["wo\u202erd"] * 400, specs)])[0])
    contrast = """() => [...document.querySelectorAll('.mt-text, .mt-strange')].map((e) => {
      const light = (text) => {
        const c = text.match(/\\d+/g).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
      };
      const s = getComputedStyle(e);
      if (s.opacity !== '1') return 0;
      const below = getComputedStyle(e.closest('.mt-token')).backgroundColor;
      const [a, b] = [light(s.color), light(below)].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    })"""
    for colour in ("expert", "entropy", "margin"):
        page.get_by_label("Colour").select_option(colour)
        assert min(page.evaluate(contrast)) >= 4.5


SHAPES = {"nano": (6, 16, 2, 250), "big": (48, 128, 8, 64)}
"""Routers, experts, K, and tokens of each of 24 sequences."""


@pytest.mark.parametrize("shape", SHAPES)
def test_it_answers_a_click_at_once(open_page: Any, tmp_path: Path, shape: str) -> None:
    count, experts, k, length = SHAPES[shape]
    specs = routers(count, experts, k)
    sequences = [sequence(f"row {n}", [f"w{(n + i) % 97} " for i in range(length)], specs, seed=n) for n in range(24)]
    path = tmp_path / "big.html"
    url, data = write(path, specs, sequences)
    assert path.stat().st_size < 1_300_000
    page = open_page(url)
    page.get_by_label("Prompt").select_option("-1")
    assert page.locator(".mt-token").count() == (6_000 if shape == "nano" else 1_536 - data["left_out"]["tokens"])
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable", {"timeDomain": "threadTicks"})  # another job on this core is not the page's time

    def seconds() -> float:
        return next(m["value"] for m in cdp.send("Performance.getMetrics")["metrics"] if m["name"] == "TaskDuration")

    def times(act: str, values: list[Any]) -> list[float]:
        """Of the page's thread, up to the frame in which the answer is seen."""
        found = []
        for value in values:
            before = seconds()
            page.evaluate(
                f"async (value) => {{ {act}; await new Promise((r) => requestAnimationFrame(() => setTimeout(r))); }}",
                value,
            )
            found.append(seconds() - before)
        return sorted(found)

    # Wide of what it takes, so that a slow machine passes: what fails is work that grows with the tokens of all texts.
    set_to = "const e = document.querySelector('select[id$={}]'); e.value = value; e.dispatchEvent(new Event('change'))"
    assert times("document.querySelector(`[data-expert='${value}']`).click()", list(range(7)))[3] < 0.6
    assert times(set_to.format("colour"), ["entropy", "margin", "expert"])[1] < 1.0
    assert times(set_to.format("router"), ["1", "2", "3"])[1] < 1.5


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"forced_colors": "active"}], ids=str)
def test_axe_finds_no_violation(
    open_page: Any, plain: tuple[str, list[TokenSequence]], options: dict[str, Any]
) -> None:
    page = open_page(plain[0], **options)
    page.locator(".mt-experts button").first.click()
    page.locator(".mt-takes").first.wait_for()
    assert_accessible(page)
