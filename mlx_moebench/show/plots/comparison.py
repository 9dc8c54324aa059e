"""Two runs: what differs, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ...types import Facts
from ..figures import CLEAR, Chart, DifferenceSeries, difference_series, effect_chart
from ..inputs import Inputs
from ..names import label_and_unit
from ..numbers import count, percent
from ..tables.comparison import DEFAULT
from ._lines import draw_points
from .base import HEIGHT, WIDTH, Plot, colour_of, headed, layer_ticks, paged, plain, tick, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOMAINS = "these are domains of one model; draw what `compare A B --allow data --output FILE` makes of two of them."
GIVE = "give two comparable stats pairs, or a file of compare --output."


def draw(inputs: Inputs) -> Figure:
    """The comparison among the inputs, of which there is to be one."""
    if not inputs.comparisons:
        domains = any(run.domains for run in inputs.runs)
        raise StatsError(f"There is no comparison to draw: {' '.join(inputs.notes) or (DOMAINS if domains else GIVE)}")
    if len(inputs.comparisons) > 1:
        raise StatsError(f"This picture is of one comparison, and here are {len(inputs.comparisons)}: draw each alone.")
    return draw_comparison(difference_series(inputs.comparisons[0]))[0]


def draw_comparison(series: DifferenceSeries, metrics: Sequence[str] = DEFAULT) -> list[Figure]:
    """A panel per metric and kind of router: B minus A of each layer with its interval, filled where q is small."""
    kinds = list(series.overall)
    columns = min(3, len(metrics)) if len(kinds) == 1 else len(kinds)
    on_a_page = int((HEIGHT - 0.9) / LINE) * (columns if len(kinds) == 1 else 1)
    return headed([_page(series, part, columns) for part in paged(metrics, on_a_page)], *_heading(series))


LINE = 1.9
"""Inches of a line of panels."""


def _page(series: DifferenceSeries, metrics: Sequence[str], columns: int) -> Figure:
    from matplotlib.figure import Figure

    kinds = list(series.overall)
    panels = [(metric, kind) for metric in metrics for kind in kinds]
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDTH, 0.9 + LINE * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axis, (metric, kind) in zip(grid.flat, panels, strict=False):
        chart = effect_chart(series, metric, kind)
        _panel(axis, chart)
        axis.set_title(label_and_unit(metric)[0] + (f", {kind} routers" if len(kinds) > 1 else ""))
        axis.set_ylabel(chart.y)
    for axis in grid.flat[len(panels) :]:
        axis.remove()
    for row in grid if len(kinds) > 1 else ():
        low, high = (pick(axis.get_ylim()[end] for axis in row) for end, pick in enumerate((min, max)))
        for axis in row:  # the same metric of two kinds of router: one scale
            axis.set_ylim(low, high)
    return figure


def plot_effects(comparison: Facts, path: Path, metrics: Sequence[str] = DEFAULT) -> list[Path]:
    """The picture of `Comparison.to_dict`, as ``compare --plot`` writes it; returns its files, one a page."""
    return write_picture(path, lambda: draw_comparison(difference_series(comparison), metrics))


def _panel(axis: Any, chart: Chart) -> None:
    axis.axhline(chart.references[0].y[0], color="0.35", ls="--", lw=0.9, zorder=0)
    draw_points(axis, chart.lines[0], colour_of(0))
    layer_ticks(axis, chart.lines[0].points.x)
    tick(axis.yaxis)
    axis.margins(y=0.12)
    axis.grid(axis="y")


def _heading(series: DifferenceSeries) -> list[str]:
    how = {True: "paired", False: "unpaired", None: "values only"}[series.paired]
    known = [e.effect for row in series.effects for e in row.values()]
    if any(effect.has_interval for effect in known):
        how += f", {percent(series.level)} intervals over sequences; filled: q < {CLEAR:g}; dashed: no difference"
    else:
        how += f", no intervals: {next((effect.reason for effect in known if effect.reason), 'not computed')}"
    sides = [
        f"{letter}: {plain(name, 70)}, n = {count(n, text)}"
        for letter, name, n, text in zip("AB", series.names, series.n_sequences, series.texts, strict=True)
    ]
    return [*sides, how]


PLOT = Plot(
    "comparison",
    "Two runs: B minus A of three metrics by layer, with intervals.",
    "two comparable stats pairs, or a file of compare --output",
    draw,
    options=("allow",),
)
