"""Routers over a training: saturation and change, entropies, margins by depth, co-activation and similarity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ...types import Facts
from ..figures import Chart, DynamicsSeries, course_chart, depth_chart, dynamics_series
from ..inputs import Inputs
from ..numbers import percent
from ._lines import draw_line
from .base import HEIGHT, WIDTH, Plot, colour_of, layer_ticks, lines, look, plain, tick, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (
    ("saturation", "saturation_top1"),
    ("change_rate", "change_rate_top1"),
    ("eae", "ewa"),
    ("margin_prob",),
    ("coactivation_stability", "coactivation_saturation"),
    ("output_weight_similarity",),
)
"""What shares a panel; of margins there is a line for each checkpoint, by layer."""


def draw(inputs: Inputs) -> Figure:
    """The report among the inputs, of which there is to be one."""
    if not inputs.dynamics:
        raise StatsError(
            "There is no course of a training to draw: give a report of dynamics CHECKPOINTS --output FILE."
        )
    if len(inputs.dynamics) > 1:
        raise StatsError(f"This picture is of one report, and here are {len(inputs.dynamics)}: draw each alone.")
    return draw_dynamics(dynamics_series(inputs.dynamics[0]))


def draw_dynamics(series: DynamicsSeries) -> Figure:
    """Two rows of three panels for each kind of router."""
    from matplotlib.figure import Figure

    kinds = list(series.overall)
    figure = Figure(figsize=(WIDTH, min(HEIGHT, 0.7 + 4.6 * len(kinds))), layout="constrained")
    axes = figure.subplots(2 * len(kinds), 3, squeeze=False)
    for number, kind in enumerate(kinds):
        panels = axes[2 * number : 2 * number + 2].flat
        for axis, names in zip(panels, PANELS, strict=True):
            if names == ("margin_prob",):
                chart = depth_chart(series, names[0], kind)
                _panel(axis, chart, [""] * len(chart.lines))
                layer_ticks(axis, chart.lines[0].points.x)
            else:
                chart = course_chart(series, names, kind)
                _panel(axis, chart, [line.name for line in chart.lines])
            of = f", {kind} routers" if len(kinds) > 1 else ""
            if names == ("margin_prob",):
                axis.set_title(f"Margin of the first choice{of}")
            elif of:
                axis.set_xlabel(f"{series.axis}{of}")
    figure.suptitle(
        lines(
            f"{plain(series.name)}, {series.sizes}, {len(series.names)} checkpoints",
            f"bands: {percent(series.level)} intervals over sequences; dotted: chance; margins: the first lightest",
        )
    )
    return figure


def plot_dynamics(report: Facts, path: Path) -> list[Path]:
    """The picture of one report, as ``dynamics --plot`` writes it; returns its files, one a page."""
    return write_picture(path, lambda: draw_dynamics(dynamics_series(report)))


def _panel(axis: Any, chart: Chart, names: list[str]) -> None:
    shades, styles = not any(names), chart.styles()
    for number, (line, name) in enumerate(zip(chart.lines, names, strict=True)):
        style = look(styles[0 if shades else number])
        if shades:
            style["color"] = str(0.8 * (1 - number / max(len(names) - 1, 1)))
        draw_line(axis, line, band=0.15, label=name or None, **style)
    for reference in chart.references:
        axis.plot(reference.x, reference.y, ls=":", color=colour_of(reference.line or 0), lw=1)
    axis.set_xlabel(chart.x)
    axis.set_ylabel(chart.y)
    if not shades:
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), handlelength=1.2, borderaxespad=0.1)
    tick(axis.xaxis, whole=chart.whole_x)
    tick(axis.yaxis)
    axis.grid(axis="y")


PLOT = Plot(
    "dynamics",
    "Saturation, change, entropies, margins and co-activation over the checkpoints of a training.",
    "a report of dynamics --output",
    draw,
)
