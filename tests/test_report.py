"""Tables and pictures: what they say, and that odd reports do not break them."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from routing_reference import make_stats, validate

from mlx_moebench import RoutingStats
from mlx_moebench.errors import StatsError
from mlx_moebench.pair.report import interval_rows
from mlx_moebench.routing import RouterSpec, Routing, tally
from mlx_moebench.show.export.summary import to_markdown
from mlx_moebench.show.export.tidy import to_csv
from mlx_moebench.show.figures import load_heat, load_series
from mlx_moebench.show.inputs import Inputs, Run, View
from mlx_moebench.show.names import flag_of
from mlx_moebench.show.plots import check_plot
from mlx_moebench.show.plots.load import plot_load
from mlx_moebench.show.tables.routers import render


def report(
    experts: tuple[int, ...] = (4, 4), kinds: tuple[str, ...] = ("mlp",), sequences: int = 12, tau: float = 0.4
) -> dict[str, Any]:
    """A report of random routing: one layer for each entry of ``experts``, each with every kind of router."""
    rng = np.random.default_rng(0)
    specs = [RouterSpec(i, i, kind, e, 2) for i, e in enumerate(experts) for kind in kinds]
    model = {"id": "a $strange$ [bold]<model>&co", "model_type": "x"}
    stats = RoutingStats(specs, model=model, sources={"s": {"name": "t<e>xt"}}, tau=tau)
    for number, spec in enumerate(specs):
        logits = rng.normal(size=(sequences, 20, spec.n_experts)).astype(np.float32)
        indices = np.argsort(-logits, axis=-1)[..., :2]
        weights = np.ones(indices.shape, np.float32)
        routing = Routing(logits, indices, weights, np.ones(logits.shape[:2], bool))
        stats.add(number, [("s", row) for row in range(sequences)], tally(routing))
    return stats.report()


def text(found: dict[str, Any]) -> str:
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(render(found))
    return captured.get()


def test_table_has_every_layer_with_intervals() -> None:
    found = report()
    shown = text(found)
    for router in found["routers"]:
        ci = router["ci"]["mean_entropy"]
        assert f"{router['mean_entropy']:.3f} [{ci['low']:.3f}, {ci['high']:.3f}]" in shown
    assert "a $strange$ [bold]<model>&co on t<e>xt: 12 sequences, 240 tokens, prefill" in shown
    assert "95% intervals over sequences, 2,000 draws" in shown


def test_table_says_why_there_is_no_interval_or_flag() -> None:
    shown = text(report(sequences=3))
    assert "No intervals: 3 sequences are too few" in shown
    assert "not defined: even routing already gives 0.5 >= tau = 0.4." in shown


def around_tau() -> dict[str, Any]:
    """A report of three routers of 16 experts whose tau lies in the interval of the first, and in no other."""
    made = report((16, 16, 16))
    for router, low, high in zip(made["routers"], (0.38, 0.41, 0.2), (0.44, 0.5, 0.399), strict=True):
        share = (low + high) / 2
        router |= {"top_share_token": share, "collapsed": share > 0.4}
        router["ci"]["top_share_token"] |= {"low": low, "high": high}
    return made


def test_a_flag_is_open_where_the_interval_of_the_share_holds_tau() -> None:
    made = around_tau()
    assert [r["collapsed"] for r in made["routers"]] == [True, True, False]
    assert [flag_of(r, made["settings"]) for r in made["routers"]] == ["open", "yes", "no"]
    rows = [line.split() for line in text(made).splitlines()]
    assert [row[-1] for row in rows if row and row[0] in ("0", "1", "2")] == ["open", "above", "-"]
    assert "open: the interval of that share holds tau" in text(made)
    heat = load_heat(load_series(View("m", made), bands=False), 2.0)
    assert [beside[-2:] for beside in heat.beside] == [" ?", " *", "0]"]
    assert heat.beside_head == "busiest, of tokens; * > 0.4; ? may be below 0.4"
    run = Inputs((Run("m", made, None, {}),))
    assert "in 1 of 3 layers (0) other texts may say otherwise (open)" in to_markdown(run)
    cells = [line.split(" | ") for line in to_markdown(run).splitlines()]
    assert [row[-1] for row in cells if row[0] in ("| 0", "| 1", "| 2")] == ["open |", "yes |", "no |"]
    flags = [row["reason"] for row in csv.DictReader(io.StringIO(to_csv(run))) if row["metric"] == "collapsed"]
    assert ["; open: " in reason for reason in flags] == [True, False, False]


def test_the_report_says_that_a_flag_is_open() -> None:
    """By the interval that it has itself: tau at its high end is outside."""
    of = make_stats(range(12)).report()["routers"][0]["ci"]["top_share_token"]
    for tau, is_open in (((of["low"] + of["high"]) / 2, True), (of["high"] - 1e-6, True), (of["high"], False)):
        made = make_stats(range(12), tau=tau).report()
        assert made["routers"][0].get("collapsed_open", False) is is_open
        validate(made)
    few = [report((16,), tau=tau, sequences=3) for tau in (0.2, 0.9)]
    assert [(made["routers"][0]["collapsed"], made["routers"][0].get("collapsed_open")) for made in few] == [
        (True, True),
        (False, None),
    ]
    flag = interval_rows(few[0])[-1]
    assert (flag["metric"], flag["reason"]) == (
        "collapsed",
        "3 sequences are too few for an interval: 10 or more are needed",
    )


def test_two_kinds_of_router_are_never_pooled() -> None:
    found = report(kinds=("attention", "mlp"))
    assert set(found["summary_by_router"]) == {"attention", "mlp"}
    shown = text(found)
    assert "Summary of attention routers" in shown
    assert "Summary of mlp routers" in shown


@pytest.mark.parametrize("experts", [(4, 9), *(pytest.param(e, marks=pytest.mark.slow) for e in ((4, 4), (3,)))])
@pytest.mark.parametrize("kinds", [("mlp",), ("attention", "mlp")])
def test_heatmap_is_drawn(tmp_path: Path, experts: tuple[int, ...], kinds: tuple[str, ...]) -> None:
    found = report(experts, kinds)
    plot_load(found, tmp_path / "load.png")
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")
    plot_load(found, tmp_path / "load.svg")
    first = (tmp_path / "load.svg").read_bytes()
    ET.fromstring(first)
    plot_load(found, tmp_path / "load.svg")
    assert (tmp_path / "load.svg").read_bytes() == first, "the same report draws the same file"


def test_plot_path_is_checked_before_measuring(tmp_path: Path) -> None:
    check_plot(tmp_path / "new" / "load.PNG")
    with pytest.raises(StatsError, match=r"\.png, \.svg or \.pdf"):
        check_plot(tmp_path / "load.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(StatsError, match="Cannot write"):
        check_plot(tmp_path / "file" / "load.png")
