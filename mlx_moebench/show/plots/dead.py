"""Experts without a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..figures import Chart, dead_chart
from ..inputs import Inputs, View
from ._lines import title_with
from .base import WIDTH, Plot, Span, heading, layer_ticks, legend, look, tick, views

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs, span: Span | None = None) -> Figure:
    """Number of experts that no token chose by layer, a panel per kind of router, against that of even routing."""
    from matplotlib.figure import Figure

    every = views(inputs, "dead experts", span)
    kinds = list(dict.fromkeys(r["router"] for view in every for r in view.report["routers"]))
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        _panel(axis, dead_chart(every, kind), every)
        title_with(axis, _title(every, kind, len(kinds) > 1), "dashed: expected under even routing")
    axes[0].set_ylim(0, max(1.0, axes[0].get_ylim()[1]))
    axes[0].set_ylabel("experts without a token")
    legend(figure, axes, every)
    figure.suptitle(heading(every, "no intervals: an expert without a token in a sample says little of one with few"))
    return figure


def _title(every: Sequence[View], kind: str, several: bool) -> str:
    experts = sorted({r["n_experts"] for view in every for r in view.report["routers"] if r["router"] == kind})
    return f"of {' or '.join(map(str, experts))} experts" + (f", {kind} routers" if several else "")


def _panel(axis: Any, chart: Chart, every: Sequence[View]) -> None:
    """Stems, with runs side by side in each layer, and steps of what even routing would leave unused."""
    styles = chart.styles()
    for number, (line, reference) in enumerate(zip(chart.lines, chart.references, strict=True)):
        shift = 0.5 * ((number + 0.5) / len(every) - 0.5)
        x, dead = [at + shift for at in line.points.x], [value.value for value in line.values]
        style = look(styles[number])
        colour, marker = style["color"], style["marker"]
        axis.vlines(x, 0, dead, color=colour)
        axis.plot(x, dead, marker, color=colour, label=number)
        axis.step(reference.x, reference.y, color=colour, ls="--", lw=0.8, where="mid")
    layer_ticks(axis, {x for line in chart.lines for x in line.points.x})
    axis.grid(axis="y")
    tick(axis.yaxis, whole=True)
    if not any(value.value for line in chart.lines for value in line.values):
        axis.annotate("none in any layer", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.3")


PLOT = Plot(
    "dead", "Experts that no token chose, by layer, against even routing.", "stats pairs or profiles", draw, ("span",)
)
