"""Pictures: every kind from real inputs, on one scale where several are compared, and safe for any name."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from dynamics_files import write as write_course
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from page_inputs import collapsed_stats
from routing_reference import make_stats

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.cli._result import show
from mlx_moebench.cli.plot import _OPTIONS as OPTIONS
from mlx_moebench.errors import StatsError
from mlx_moebench.routing import Plan, RouterSpec
from mlx_moebench.show.colours import FINDINGS
from mlx_moebench.show.figures import ORDERS
from mlx_moebench.show.figures.river import river_series
from mlx_moebench.show.figures.token_map import token_map
from mlx_moebench.show.inputs import Inputs, read_inputs
from mlx_moebench.show.plots import get_plot, plots, write_picture
from mlx_moebench.show.plots._heat import padded
from mlx_moebench.show.plots.base import plain
from mlx_moebench.show.tokens import token_data

RESULTS = Path(__file__).parents[1] / "results"
PLAN = Plan(resamples=100)
ANALYZED = ["--dataset", "general", "--max-samples", "2", "--max-length", "24", "--resamples", "100", "--quiet"]
TWO_KINDS = tuple(RouterSpec(layer, layer, kind, 8, 2) for layer in range(3) for kind in ("attention", "mlp"))
HOSTILE = "中 </script> $x$ `a|b` \n\u202e שלום " + "long " * 60 + "文"

KINDS = {
    "card": ["a.json", "b.json"],
    "coactivation": ["a.json"],
    "comparison": [RESULTS / "comparisons" / "nano_4bit.json"],
    "dead": ["a.json", "b.json"],
    "domains": [RESULTS / "profiles" / "nano.json"],
    "dynamics": ["course.json"],
    "entropy": ["a.json", "b.json"],
    "load": ["a.json", "b.json"],
    "quant": [RESULTS / "quant_drift" / "nano_math.json"],
    "river": ["a.json"],
    "shares": ["a.json", "b.json"],
    "specialisation": ["a.json", "b.json"],
    "testbed": [RESULTS / "testbed" / "testbed.json"],
    "tokens": ["trace"],
    "training": ["training"],
    "uncertainty": [RESULTS / "uncertainty" / "nano_math.json"],
}
"""A row per kind: what it is drawn from; names without a folder are made by the fixture ``inputs``."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stats pairs of one model, and a training of four steps."""
    path = tmp_path_factory.mktemp("plots")
    for letter in "ab":
        make_stats(sha=letter * 64).save(path / f"{letter}.json", PLAN)
    write_course(path / "course.json")
    (path / "training").mkdir()
    report = {
        "model": "tiny",
        "settings": {"routing_loss": {"name": "entropy_floor", "weight": 0.1, "floor": {"fraction": 0.9}}},
        "ce": {},
        "routing_loss": {"floor_nats": [1.9]},
    }
    (path / "training" / "training_report.json").write_text(json.dumps(report))
    lines = [{"step": 0, "val_ce": 5.0}] + [
        {"step": step, "ce": 5.0 - step, "routing_loss": 0.1, "tokens": 10}
        | {name: [1.0 + step, 2.0] for name in ("token_entropy", "marginal_entropy", "load_entropy")}
        | {"top_load_ratio": [1.5, 2.0], "dead_experts": [0, 1]}
        for step in range(1, 5)
    ]
    (path / "training" / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


each_of_routers = pytest.mark.parametrize(
    "kind",
    [
        *("load", "coactivation"),
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("entropy", "shares", "dead", "domains", "river", "specialisation")
        ),
    ],
)
"""Of the kinds with a panel or a line for every router, a chart and a heat map by default, the others if slow."""


def given(kind: str, folder: Path) -> list[Path]:
    if "trace" in KINDS[kind] and not (folder / "trace").exists():
        pytest.importorskip("mlx.core", reason="needs MLX to make a trace")
        main(["analyze", *ANALYZED, "--output", str(folder / "o.json"), "--trace", str(folder / "trace")])
    return [folder / name for name in KINDS[kind]]  # an absolute path stays what it is


