"""Loss of the next token by routing uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ..figures import SCORES, Curve, UncertaintySeries, uncertainty_series
from ..inputs import Inputs
from ..numbers import count, percent
from .base import WIDTH, Plot, lines, plain, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs) -> Figure:
    """A row of panels per report."""
    if not inputs.uncertainties:
        raise StatsError("There is nothing to draw loss by uncertainty from: give a report of uncertainty --output.")
    return draw_uncertainty([uncertainty_series(report) for report in inputs.uncertainties])


def draw_uncertainty(found: Sequence[UncertaintySeries]) -> Figure:
    """Mean loss against tenths of each score, a line per router; one loss axis, and one axis per score."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.8 + 2.4 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(SCORES), squeeze=False, sharex="col", sharey=True)
    for row, one in zip(axes, found, strict=True):
        for axis, (score, words) in zip(row, SCORES.items(), strict=True):
            _curves(axis, one.curves[score])
            axis.axhline(one.mean_loss.value, color="0.35", ls=":", lw=1)
            axis.set_xlabel(f"{words}, {one.score_units[score]} (mean of each tenth)")
            axis.grid()
        row[0].set_ylabel("loss of the next token, nats")
        row[0].set_title(f"{plain(one.name, 60)}: {count(one.n_tokens, 'token')}", loc="left")
    _legend(figure, axes[0, 0], list(found[0].curves["entropy"]))
    figure.suptitle(lines(f"{_intervals(found)}; dotted: mean loss"))
    return figure


def _intervals(found: Sequence[UncertaintySeries]) -> str:
    losses = [loss for one in found for curves in one.curves.values() for curve in curves for loss in curve.loss]
    if any(loss.has_interval for loss in losses):
        return f"bands: {percent(found[0].level)} intervals over sequences"
    return f"no intervals: {next((loss.reason for loss in losses if loss.reason), 'not computed')}"


def plot_uncertainty(report: Mapping[str, Any], path: Path) -> None:
    """The picture of one report, as ``uncertainty --plot`` writes it."""
    write_picture(path, lambda: draw_uncertainty([uncertainty_series(report)]))


def _curves(axis: Any, curves: Sequence[Curve]) -> None:
    colours = _colours(len(curves))
    for colour, curve in zip(colours, curves, strict=True):
        axis.plot(curve.scores, [loss.value for loss in curve.loss], ".-", color=colour)
        if curve.loss and all(loss.has_interval for loss in curve.loss):
            low, high = [loss.low for loss in curve.loss], [loss.high for loss in curve.loss]
            axis.fill_between(curve.scores, low, high, color=colour, alpha=0.12, lw=0)


def _colours(lines: int) -> list[Any]:
    """Dark to light with depth."""
    import matplotlib as mpl

    return list(mpl.colormaps["viridis"].resampled(lines + 1)(range(lines)))


def _legend(figure: Figure, axis: Any, curves: Sequence[Curve]) -> None:
    """Every router where there are few, else the first, middle and last."""
    from matplotlib.lines import Line2D

    several = len({curve.router.router for curve in curves}) > 1
    shown = range(len(curves)) if len(curves) <= 16 else (0, len(curves) // 2, len(curves) - 1)
    colours = _colours(len(curves))
    names = [f"layer {curves[n].router.layer}" + (f" {curves[n].router.router}" if several else "") for n in shown]
    handles = [Line2D([], [], color=colours[n], marker=".") for n in shown]
    figure.legend(handles, names, loc="outside lower center", ncols=6)


PLOT = Plot(
    "uncertainty",
    "Loss of the next token by tenths of routing entropy and selection margin.",
    "reports of uncertainty --output",
    draw,
)
