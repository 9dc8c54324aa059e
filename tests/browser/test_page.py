"""The HTML report in a real Chromium, from disk and without a network: what it shows, and what it does when touched."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_inputs import (
    HEBREW,
    HOSTILE,
    NANO,
    QUICK,
    RESULTS,
    collapsed_stats,
    hostile_pairs,
    training_folder,
    uneven_stats,
)

from mlx_moebench.routing import RouterSpec
from mlx_moebench.routing.tokens import Choices, TokenSequence
from mlx_moebench.show import colours
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.names import isolated
from mlx_moebench.show.page import build_page
from mlx_moebench.show.tokens import token_data_of

pytestmark = pytest.mark.browser

LONGEST = 0.2
"""CPU seconds of a click that the tests allow, for slower machines; docs/report.md has what was measured."""

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of the embedded model on its three domains."""
    path = tmp_path_factory.mktemp("page") / "nano.html"
    path.write_text(build_page(read_inputs(NANO, plan=QUICK)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page of two domains with a collapsed first layer, and dead experts there."""
    folder = tmp_path_factory.mktemp("flagged")
    for sha in "ab":
        collapsed_stats(sha * 64).save(folder / f"{sha}.json", QUICK)
    return written(folder, sorted(folder.glob("?.json")))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 48 routers x 128 experts x 5 domains."""
    folder = tmp_path_factory.mktemp("large")
    for sha in "abcde":
        uneven_stats(f"domain {sha}", sha * 64).save(folder / f"{sha}.json", QUICK)
    path = folder / "large.html"
    path.write_text(build_page(read_inputs(sorted(folder.glob("?.json")), plan=QUICK)), encoding="utf-8")
    return path


def written(folder: Path, arguments: list[Any], name: str = "page.html") -> str:
    path = folder / name
    path.write_text(build_page(read_inputs(arguments, plan=QUICK)), encoding="utf-8")
    return path.as_uri()


def tip(page: Any) -> str:
    return str(page.inner_text("#tip"))


def drawn(page: Any, section: str) -> Any:
    """The first figure of a section, on the screen; it is drawn when it comes there."""
    plot = page.locator(f"#{section} .plot").first
    plot.scroll_into_view_if_needed()
    plot.locator("> *").first.wait_for()
    return plot


def picture(page: Any, section: str) -> str:
    """The heatmap or chart of a section as the data of its picture."""
    drawn(page, section)
    return str(page.evaluate(f"document.querySelector('#{section} .heat canvas').toDataURL()"))


def choose(page: Any, section: str, label: str, option: str) -> None:
    page.locator(f"#{section}").get_by_label(label, exact=True).first.select_option(label=option)


def cpu(page: Any) -> Any:
    """A function that returns the seconds which the page's main thread has computed since it was called before."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    last = 0.0

    def since() -> float:
        nonlocal last
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        before, last = last, metrics["TaskDuration"]
        return float(last - before)

    return since


def least(page: Any, spent: Any, script: str, undo: str = "") -> float:
    """CPU seconds of a script: the first of a kind compiles, and others that work on the machine cost its caches.

    undo: what makes it work again, where a second time in a row would change nothing.
    """
    seconds = 1.0
    for _ in range(6):
        page.evaluate(undo)
        spent()
        page.evaluate(script)
        seconds = min(seconds, spent())
        if seconds < LONGEST:
            break
    return seconds


def test_it_opens_in_under_a_second(open_page: Any, nano: str) -> None:
    page = open_page("about:blank", viewport=WIDE)
    spent = cpu(page)
    spent()
    page.goto(nano)
    assert spent() < 1
    assert page.inner_text("h1") == "Routing of moebench-nano"
    assert "of 6 layers" in page.inner_text(".lead")
    assert page.locator("nav a").all_inner_texts()[:3] == ["The answer", "Load", "Entropy and shares by layer"]


def test_hovering_the_heatmap_tells_counts_share_and_interval(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    drawn(page, "load")
    box = page.locator("#load .heat canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    lines = tip(page).splitlines()
    assert lines[0].startswith("Layer 1, expert ")
    assert "selections by 15,258 tokens" in lines[1]
    assert lines[2].startswith("Share of tokens 0.")
    assert "[0." in lines[2]
    assert lines[3] == "95% band over all experts of the layer"
    assert "times the even share, 0.125" in lines[4]
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_arrow_keys_move_in_the_heatmap_and_speak(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    drawn(page, "load").focus()
    page.keyboard.press("ArrowRight")
    assert tip(page).startswith("Layer 0, expert 0\n")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#live").startswith("Layer 1, expert 1. ")
    page.keyboard.press("End")
    assert tip(page).startswith("Layer 1, expert 15\n")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


PIXELS = """(section) => {
  const drawn = document.querySelector(`#${section} .heat canvas`);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [drawn.width, drawn.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(drawn, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height).data;
}"""
PAINTED = f"""([section, colour]) => {{
  const data = ({PIXELS})(section);
  let n = 0;
  for (let i = 0; i < data.length; i += 4) n += colour.every((c, k) => Math.abs(data[i + k] - c) <= 2);
  return n;
}}"""
"""How many pixels of a heatmap have a colour."""


def painted(page: Any, section: str, colour: str) -> int:
    drawn(page, section)
    return int(page.evaluate(PAINTED, [section, [int(colour[start : start + 2], 16) for start in (1, 3, 5)]]))


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_flagged_layers_are_marked_at_every_width_and_can_be_shown_alone(
    open_page: Any, flagged: str, size: dict[str, int]
) -> None:
    page = open_page(flagged, viewport=size, color_scheme="light")
    assert painted(page, "load", colours.FINDINGS["collapsed"]) > 15
    assert "Marked layers: collapsed" in page.inner_text("#load .plot")
    before = page.locator("#load .heat").bounding_box()["height"]
    choose(page, "load", "Layers", "flagged only")
    assert page.locator("#load .heat").bounding_box()["height"] < before
    drawn(page, "load").focus()
    page.keyboard.press("ArrowRight")
    assert tip(page).startswith("Layer 0, expert 0\n")
    page.keyboard.press("PageDown")
    assert tip(page).startswith("Layer 0, "), "and no other layer"


def test_cells_that_may_be_even_are_faded_or_hatched(open_page: Any, flagged: str) -> None:
    page = open_page(flagged, viewport=WIDE)
    drawn(page, "load")
    assert "Faded: the interval holds even" in page.inner_text("#load .plot")
    opacity = f"""() => {{
      const data = ({PIXELS})("load");
      let [faded, full] = [0, 0];
      for (let i = 3; i < data.length; i += 4) {{
        faded += data[i] > 80 && data[i] < 100;
        full += data[i] === 255;
      }}
      return [faded, full];
    }}"""
    faded, full = page.evaluate(opacity)
    cells = page.evaluate("""() => {
      const heat = MB.readable(MB.data.sections[0].parts[0].drawings["0"], MB.data.words);
      const read = MB.intervals(heat, "share");
      return heat.neutral.map((even, row) => Array.from({ length: 8 }, (_, column) => {
        const [, low, high] = read(row, column);
        return low <= even && even <= high;
      })).flat().filter(Boolean).length;
    }""")
    assert 0 < cells < 24
    assert faded / (faded + full) == pytest.approx(cells / 24, abs=0.1)
    page = open_page(flagged, viewport=WIDE, forced_colors="active")
    drawn(page, "load")
    assert "Hatched: the interval holds even" in page.inner_text("#load .plot")


def test_experts_can_be_sorted_by_their_favourite_domain(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE, color_scheme="light")
    drawn(page, "layers")
    choose(page, "load", "Experts in the order of", "their favourite domain, then their load")
    for colour in colours.DOMAINS[:3]:
        assert painted(page, "load", colour) > 50
    assert page.locator("#load .plot .legend").inner_text().split() == ["code", "general", "math"]
    drawn(page, "load").focus()
    favourites = []
    page.keyboard.press("ArrowRight")
    for _ in range(16):
        favourites.append(tip(page).splitlines()[-1])
        page.keyboard.press("ArrowRight")
    assert favourites == sorted(favourites), "code, general, math"
    assert len(set(favourites)) == 3


def test_a_domain_has_one_colour_and_all_of_them_grey(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE, color_scheme="light")
    drawn(page, "layers")
    keys = page.locator("#layers .legend button").evaluate_all(
        "(buttons) => buttons.map((b) => [b.textContent, b.querySelector('line').getAttribute('stroke')])"
    )
    assert dict(keys) == {"all domains": colours.ALL} | colours.domain_colours(["code", "general", "math"])
    assert page.evaluate("['code', 'math', ''].map(MB.domainColour)") == [
        colours.DOMAINS[0],
        colours.DOMAINS[2],
        colours.ALL,
    ]
    assert page.evaluate("MB.diverging(0)") == "rgb(246,246,246)"


def test_experts_have_the_colours_of_the_pictures(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE, color_scheme="dark")
    counts = [5, 9, 0, 9, *range(20, 28)]
    asked = f"((counts) => counts.map((_, i) => MB.expertColour(i, counts)))({counts})"
    assert page.evaluate(asked) == colours.expert_colours(counts, dark=True)
    assert page.evaluate(f"MB.expertColour(0, {counts}, 0)") == colours.CHOSEN_DARK, "any expert, if asked for"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_map_around_even_is_that_of_pictures_and_demo(open_page: Any, nano: str, scheme: str) -> None:
    page = open_page(nano, viewport=WIDE, color_scheme=scheme)
    stops = colours.DIVERGING_DARK if scheme == "dark" else colours.DIVERGING
    places = [-1.0, -0.7, -0.5, -0.1, 0.0, 0.2, 0.35, 0.8, 1.0]
    for place, said in zip(places, page.evaluate(f"{places}.map(MB.diverging)"), strict=True):
        theirs = [int(colours.mixed(stops, place)[start : start + 2], 16) for start in (1, 3, 5)]
        np.testing.assert_allclose([int(part) for part in said[4:-1].split(",")], theirs, atol=1)


TICKS = """(section) => [...document.querySelectorAll(`#${section} .plot svg[role=img]`)].map((svg) => {
  const words = [...svg.querySelectorAll("text")].filter((t) => /^-?[0-9.]+$/.test(t.textContent));
  const of = (anchor) => words.filter((t) => t.getAttribute("text-anchor") === anchor).map((t) => t.textContent);
  return [of("middle"), of("end")];
})"""
"""The ticks of the x and the y axis of every chart of a section."""


def test_whole_numbers_have_whole_ticks_and_every_axis_two(open_page: Any, flagged: str, tmp_path: Path) -> None:
    page = open_page(flagged, viewport=WIDE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    for across, up in page.evaluate(TICKS, "dead"):
        assert all(tick.isdecimal() for tick in [*across, *up]), "layers and experts"
    training = training_folder(tmp_path / "floor", steps=7)
    page = open_page(written(tmp_path, [training]), viewport=PHONE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    charts = page.evaluate(TICKS, "training")
    assert len(charts) == 4
    for across, up in charts:
        assert all(tick.isdecimal() for tick in across), "steps"
        assert len(across) >= 2
        assert len(up) >= 2
    for low, high in ((0.98, 1.16), (0, 0.4), (2.49, 2.51), (-3, 17), (1e-6, 4e-6)):
        assert len(page.evaluate(f"MB.ticks({low}, {high}, 3)")) >= 2
    assert page.evaluate("MB.ticks(-0.4, 3.4, 6, true)") == [0, 1, 2, 3]


def test_sorting_puts_the_busiest_expert_first(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    before = picture(page, "load")
    choose(page, "load", "Experts in the order of", "their load, each layer its own")
    assert picture(page, "load") != before
    drawn(page, "load").focus()
    ratios = []
    for key in ("ArrowRight", "ArrowRight", "End"):
        page.keyboard.press(key)
        (line,) = (line for line in tip(page).splitlines() if "times the even share" in line)
        ratios.append(float(line.split()[0]))
    assert ratios[0] > ratios[1] > 1 > ratios[2]


def test_another_domain_another_layer_another_quantity(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    before = picture(page, "load")
    choose(page, "load", "Data", "code")
    assert page.inner_text("#load figure h3") == "Layer by expert load: code"
    assert picture(page, "load") != before
    before = picture(page, "coactivation")
    choose(page, "coactivation", "Layer", "4")
    assert page.inner_text("#coactivation figure h3").endswith("of layer 4")
    assert picture(page, "coactivation") != before
    choose(page, "domains", "Layer", "5")
    assert page.locator("#domains figure h3").last.inner_text() == "Experts by domain, layer 5"
    choose(page, "layers", "Quantity", "Gini coefficient of the load")
    assert page.inner_text("#layers figure h3") == "Gini coefficient of the load by layer"
    assert "Unit: ratio" in page.inner_text("#layers figcaption")


def test_coactivation_tells_pairs_and_lift_against_chance(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    drawn(page, "coactivation").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    words = tip(page)
    assert words.startswith("Experts 0 and 2, layer 0\n")
    assert "of 15,258 chose both" in words
    line = next(line for line in words.splitlines() if "(chance 0.53)" in line)
    over, raw = float(line.split()[0]), float(line.split(": ")[1].split()[0])
    assert over == pytest.approx(raw / 0.533, abs=0.02), "in colour is the lift over chance"


def test_points_of_a_chart_tell_value_and_interval(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    drawn(page, "layers").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    lines = tip(page).splitlines()
    assert lines[0].endswith("layer 1")
    assert "code" in lines[0]
    assert lines[1].startswith("Mean entropy of a token's routing: 2.")
    assert lines[1].endswith("] nats")


def test_a_line_can_be_taken_out(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    drawn(page, "layers")
    lines = page.locator("#layers svg[role=img] path[fill=none]")
    before = lines.count()
    button = page.locator("#layers .legend button").first
    button.click()
    assert page.locator("#layers .legend button").first.get_attribute("aria-pressed") == "false"
    assert lines.count() == before - 1


def test_theme_changes_the_page_and_its_pictures(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE, color_scheme="light")
    light = picture(page, "load"), page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    dark = picture(page, "load"), page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    page.click("#theme")
    assert (picture(page, "load"), page.evaluate("getComputedStyle(document.body).backgroundColor")) == light


def test_it_follows_the_system_in_dark(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE, color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)"
    assert page.get_attribute("#theme", "aria-pressed") == "true"


def test_every_figure_saves_a_table_and_a_picture(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    figures = page.locator("figure")
    assert figures.count() >= 6
    for number in range(figures.count()):
        figure = figures.nth(number)
        figure.scroll_into_view_if_needed()
        for label, start in (("CSV", b'"'), ("PNG", b"\x89PNG")):
            with page.expect_download() as download:
                figure.get_by_text(label, exact=True).click()
            content = Path(download.value.path()).read_bytes()
            assert content.startswith(start)
            assert len(content) > 200


def test_the_csv_of_the_load_has_every_count(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    page.locator("#load figure").scroll_into_view_if_needed()
    with page.expect_download() as download:
        page.locator("#load").get_by_text("CSV", exact=True).click()
    assert download.value.suggested_filename == "layer-by-expert-load-all-domains.csv"
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    report = read_inputs(NANO, plan=QUICK).runs[0].report
    assert [int(row["selections"]) for row in rows] == [c for r in report["routers"] for c in r["selection_counts"]]
    busiest = max((row for row in rows if row["layer"] == "0"), key=lambda row: int(row["selections"]))
    band = report["routers"][0]["token_share"]
    assert float(busiest["share of tokens"]) == pytest.approx(report["routers"][0]["top_share_token"])
    assert float(busiest["low"]) == pytest.approx(band["low"][int(busiest["expert"])], rel=1e-4)


def test_every_figure_has_a_table_and_every_picture_a_name(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    for summary in page.locator("figure summary").all():
        summary.click()
    for figure in page.locator("figure").all():
        assert figure.locator("table tbody tr").count() > 0
        assert figure.locator(".plot").get_attribute("aria-label")
        caption = figure.locator("figcaption").inner_text()
        assert "Unit" in caption
        assert "sequences" in caption
    for select in page.locator("select").all():
        assert select.evaluate("(element) => element.labels.length") == 1
    assert page.locator("h1").count() == 1
    assert all(page.locator(tag).count() == 1 for tag in ("main", "nav", "header", "footer"))


def test_hostile_names_are_shown_and_nothing_runs(open_page: Any, tmp_path: Path) -> None:
    page = open_page(written(tmp_path, hostile_pairs(tmp_path)), viewport=WIDE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    assert HOSTILE in page.inner_text("h1")
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hit") is None
    options = page.locator("#load").get_by_label("Data", exact=True).locator("option").all_inner_texts()
    assert options == ["all domains", HOSTILE, isolated(HEBREW)]
    drawn(page, "load").focus()
    choose(page, "load", "Data", HOSTILE)
    for summary in page.locator("summary").all():
        summary.click()
    assert HOSTILE in page.locator("#load tbody tr").first.inner_text()
    assert page.evaluate("window.hit") is None
    # What a right-to-left name turns stays inside it: the number behind the name is still at its right.
    caption = page.inner_text("#layers figcaption")
    assert "\u2068עברית abc\u2069: n = 12 sequences" in caption


def test_a_token_view_is_part_of_the_page(open_page: Any, tmp_path: Path) -> None:
    texts = [HOSTILE, " a", HEBREW, "b"]
    rng = np.random.default_rng(0)
    choices = [
        Choices(np.argsort(rng.random((4, 16)))[:, :2], rng.random((4, 2)), rng.random(4), rng.random(4))
        for _ in range(6)
    ]
    specs = [RouterSpec(layer, layer, "mlp", 16, 2) for layer in range(6)]
    tokens = token_data_of(specs, [TokenSequence("row 0", texts, choices)], model={"id": "test"}, name="data")
    path = tmp_path / "tokens.html"
    path.write_text(build_page(read_inputs(NANO[:1], plan=QUICK), tokens=tokens), encoding="utf-8")
    page = open_page(path.as_uri(), viewport=WIDE)
    assert "Single tokens and their experts" in page.locator("nav a").all_inner_texts()
    assert "onerror" in page.inner_text("#tokens")
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hit") is None


def test_a_formula_in_a_name_is_text_in_a_spreadsheet(open_page: Any, nano: str) -> None:
    page = open_page(nano)
    assert page.evaluate("""MB.cell('=HYPERLINK("x")')""") == '"\'=HYPERLINK(""x"")"'
    assert page.evaluate("MB.cell(-1.5)") == "-1.5"


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_kind_of_page_fits_its_screen(open_page: Any, tmp_path: Path, size: dict[str, int]) -> None:
    two = [RESULTS / "routing_stats_nano_math.json", f"4bit={RESULTS / 'routing_stats_nano_4bit_math.json'}"]
    for number, arguments in enumerate(
        (
            NANO,
            [*two, RESULTS / "uncertainty" / "nano_math.json"],
            [training_folder(tmp_path / "floor")],
            [RESULTS / "profiles" / "nano.json", RESULTS / "comparisons" / "nano_4bit.json"],
            [RESULTS / "routing_stats_olmoe_counts.json"],
        )
    ):
        page = open_page(written(tmp_path, arguments, f"{number}.html"), viewport=size)
        page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.locator("figure").count() >= 2
        assert page.locator("figure").count() == page.locator("figure .plot > *:first-child").count()


def test_two_runs_are_compared_on_one_scale(open_page: Any, tmp_path: Path) -> None:
    two = [RESULTS / "routing_stats_nano_math.json", f"4bit={RESULTS / 'routing_stats_nano_4bit_math.json'}"]
    page = open_page(written(tmp_path, two), viewport=WIDE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    assert "4bit against moebench-nano, paired on the same sequences" in page.inner_text(".lead")
    scales = page.evaluate("[...document.querySelectorAll('#load canvas.scale')].map((c) => c.toDataURL())")
    assert len(scales) == 2
    assert scales[0] == scales[1]
    assert page.locator("#differences tbody tr").count() > 10
    choose(page, "differences", "Quantity", "Entropy of the load")
    assert page.locator("#differences figure h3").first.inner_text() == "Difference by layer: Entropy of the load"


def test_print_is_light_and_whole(open_page: Any, nano: str) -> None:
    page = open_page(nano, viewport=WIDE, color_scheme="dark")
    dark = picture(page, "load")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("MB.isDark") is False
    assert page.locator("#load .heat svg").count() == 1
    assert page.locator("#load .heat canvas").count() == 0, "vectors"
    assert page.locator("figure .plot:empty").count() == 0
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert picture(page, "load") == dark
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_a_large_report_stays_small_and_quick(open_page: Any, large: Path) -> None:
    """By what the page computes, whatever else the machine does: a second to open, 0.1 s a click, tables included."""
    assert large.stat().st_size < 3_000_000
    page = open_page("about:blank", viewport=WIDE)
    spent = cpu(page)
    spent()
    page.goto(large.as_uri())
    assert spent() < 1
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")

    def slowest(*scripts: str) -> float:
        """CPU seconds of the slowest of scripts."""
        return max((least(page, spent, script) for script in scripts), default=0.0)

    for number in range(page.locator("figure").count()):
        figure = f"document.querySelectorAll('figure')[{number}]"
        page.evaluate(f"{figure}.querySelector('summary').scrollIntoView()")
        opened = f"{figure}.querySelector('details').open = false; {figure}.querySelector('summary').click()"
        turned = f"[...{figure}.querySelectorAll('.paged button')].slice(2).forEach((button) => button.click())"
        assert slowest(opened, turned) < LONGEST, figure
    choices = page.evaluate("[...document.querySelectorAll('main select')].map((s) => Math.min(3, s.options.length))")
    assert sum(choices) > 15
    for number, options in enumerate(choices):
        select = f"document.querySelectorAll('main select')[{number}]"
        page.evaluate(f"{select}.scrollIntoView()")
        change = [
            f"{select}.selectedIndex = {option}; {select}.dispatchEvent(new Event('change'))"
            for option in range(options)
        ]
        for script, other in zip(change, [*change[1:], *change[:1]], strict=True):
            assert least(page, spent, script, other) < LONGEST, page.evaluate(f"{select}.id")


def test_the_theme_of_a_large_report_changes_at_once(open_page: Any, large: Path) -> None:
    page = open_page(large.as_uri(), viewport=WIDE)
    page.evaluate("MB.redraws.forEach((figure) => figure.drawNow())")
    page.locator("#coactivation-1").scroll_into_view_if_needed()
    spent = cpu(page)
    assert least(page, spent, "theme.click()") < LONGEST


def test_a_table_is_shown_a_page_at_a_time(open_page: Any, large: Path) -> None:
    page = open_page(large.as_uri(), viewport=WIDE)
    drawn(page, "load")
    page.locator("#load figure summary").click()
    table = page.locator("#load figure .paged")
    table.locator("tbody tr").first.wait_for()
    assert table.locator("tbody tr").count() == 25
    assert table.get_by_role("status").inner_text() == "Rows 1 to 25 of 6,144"
    table.get_by_text("Next", exact=True).click()
    assert table.get_by_role("status").inner_text() == "Rows 26 to 50 of 6,144"
    assert table.locator("tbody td").nth(3).inner_text() != ""
    last = table.get_by_text("Last", exact=True)
    last.focus()
    page.keyboard.press("Enter")
    assert table.get_by_role("status").inner_text() == "Rows 6,126 to 6,144 of 6,144"
    assert table.locator("tbody tr").last.locator("td").nth(4).inner_text() == "127"
    assert last.get_attribute("aria-disabled") == "true"
    assert last.evaluate("(button) => button === document.activeElement")
    # Another choice begins at its first rows.
    choose(page, "load", "Data", "domain b")
    table.get_by_text("Rows 1 to 25 of 6,144", exact=True).wait_for()
    assert "domain b" in table.locator("tbody tr").first.inner_text()


def test_a_cut_off_table_of_findings_looks_cut_off(open_page: Any, nano: str, large: Path) -> None:
    """Rows out of sight, by a scroll bar that many systems hide, announce themselves by a shadow at the lower edge."""
    box = "document.querySelector('#domains .scroll.long')"
    page = open_page(nano, viewport=WIDE)
    assert page.evaluate(f"{box}.scrollHeight <= {box}.clientHeight")
    page = open_page(large.as_uri(), viewport=WIDE)
    assert page.evaluate(f"{box}.scrollHeight > {box}.clientHeight")
    page.locator("#domains .scroll.long").scroll_into_view_if_needed()
    at_top = page.locator("#domains .scroll.long").screenshot()
    page.evaluate(f"{box}.style.background = 'none'")
    assert page.locator("#domains .scroll.long").screenshot() != at_top