def drawn(kind: str, inputs: Inputs, path: Path, *arguments: Any) -> Figure:
    """The figure of a kind, after it was written to ``path``."""
    kept: list[Figure] = []

    def draw() -> Figure:
        kept.append(get_plot(kind).draw(inputs, *arguments))
        return kept[0]

    write_picture(path, draw)
    return kept[0]


def texts(figure: Figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_the_folder_is_the_list_of_kinds() -> None:
    assert sorted(KINDS) == list(plots())
    for name, plot in plots().items():
        assert plot.name == name
        assert plot.summary.endswith(".")
        assert len(plot.summary) < 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_and_the_same_each_time(kind: str, folder: Path, tmp_path: Path) -> None:
    inputs = read_inputs(given(kind, folder), plan=PLAN)
    for name in ("first", "second"):
        figure = drawn(kind, inputs, tmp_path / f"{name}.svg")
    content = (tmp_path / "first.svg").read_bytes()
    assert content == (tmp_path / "second.svg").read_bytes(), "the same inputs draw the same file"
    ET.fromstring(content)
    said = "\n".join(texts(figure))
    assert "interval" in said, "a figure says what its intervals are, or why there are none"
    assert overflowing(figure) == []
    assert any(axis.get_xlabel() for axis in figure.axes)
    assert any(axis.get_ylabel() for axis in figure.axes)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_files_carry_no_date(suffix: str, start: bytes, folder: Path, tmp_path: Path) -> None:
    inputs = read_inputs([folder / "a.json"])
    for name in ("first", "second"):
        drawn("shares", inputs, tmp_path / f"{name}{suffix}")
    content = (tmp_path / f"first{suffix}").read_bytes()
    assert content.startswith(start)
    assert content == (tmp_path / f"second{suffix}").read_bytes()
    assert b"/Type3" not in content, "journals refuse Type 3 fonts"


def test_no_last_digit_of_a_layout_reaches_a_file(folder: Path, tmp_path: Path) -> None:
    """The solver of layouts gives others each time, and clip paths of an SVG are named by them."""
    figure = drawn("load", read_inputs([folder / "a.json", folder / "b.json"]), tmp_path / "p.svg")
    assert isinstance(figure.get_layout_engine(), PlaceHolderLayoutEngine), "nothing moves them again"
    places = [part for axis in figure.axes for part in axis.get_position().bounds]
    assert places == pytest.approx([round(part, 6) for part in places], rel=0, abs=1e-12)


@each_of_routers
def test_two_kinds_of_router_are_never_in_one_panel(kind: str, tmp_path: Path) -> None:
    for letter in "ab":
        make_stats(sha=letter * 64, specs=TWO_KINDS).save(tmp_path / f"{letter}.json", PLAN)
    figure = drawn(kind, read_inputs([tmp_path / "a.json", tmp_path / "b.json"], plan=PLAN), tmp_path / "p.svg")
    said = "\n".join(texts(figure))
    assert "attention" in said
    assert "mlp" in said
    assert overflowing(figure) == []


def overflowing(figure: Figure) -> list[str]:
    """What the edge of the figure cuts, and titles and notes that lie on one another, by more than a hair."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Annotation, Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole, edge = figure.get_tightbbox(canvas.get_renderer()), figure.bbox_inches.padded(0.01)
    bad = (
        [] if edge.x0 < whole.x0 and edge.y0 < whole.y0 and whole.x1 < edge.x1 and whole.y1 < edge.y1 else [str(whole)]
    )
    boxes = []
    for text in figure.findobj(Text):
        title = any(text is axis.title for axis in figure.axes) and "\n" not in text.get_text()
        if text.get_text().strip() and (title or isinstance(text, Annotation)):
            boxes.append((text.get_text(), text.get_window_extent(canvas.get_renderer()).padded(-1)))
    return bad + [f"{a} on {b}" for n, (a, x) in enumerate(boxes) for b, y in boxes[:n] if x.overlaps(y)]


@each_of_routers
def test_any_name_is_drawn_as_text_without_a_warning(kind: str, tmp_path: Path) -> None:
    for letter in "ab":
        stats = make_stats(sha=letter * 64)
        stats.model["id"] = HOSTILE
        stats.sources[letter * 64]["name"] = f"{letter} {HOSTILE}"
        stats.save(tmp_path / f"{letter}.json", PLAN)
    for suffix in ("pdf", "svg") if kind == "load" else ("svg",):
        inputs = read_inputs([tmp_path / "a.json", tmp_path / "b.json"], plan=PLAN)
        figure = drawn(kind, inputs, tmp_path / f"p.{suffix}")  # warnings are errors
    ET.fromstring((tmp_path / "p.svg").read_bytes())
    assert overflowing(figure) == []
    assert any("\\u4e2d" in text or "\\u6587" in text for text in texts(figure)), "what the font lacks is escaped"


def test_plain_names() -> None:
    assert plain("OLMoE $x$ é ≤") == "OLMoE $x$ é ≤"
    assert plain("a\nb\x1b\u202e") == "a\\nb\\x1b\\u202e"
    assert plain("中") == "\\u4e2d"
    assert plain("שלום") == "\u200eשלום\u200e", "text of the other direction turns nothing round but itself"
    assert plain("x" * 50 + "y" * 50, 20) == "x" * 10 + "…" + "y" * 9
    assert len(plain("中" * 40, 20)) == 20


def test_compared_runs_share_scale_and_axes(tmp_path: Path) -> None:
    skewed = make_stats(sha="b" * 64)
    counts = skewed._sums[0]._arrays["counts"]
    counts[:] = 0
    counts[:, :2] = skewed._sums[0]._arrays["n_tokens"][:, None]  # two experts take everything: 4 times even
    skewed._sums[0]._arrays["top1_counts"][:] = counts * (np.arange(8) == 0)
    skewed._sums[0].pairs[:] = skewed._transitions[0][:] = 0
    skewed.model["id"] = "other"
    make_stats().save(tmp_path / "a.json", PLAN)
    skewed.save(tmp_path / "b.json", PLAN)
    inputs = read_inputs([tmp_path / "a.json", tmp_path / "b.json"], plan=PLAN)
    assert [run.name for run in inputs.runs] == ["test/tiny", "other"]
    figure = drawn("load", inputs, tmp_path / "p.png")
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert len(images) == 2
    assert images[0].norm is images[1].norm
    assert images[0].norm.vmax == 4
    assert [axis.get_title() for axis in figure.axes[:2]] == ["test/tiny (n = 12)", "other (n = 12)"]
    np.testing.assert_allclose(np.asarray(images[1].get_array())[0], [4, 4, 0, 0, 0, 0, 0, 0])
    figure = drawn("shares", inputs, tmp_path / "p.png")
    assert len({axis.get_ylim() for axis in figure.axes}) == 1
    assert [len(axis.lines) for axis in figure.axes] == [4, 3, 3], "two runs and K/E; tau in the first"


def test_bands_are_the_intervals_of_the_report(tmp_path: Path) -> None:
    report_path, _ = make_stats().save(tmp_path / "a.json", PLAN)
    report = json.loads(report_path.read_text())
    figure = drawn("entropy", read_inputs([report_path]), tmp_path / "p.png")
    (band,) = figure.axes[0].collections
    corners = band.get_paths()[0].vertices
    ci = [router["ci"]["mean_entropy"] for router in report["routers"]]
    assert {entry["low"] for entry in ci} | {entry["high"] for entry in ci} <= set(corners[:, 1])
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [r["mean_entropy"] for r in report["routers"]])
    assert figure.axes[0].lines[1].get_ydata()[0] == pytest.approx(np.log(8)), "the chance line is ln E"


def test_every_run_is_in_the_legend_and_says_whether_it_has_intervals(tmp_path: Path) -> None:
    make_stats(specs=TWO_KINDS).save(tmp_path / "two.json", PLAN)
    make_stats(range(1)).save(tmp_path / "one.json", PLAN)  # has no attention routers, and no intervals
    inputs = read_inputs([f"both={tmp_path / 'two.json'}", f"single={tmp_path / 'one.json'}"], plan=PLAN)
    figure = drawn("shares", inputs, tmp_path / "p.png")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["both (n = 12)", "single (n = 1)"]
    title = str(figure.get_suptitle())
    assert "bands: 95% intervals over sequences" in title
    assert "no intervals: 1 sequence" in title


def test_settings_of_the_users_own_plots_change_nothing(folder: Path, tmp_path: Path) -> None:
    import matplotlib as mpl

    inputs = read_inputs([folder / "a.json"])
    drawn("entropy", inputs, tmp_path / "plain.svg")
    with mpl.rc_context({"axes.facecolor": "yellow", "lines.linestyle": ":", "axes.grid": True}):
        drawn("entropy", inputs, tmp_path / "own.svg")
        assert mpl.rcParams["axes.facecolor"] == "yellow", "and they stay as they were"
    assert (tmp_path / "own.svg").read_bytes() == (tmp_path / "plain.svg").read_bytes()


def test_one_comparison_is_drawn_not_the_first_of_several() -> None:
    inputs = read_inputs([RESULTS / "comparisons" / f"nano_{bits}bit.json" for bits in (4, 8)])
    with pytest.raises(StatsError, match="of one comparison, and here are 2"):
        get_plot("comparison").draw(inputs)


def test_comparison_shows_effects_with_intervals_filled_where_q_is_small(tmp_path: Path) -> None:
    path = RESULTS / "comparisons" / "nano_4bit.json"
    figure = drawn("comparison", read_inputs([path]), tmp_path / "p.png")
    effects = [router["effects"]["mean_entropy"] for router in json.loads(path.read_text())["routers"]]
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    np.testing.assert_allclose([float(line.get_ydata()[0]) for line in points], [e["effect"] for e in effects])
    assert [line.get_markerfacecolor() != "white" for line in points] == [e["q"] < 0.05 for e in effects]
    bars = [collection.get_segments()[0][:, 1] for collection in figure.axes[0].collections]
    np.testing.assert_allclose(bars, [[e["low"], e["high"]] for e in effects])


def test_json_alone_and_one_sequence_say_why_there_are_no_intervals(tmp_path: Path) -> None:
    report_path, sums = make_stats().save(tmp_path / "a.json", PLAN)
    sums.unlink()
    figure = drawn("shares", read_inputs([report_path]), tmp_path / "p.png")
    assert any("no intervals: a.safetensors with the sums is missing" in text for text in texts(figure))
    make_stats(range(1)).save(tmp_path / "one.json", PLAN)
    figure = drawn("load", read_inputs([tmp_path / "one.json"]), tmp_path / "p.png")
    assert any("no intervals: 1 sequence is too few" in text for text in texts(figure))


def test_coactivation_is_lift_over_chance(tmp_path: Path) -> None:
    stats = make_stats()
    stats.save(tmp_path / "a.json", PLAN)
    inputs = read_inputs([tmp_path / "a.json"])
    figure = drawn("coactivation", inputs, tmp_path / "p.png", (1,))
    image = np.asarray(figure.axes[0].images[0].get_array().filled(np.nan))
    chance = 8 * 1 / (2 * 7)  # E (K-1) / (K (E-1))
    expected = stats.coactivation_lift(1) / chance
    norm = figure.axes[0].images[0].norm
    off = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(image[off], np.clip(expected, norm.vmin, norm.vmax)[off])
    assert np.isnan(image.diagonal()).all()
    assert norm.vmin == pytest.approx(1 / norm.vmax), "as far below chance as above it"


def test_wrong_inputs_are_one_clear_sentence(tmp_path: Path) -> None:
    make_stats(specs=(RouterSpec(0, 0, "mlp", 8, 1),)).save(tmp_path / "k1.json", PLAN)
    single = read_inputs([tmp_path / "k1.json"])
    training = read_inputs([RESULTS / "uncertainty" / "nano_math.json"])
    for kind, inputs, said in (
        ("coactivation", single, "K = 1"),
        ("domains", single, "two or more domains"),
        ("specialisation", single, "two or more domains"),
        ("comparison", single, "two comparable stats pairs"),
        ("uncertainty", single, "loss --output"),
        ("dynamics", single, "dynamics CHECKPOINTS --output FILE"),
        ("quant", single, "compare MODEL --quant ARM --output FILE"),
        ("training", single, "the folder that train wrote"),
        ("testbed", single, "give a testbed.json"),
        ("load", training, "give a stats pair"),
        ("coactivation", training, "give a stats pair"),
    ):
        with pytest.raises(StatsError, match=said):
            get_plot(kind).draw(inputs)
    with pytest.raises(StatsError, match="has no router in layer 7: it has layers 0"):
        get_plot("coactivation").draw(single, (7,))


def test_domains_of_one_model_are_no_comparison(folder: Path) -> None:
    with pytest.raises(StatsError, match="compare A B --allow data"):
        get_plot("comparison").draw(read_inputs([folder / "a.json", folder / "b.json"], plan=PLAN))


def test_padded_is_nan_beyond_the_experts_of_a_router() -> None:
    np.testing.assert_array_equal(
        padded([np.array([1.0, 1.0]), np.array([3.0, 0.0, 0.0])]), [[1, 1, np.nan], [3, 0, 0]]
    )


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["plot", *map(str, arguments)])
        assert stop.value.code in (1, 2)
        return capsys.readouterr().err

    return run


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "load.pdf"
    main(["plot", "load", f"first={folder / 'a.json'}", "-o", str(out), "--title", ""])
    assert capsys.readouterr().out == f"Wrote {out}\n"
    assert out.read_bytes().startswith(b"%PDF")
    main(["plot", "--help"])
    shown = capsys.readouterr().out
    for plot in plots().values():
        assert plot.name in shown
        assert plot.summary.split()[0] in shown
    main(["plot", "coactivation", "--help"])
    shown = capsys.readouterr().out
    assert "--layer" in shown
    assert "stats pairs with both files" in shown


def test_command_line_errors(folder: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    pair, out = folder / "a.json", tmp_path / "p.png"
    assert "There is no picture of kind 'lode'. Did you mean 'load'?" in fails("lode", pair, "-o", out)
    assert "A plot ends in .png, .svg or .pdf, got 'p.gif'." in fails("load", pair, "-o", tmp_path / "p.gif")
    assert "Missing argument 'INPUTS...'" in fails("load", "-o", out)
    assert "Missing option '-o'" in fails("load", pair)
    assert "There is no " in fails("load", tmp_path / "nope.json", "-o", out)
    assert "No such option" in fails("load", pair, "--layer", 1, "-o", out)
    assert not out.exists()


def test_a_large_model_is_drawn_quickly_and_small(tmp_path: Path) -> None:
    specs = tuple(RouterSpec(layer, layer, "mlp", 128, 8) for layer in range(48))
    rng = np.random.default_rng(0)
    stats = RoutingStats(specs, model={"id": "large"}, sources={"a" * 64: {"name": "text"}})
    for number, spec in enumerate(specs):
        small = make_stats(range(1), specs=(spec,), sha="a" * 64, length=40 + int(rng.integers(1)))
        stats.add_sums(number, small.clusters, small.sums(0), small.pairs(0))
    stats.save(tmp_path / "large.json", PLAN)
    drawn("load", read_inputs([tmp_path / "large.json"]), tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size < 400_000


def flagged_pair(folder: Path, layers: int = 3) -> Path:
    """A stats pair with a collapsed first layer."""
    collapsed_stats(layers=layers).save(folder / "flagged.json", PLAN)
    return folder / "flagged.json"


def test_cells_whose_interval_holds_even_are_faded_and_hatched(tmp_path: Path) -> None:
    from matplotlib.patches import PathPatch

    path = flagged_pair(tmp_path)
    figure = drawn("load", read_inputs([path]), tmp_path / "p.png")
    routers = json.loads(path.read_text())["routers"]
    may_be_even = np.array(
        [
            [low <= 2 / 8 <= high for low, high in zip(r["token_share"]["low"], r["token_share"]["high"], strict=True)]
            for r in routers
        ]
    )
    assert may_be_even.any()
    assert not may_be_even[0].any(), "all or nothing"
    alpha = figure.axes[0].images[0].get_alpha()
    assert (np.asarray(alpha) < 1).tolist() == may_be_even.tolist()
    (hatched,) = [patch for patch in figure.axes[0].patches if isinstance(patch, PathPatch)]
    assert hatched.get_hatch()
    runs = sum(int((np.diff(np.pad(row.astype(int), 1)) == 1).sum()) for row in may_be_even)
    assert len(hatched.get_path().vertices) == 5 * runs
    assert "faded, hatched" in str(figure.get_suptitle())


@pytest.mark.parametrize("layers", [3, 48])
def test_flagged_rows_are_marked_however_many_there_are(layers: int, tmp_path: Path) -> None:
    figure = drawn("load", read_inputs([flagged_pair(tmp_path, layers)]), tmp_path / "p.svg")
    (marked,) = [
        line for line in figure.axes[0].lines if line.get_marker() == ">" and line.get_markerfacecolor() != "none"
    ]
    assert marked.get_ydata()[0] == 0
    assert marked.get_markerfacecolor() == FINDINGS["collapsed"]
    assert len(figure.axes[0].get_yticklabels()) == layers, "every layer is named"
    assert overflowing(figure) == []


def test_experts_are_sorted_by_load_and_by_favourite_domain(folder: Path, tmp_path: Path) -> None:
    inputs = read_inputs([folder / "a.json", folder / "b.json"], plan=PLAN)
    (run,) = inputs.runs
    plain_heats, by_load, by_domain = (
        [
            np.array(axis.images[0].get_array())
            for axis in drawn("load", inputs, tmp_path / "p.png", (1, 2), order).axes[:2]
        ]
        for order in ("number", "load", "domain")
    )
    assert len(run.domains) == len(plain_heats) == 2
    for values, ordered in zip(plain_heats, by_load, strict=True):
        np.testing.assert_array_equal(ordered, -np.sort(-values, axis=1))
    counts = [[r["selection_counts"] for r in report["routers"][1:3]] for report in run.domains.values()]
    tokens = [[r["n_tokens"] for r in report["routers"][1:3]] for report in run.domains.values()]
    favourite = (np.array(counts) / np.array(tokens)[:, :, None]).argmax(axis=0)
    for values, ordered in zip(plain_heats, by_domain, strict=True):
        expected = [row[np.lexsort((-row, of))] for row, of in zip(values, favourite, strict=True)]
        np.testing.assert_array_equal(ordered, expected)
    figure = drawn("load", inputs, tmp_path / "p.png", None, "domain")
    assert "favourite domain (data-a, data-b)" in " ".join(str(figure.get_suptitle()).split())
    assert not [label for label in figure.axes[0].get_xticklabels() if label.get_text()], "a place is no number"
    with pytest.raises(StatsError, match="Experts have a favourite among several domains"):
        get_plot("load").draw(read_inputs([folder / "a.json"], plan=PLAN), None, "domain")


def test_the_interval_of_a_single_layer_is_a_bar(tmp_path: Path) -> None:
    make_stats(specs=(RouterSpec(0, 0, "mlp", 8, 2),)).save(tmp_path / "one.json", PLAN)
    inputs = read_inputs([tmp_path / "one.json"], plan=PLAN)
    axis = drawn("entropy", inputs, tmp_path / "p.png").axes[0]
    entry = inputs.runs[0].report["routers"][0]["ci"]["mean_entropy"]
    heights = [segment[:, 1].tolist() for lines in axis.collections for segment in lines.get_segments()]
    assert [entry["low"], entry["high"]] in heights


def test_the_orders_of_the_command_are_those_there_are() -> None:
    """The command line names them again, since it starts without what draws."""
    assert list(OPTIONS["order"].type.choices) == list(ORDERS)


def test_flagged_layers_alone(tmp_path: Path) -> None:
    collapsed_stats().save(tmp_path / "c.json", PLAN)
    inputs = read_inputs([tmp_path / "c.json"], plan=PLAN)
    every = drawn("load", inputs, tmp_path / "p.png").axes[0]
    marked = {int(line.get_ydata()[0]) for line in every.lines if line.get_marker() == ">"}
    flagged = drawn("load", inputs, tmp_path / "p.png", None, "number", True)
    names = [label.get_text() for label in every.get_yticklabels()]
    assert [label.get_text() for label in flagged.axes[0].get_yticklabels()] == [names[n] for n in sorted(marked)]
    assert 0 < len(marked) < len(names)
    assert "flagged layers only" in str(flagged.get_suptitle())


def test_even_stands_in_the_middle_of_the_one_diverging_map(folder: Path, tmp_path: Path) -> None:
    for kind in ("load", "coactivation"):
        figure = drawn(kind, read_inputs([folder / "a.json"]), tmp_path / "p.png")
        image = figure.axes[0].images[0]
        assert image.cmap.name == "diverging"
        assert float(image.norm(1.0)) == pytest.approx(0.5)


def test_the_paths_of_a_traced_sequence_go_through_its_first_experts(folder: Path, tmp_path: Path) -> None:
    (trace,) = given("tokens", folder)
    inputs = read_inputs([trace], plan=PLAN)
    paths = drawn("river", inputs, tmp_path / "p.png", (1, 3), 1).axes[0].findobj(lambda one: one.get_gid() == "path")
    expected = token_map(token_data(trace), 1, len(paths))
    assert len(paths) == len(expected.texts) > 10
    columns = {column.router.layer: column for column in river_series(inputs.runs[0]).columns}
    for path, experts in zip(paths, expected.experts[:, 1:4], strict=True):
        for place, expert in enumerate(experts):
            nodes = list(columns[place + 1].experts)
            loads = columns[place + 1].loads / columns[place + 1].loads.sum() * (1 - 0.012 * (len(nodes) - 1))
            top = loads[: nodes.index(expert)].sum() + 0.012 * nodes.index(expert)
            (y,) = {y for x, y in path.get_path().vertices if x == place}
            assert top < y < top + loads[nodes.index(expert)]
    other = read_inputs([folder / "a.json", trace], plan=PLAN)
    with pytest.raises(StatsError, match="The trace is of another model than"):
        get_plot("river").draw(other)
    with pytest.raises(StatsError, match="no sequence to draw the paths of"):
        get_plot("river").draw(read_inputs([folder / "a.json"], plan=PLAN), None, 1)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five domains of 70 routers of 128 experts, of one sequence each."""
    path = tmp_path_factory.mktemp("many")
    specs = tuple(RouterSpec(layer, layer, "mlp", 128, 8) for layer in range(70))
    for letter in "abcde":
        small = make_stats(range(1), specs=specs[:1], sha=letter * 64)
        stats = RoutingStats(specs, model={"id": "large"}, sources={letter * 64: {"name": f"text {letter}"}})
        for number in range(len(specs)):
            stats.add_sums(number, small.clusters, small.sums(0), small.pairs(0))
        stats.save(path / f"{letter}.json", PLAN)
    return sorted(path.glob("?.json"))


def test_a_picture_is_never_larger_than_a_page(many: list[Path], tmp_path: Path) -> None:
    inputs = read_inputs(many, plan=PLAN)
    for kind, count in (("load", 10), ("specialisation", 10), ("domains", 1), ("coactivation", 1), ("entropy", 1)):
        pages = get_plot(kind).every(inputs)
        assert len(pages) == count
        for page in pages:
            width, height = page.get_size_inches()
            assert width <= 7
            assert height <= 9
    numbered = get_plot("load").every(inputs)
    assert "page 10 of 10" in str(numbered[-1].get_suptitle())
    assert [text.get_text() for text in numbered[1].axes[0].get_yticklabels()] == [str(n) for n in range(35, 70)]
    written = write_picture(tmp_path / "p.pdf", lambda: numbered[:2])
    assert written == [tmp_path / "p.pdf"]
    assert (tmp_path / "p.pdf").read_bytes().count(b"/Type /Page ") == 2


def test_pages_are_numbered_files_or_the_one_that_was_asked_for(
    many: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    some = ("plot", "load", *map(str, many[:2]))
    main([*some, "--layers", "0-63", "-o", str(tmp_path / "p.svg")])
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'p-1.svg'}, {tmp_path / 'p-2.svg'}\n"
    main([*some, "--layers", "3", "-o", str(tmp_path / "one.svg")])
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'one.svg'}\n"
    main([*some, "--layers", "0-63", "--page", "2", "-o", str(tmp_path / "second.svg")])
    assert (tmp_path / "second.svg").read_bytes() == (tmp_path / "p-2.svg").read_bytes()
    out = tmp_path / "none.svg"
    assert "There is no page 3: this picture has 2 pages." in fails(
        *some[1:], "--layers", "0-63", "--page", 3, "-o", out
    )
    assert "No router is in layers 80 to 90: they are in layers 0 to 69." in fails(
        *some[1:], "--layers", "80-90", "-o", out
    )
    assert "are no layers" in fails(*some[1:], "--layers", "a-b", "-o", out)
    assert "ends before it begins" in fails(*some[1:], "--layers", "9-3", "-o", out)
    assert not out.exists()


