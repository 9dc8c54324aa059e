"""The routing testbed: specialisation against utilisation, and each method between the bounds, at every size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ...types import Facts, Json
from ..figures.base import Value, value_of
from ..figures.drawing import DASHES, HUES, Style
from ..figures.testbed import plane_chart, ranked, size_name
from ..inputs import Inputs
from ..numbers import percent
from .base import HEIGHT, WIDTH, Plot, lines, look, plain, tick

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (("specialisation", "MI / ln D"), ("loss", "loss, nats per token"))


def draw(inputs: Inputs) -> Figure:
    """The result among the inputs, of which there is to be one."""
    if not inputs.testbeds:
        raise StatsError("There is no routing testbed to draw: give a testbed.json, or the folder of lab testbed.")
    if len(inputs.testbeds) > 1:
        raise StatsError(f"This picture is of one testbed, and here are {len(inputs.testbeds)}: draw each alone.")
    return draw_testbed(inputs.testbeds[0])


def draw_testbed(report: Facts) -> Figure:
    """A row for each size: the plane, and the ladder by specialisation and by loss."""
    from matplotlib.figure import Figure

    sizes = report["sizes"][:3]
    figure = Figure(figsize=(WIDTH, min(HEIGHT, 0.7 + 2.6 * len(sizes))), layout="constrained")
    grid = figure.subplots(len(sizes), 3, squeeze=False, width_ratios=(1.2, 1, 1))
    for row, size in zip(grid, sizes, strict=True):
        _plane(row[0], report, size)
        for axis, (quantity, label) in zip(row[1:], PANELS, strict=True):
            _ladder(axis, report, size, quantity, label)
        row[2].set_yticklabels([])
    figure.suptitle(
        lines(
            f"Routing testbed, {len(report['domains'])} domains: {', '.join(map(plain, report['domains']))}",
            f"bars: {percent(report['level'])} t intervals over seeds, none from one seed",
        )
    )
    return figure


def looks(report: Facts) -> dict[str, Json]:
    """How each method looks, the same at every size."""
    names = list(dict.fromkeys(one["name"] for size in report["sizes"] for one in size["methods"]))
    places = (divmod(number, HUES) for number in range(len(names)))
    styles = (Style(hue, turn % DASHES, (hue + turn) % HUES) for turn, hue in places)
    return {name: look(style) for name, style in zip(names, styles, strict=True)}


def _plane(axis: Any, report: Facts, size: Facts) -> None:
    chart, every = plane_chart(report, size), looks(report)
    for line, method in zip(chart.lines, ranked(size), strict=True):
        value = line.values[0]
        _mark(axis, every[method["name"]], x=line.points.x[0], y=value.value, yerr=_ends(value.value, value))
    axis.set_xlabel(chart.x)
    axis.set_ylabel(chart.y)
    axis.set_title(plain(size_name(size), 90), fontsize=6.5, loc="left")
    axis.set_ylim(-0.04, 1.04)
    tick(axis.xaxis)
    axis.grid()


def _ladder(axis: Any, report: Facts, size: Facts, quantity: str, label: str) -> None:
    methods, every = ranked(size), looks(report)
    for place, method in enumerate(methods):
        entry = method["values"][quantity]
        value = value_of(entry["value"], entry)
        _mark(axis, every[method["name"]], x=value.value, y=-place, xerr=_ends(value.value, value))
    axis.set_yticks([-place for place in range(len(methods))], [plain(one["name"]) for one in methods])
    axis.set_xlabel(label)
    if quantity == "specialisation":
        axis.set_xlim(-0.04, 1.04)
    tick(axis.xaxis)
    axis.grid(axis="x")


def _ends(middle: float, value: Value) -> list[list[float]] | None:
    return [[middle - value.low], [value.high - middle]] if value.has_interval else None


def _mark(axis: Any, style: Json, **place: Any) -> None:
    axis.errorbar(fmt=style["marker"], color=style["color"], capsize=2, **place)


PLOT = Plot(
    "testbed",
    "Ways to balance a router between a reference router and a random one, at every size.",
    "a testbed.json of lab testbed, or its folder",
    draw,
)
