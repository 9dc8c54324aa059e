"""The routing testbed: specialisation against utilisation, and each method between the bounds, at every size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ...types import Facts
from ..figures.testbed import plane_chart, ranked, size_name
from ..inputs import Inputs
from ..numbers import percent
from .base import WIDTH, Plot, lines, marker_of, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 3.4
"""Inches of a size."""

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
    figure = Figure(figsize=(WIDTH, 0.7 + HEIGHT * 0.75 * len(sizes)), layout="constrained")
    grid = figure.subplots(len(sizes), 3, squeeze=False, width_ratios=(1.2, 1, 1))
    for row, size in zip(grid, sizes, strict=True):
        _plane(row[0], report, size)
        for axis, (quantity, label) in zip(row[1:], PANELS, strict=True):
            _ladder(axis, size, quantity, label)
        row[2].set_yticklabels([])
    figure.suptitle(
        lines(
            f"Routing testbed, {len(report['domains'])} domains: {', '.join(map(plain, report['domains']))}",
            f"bars: {percent(report['level'])} t intervals over seeds, none from one seed",
        )
    )
    return figure


def _plane(axis: Any, report: Facts, size: Facts) -> None:
    chart = plane_chart(report, size)
    for number, line in enumerate(chart.lines):
        value, x = line.values[0], line.points.x[0]
        errors = [[value.value - value.low], [value.high - value.value]] if value.has_interval else None
        colour = f"C{number}" if number < 8 else "0.4"
        axis.errorbar([x], [value.value], errors, fmt=marker_of(number), color=colour, capsize=2, label=line.name)
    axis.set_xlabel(chart.x)
    axis.set_ylabel(chart.y)
    axis.set_title(plain(size_name(size), 90), fontsize=6.5, loc="left")
    axis.grid()


def _ladder(axis: Any, size: Facts, quantity: str, label: str) -> None:
    methods = ranked(size)
    for place, method in enumerate(methods):
        entry = method["values"][quantity]
        number = place
        errors = None
        if entry["low"] is not None:
            errors = [[entry["value"] - entry["low"]], [entry["high"] - entry["value"]]]
        colour = f"C{number}" if number < 8 else "0.4"
        axis.errorbar([entry["value"]], [-place], xerr=errors, fmt=marker_of(number), color=colour, capsize=2)
    axis.set_yticks([-place for place in range(len(methods))], [plain(one["name"]) for one in methods])
    axis.set_xlabel(label)
    axis.grid(axis="x")


PLOT = Plot(
    "testbed",
    "Ways to balance a router between a reference router and a random one, at every size.",
    "a testbed.json of lab testbed, or its folder",
    draw,
)
