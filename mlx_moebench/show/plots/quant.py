"""Sets of experts kept when weights are quantised: by layer, and by the margin with which they had been chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ...types import Facts
from ..figures import Chart, QuantSeries, kept_chart, kinds_of, margin_chart, quant_series
from ..inputs import Inputs
from ..numbers import percent
from ._lines import draw_line
from .base import WIDTH, Plot, layer_ticks, lines, look, plain, tick, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs) -> Figure:
    """The report among the inputs, of which there is to be one."""
    if not inputs.quants:
        raise StatsError("There is no quantised arm to draw: give a report of compare MODEL --quant ARM --output FILE.")
    if len(inputs.quants) > 1:
        raise StatsError(f"This picture is of one report, and here are {len(inputs.quants)}: draw each alone.")
    return draw_quant(quant_series(inputs.quants[0]))


def draw_quant(series: QuantSeries) -> Figure:
    """A row per kind of router: sets kept by layer, and by tenths of the margin on a logarithmic axis."""
    from matplotlib.figure import Figure

    kinds = kinds_of(series.routers)
    figure = Figure(figsize=(WIDTH, 1.1 + 2.3 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), 2, squeeze=False, sharey="col")
    for row, kind in zip(axes, kinds, strict=True):
        by_layer, by_margin = kept_chart(series, kind), margin_chart(series, kind)
        _draw(row[0], by_layer)
        layer_ticks(row[0], by_layer.lines[0].points.x)
        _draw(row[1], by_margin)
        _logarithmic(row[1], [x for line in by_margin.lines for x in line.points.x])
        row[1].set_xlabel("selection margin as stored,\nmean of each tenth of the tokens")
        of = f", {kind} routers" if len(kinds) > 1 else ""
        row[0].set_title(f"by layer{of}")
        row[1].set_title(f"by selection margin, all layers{of}")
        row[0].set_ylabel("sets of experts kept, share of tokens")
    for axis in axes[0]:  # those below share it
        axis.set_ylim(top=1 + 0.03 * (1 - axis.get_ylim()[0]))
    handles = axes[0, 0].get_legend_handles_labels()[0]
    names = [f"{arm.name}: {arm.words}" for arm in series.arms]
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    figure.suptitle(lines(f"{plain(series.name)}, {series.sizes}", _intervals(series)))
    return figure


def plot_quant(report: Facts, path: Path) -> list[Path]:
    """The picture of one report, as ``compare --quant --plot`` writes it; returns its files, one a page."""
    return write_picture(path, lambda: draw_quant(quant_series(report)))


def _draw(axis: Any, chart: Chart) -> None:
    for line, style in zip(chart.lines, chart.styles(), strict=True):
        if line.points.x:
            draw_line(axis, line, label=line.name, **look(style))
    if not any(line.points.x for line in chart.lines):
        axis.annotate("no margin", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.3")
    tick(axis.yaxis)
    axis.grid(axis="y")


def _logarithmic(axis: Any, margins: Sequence[float]) -> None:
    """Margins differ by powers of ten; the numbers stand as they are, for a picture has no formulas."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not margins or min(margins) <= 0:
        return
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _intervals(series: QuantSeries) -> str:
    values = [value for arm in series.arms for value in arm.own["exact_set_rate"]]
    if any(value.has_interval for value in values):
        return f"tokens that keep all their experts; bands, bars: {percent(series.level)} intervals over sequences"
    return f"no intervals: {next((value.reason for value in values if value.reason), 'not computed')}"


PLOT = Plot(
    "quant",
    "Sets of experts kept when weights or routers are quantised, by layer and by selection margin.",
    "a report of compare --quant --output",
    draw,
)