def test_an_option_of_another_command_names_every_page_and_replaces_none_of_others(
    many: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `analyze --plot` ends; pictures of other commands are written by the same function."""
    report = json.loads(many[0].read_text(encoding="utf-8"))
    pages = [tmp_path / "p-1.svg", tmp_path / "p-2.svg"]
    show(many[0], {"prefill": report}, False, tmp_path / "p.svg")
    assert capsys.readouterr().out.endswith(f"; {pages[0]}; {pages[1]}\n")
    assert all(page.is_file() for page in pages)
    pages[1].write_bytes(b"of somebody")
    with pytest.raises(StatsError, match=r"p-2\.svg exists and holds no plot"):
        show(many[0], {"prefill": report}, False, tmp_path / "p.svg")
    assert pages[1].read_bytes() == b"of somebody"


@pytest.mark.parametrize("kind", ["dead", "dynamics", "training", "entropy"])
def test_whole_numbers_have_whole_ticks_and_every_axis_two(kind: str, folder: Path, tmp_path: Path) -> None:
    figure = drawn(kind, read_inputs(given(kind, folder), plan=PLAN), tmp_path / "p.png")
    for axis in figure.axes:
        for of, (low, high) in ((axis.xaxis, sorted(axis.get_xlim())), (axis.yaxis, sorted(axis.get_ylim()))):
            inside = [tick for tick in of.get_ticklocs() if low - 1e-9 <= tick <= high + 1e-9]
            assert len(inside) >= 2, (axis.get_title(), axis.get_ylabel())
            if of.get_label_text() in ("layer", "step", "update", "experts without a token"):
                assert all(float(tick).is_integer() for tick in inside)


def test_the_gallery_shows_every_kind_and_is_small() -> None:
    docs = RESULTS.parent / "docs"
    every = {path.stem: path.stat().st_size for path in (docs / "gallery").glob("*.png")}
    screens = json.loads((docs / "gallery" / "first_screens.json").read_text(encoding="utf-8"))
    pictures = {name: size for name, size in every.items() if not name.startswith("first_")}
    assert set(every) == {*plots(), *(f"first_{name}" for name in screens)}
    assert sum(pictures.values()) < 1_000_000
    # Seven screens of 1440 x 900 pixels in their own size, so that the text on them can be read.
    assert all(size < 120_000 for name, size in every.items() if name not in pictures)
    spec = importlib.util.spec_from_file_location("make_gallery", RESULTS.parent / "scripts" / "make_gallery.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (docs / "gallery.md").read_text(encoding="utf-8")
    assert page == script.page(), "run python scripts/make_gallery.py --only-page"
    for name in plots():
        assert f"](gallery/{name}.png)" in page
