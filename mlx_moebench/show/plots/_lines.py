"""Charts: their lines with bands, their points with bars, and what they are held against."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures import CLEAR, Chart, Line, layer_chart
from ..inputs import View
from ..names import label_and_unit
from .base import MOST_NAMED, WIDTH, heading, intervals_of, layer_ticks, legend, look, tick

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_line(axis: Any, line: Line, *, color: Any, band: float = 0.2, **style: Any) -> None:
    """The values joined, each interval as part of a band of that opacity; ``style`` is matplotlib's."""
    x, ends = line.points.x, np.array([[v.low, v.high] for v in line.values])
    axis.plot(x, [v.value for v in line.values], color=color, **style)
    # Where a point is alone, or has an interval and its neighbours none, a band would not be seen: then bars.
    if len(x) > 1 and np.isfinite(ends).all():
        axis.fill_between(x, ends[:, 0], ends[:, 1], color=color, alpha=band, lw=0)
    else:
        axis.vlines(x, ends[:, 0], ends[:, 1], color=color, lw=1)


def draw_points(axis: Any, line: Line, colour: Any) -> None:
    """Each value with its interval as a bar, filled where its q is small."""
    for x, value in zip(line.points.x, line.values, strict=True):
        if value.has_interval:
            axis.vlines(x, value.low, value.high, color=colour)
        if math.isfinite(value.value):
            axis.plot(x, value.value, "o", color=colour, mfc=colour if value.q < CLEAR else "white")


def draw_by_layer(views: Sequence[View], metrics: Sequence[str], label: str) -> Figure:
    """A panel per metric and kind of router with one y axis for all, a line per view. label: of the y axis."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(r["router"] for view in views for r in view.report["routers"]))
    named = 0.16 * math.ceil(min(len(views), MOST_NAMED + 1) / 3) if len(views) > 1 else 0.0
    figure = Figure(figsize=(WIDTH, 0.7 + 1.9 * len(kinds) + named), layout="constrained")
    axes = figure.subplots(len(kinds), len(metrics), squeeze=False, sharex="row", sharey=True)
    for row, kind in zip(axes, kinds, strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            even = _panel(axis, layer_chart(views, metric, kind))
            tau = _tau(axis, metric, views)
            below = "; ".join(filter(None, [f"dashed: {', '.join(even)}" if even else "", tau]))
            title_with(axis, label_and_unit(metric)[0], below)
        row[0].set_ylabel(f"{kind} routers\n{label}" if len(kinds) > 1 else label)
    axes[0, 0].set_ylim(0, 1.04 * axes[0, 0].get_ylim()[1])
    legend(figure, axes.flat, views)
    figure.suptitle(heading(views, intervals_of(views, metrics, "bands")))
    return figure


def title_with(axis: Any, title: str, below: str) -> None:
    """A panel's title, and under it in grey what its reference lines are."""
    wrapped = textwrap.fill(title, 32)
    axis.set_title(f"{wrapped}\n" if below else wrapped)
    axis.annotate(
        below, (0.5, 1), xycoords="axes fraction", xytext=(0, 3), textcoords="offset points",
        ha="center", fontsize=6.5, color="0.3",
    )  # fmt: skip


def _tau(axis: Any, metric: str, views: Sequence[View]) -> str:
    """Draw the threshold of the flag where it is on this metric and near the data; returns what it is."""
    settings = [view.report["settings"] for view in views]
    near = {s["tau"] for s in settings if s["collapse_on"] == metric and s["tau"] < 1.3 * axis.get_ylim()[1]}
    for tau in near:
        axis.axhline(tau, color="0.35", ls=":", lw=1, zorder=1)
    return f"dotted: tau = {', '.join(f'{tau:g}' for tau in sorted(near))}" if near else ""


def _panel(axis: Any, chart: Chart) -> list[str]:
    """Draw the lines of a chart and those of even routing; returns what those are."""
    drawn = [(number, line) for number, line in enumerate(chart.lines) if line.points.x]
    styles = chart.styles()
    for number, line in drawn:
        draw_line(axis, line, label=number, **look(styles[number], marked=len(line.points.x) <= 32))
    if not any(math.isfinite(value.value) for _, line in drawn for value in line.values):
        axis.annotate("not recorded", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.3")
    layer_ticks(axis, {x for _, line in drawn for x in line.points.x})
    tick(axis.yaxis, whole=chart.whole)
    axis.grid(axis="y")
    return _draw_references(axis, chart)


def _draw_references(axis: Any, chart: Chart) -> list[str]:
    references = {f"{one.name} = {y:.3g}": y for one in chart.references for y in one.y if math.isfinite(y)}
    for value in references.values():
        axis.axhline(value, color="0.35", ls="--", lw=0.9, zorder=1)
    return list(references)
