"""Loss of the next token by routing uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ...types import Facts
from ..colours import sequential_map
from ..figures import UncertaintySeries, loss_chart, uncertainty_series
from ..inputs import Inputs
from ..names import SCORES
from ..numbers import count, percent
from ._lines import draw_line
from .base import HEIGHT, WIDTH, Plot, headed, paged, plain, tick, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs) -> Figure:
    """The first of `pages`."""
    return pages(inputs)[0]


def pages(inputs: Inputs) -> list[Figure]:
    """A row of panels per report."""
    if not inputs.uncertainties:
        raise StatsError("There is nothing to draw loss by uncertainty from: give a report of loss --output.")
    return draw_uncertainty([uncertainty_series(report) for report in inputs.uncertainties])


def draw_uncertainty(every: Sequence[UncertaintySeries]) -> list[Figure]:
    """Mean loss against tenths of each score, a line per router; one loss axis, and one axis per score."""
    drawn = [_page(part) for part in paged(every, int((HEIGHT - 0.8) / 2.4))]
    return headed(drawn, f"{_intervals(every)}; dotted: mean loss")


def _page(every: Sequence[UncertaintySeries]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.8 + 2.4 * len(every)), layout="constrained")
    axes = figure.subplots(len(every), len(SCORES), squeeze=False, sharex="col", sharey=True)
    for row, one in zip(axes, every, strict=True):
        for axis, score in zip(row, SCORES, strict=True):
            chart = loss_chart(one, score)
            for colour, line in zip(_colours(len(chart.lines)), chart.lines, strict=True):
                if line.points.x:
                    draw_line(axis, line, color=colour, band=0.12, marker=".")
            axis.axhline(one.mean_loss.value, color="0.35", ls=":", lw=1)
            axis.set_xlabel(chart.x)
            tick(axis.xaxis)
            tick(axis.yaxis)
            axis.grid()
        row[0].set_ylabel(chart.y)
        row[0].set_title(f"{plain(one.name, 60)}: {count(one.n_tokens, 'token')}", loc="left")
    _legend(figure, [line.name for line in chart.lines])
    return figure


def _intervals(every: Sequence[UncertaintySeries]) -> str:
    losses = [loss for one in every for curves in one.curves.values() for curve in curves for loss in curve.loss]
    if any(loss.has_interval for loss in losses):
        return f"bands: {percent(every[0].level)} intervals over sequences"
    return f"no intervals: {next((loss.reason for loss in losses if loss.reason), 'not computed')}"


def plot_uncertainty(report: Facts, path: Path) -> list[Path]:
    """The picture of one report, as ``loss --plot`` writes it; returns its files, one a page."""
    return write_picture(path, lambda: draw_uncertainty([uncertainty_series(report)]))


def _colours(lines: int) -> list[Any]:
    """Dark to light with depth."""
    return list(sequential_map().resampled(lines + 1)(range(lines)))


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """Every router where there are few, else the first, middle and last."""
    from matplotlib.lines import Line2D

    shown = range(len(names)) if len(names) <= 16 else (0, len(names) // 2, len(names) - 1)
    colours = _colours(len(names))
    handles = [Line2D([], [], color=colours[n], marker=".") for n in shown]
    figure.legend(handles, [names[n] for n in shown], loc="outside lower center", ncols=6)


PLOT = Plot(
    "uncertainty",
    "Loss of the next token by tenths of routing entropy and selection margin.",
    "reports of loss --output",
    draw,
    pages=pages,
)
