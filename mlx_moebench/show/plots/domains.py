"""What the domain of a text tells of its experts, and the verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import StatsError
from ..figures import DomainSeries, domain_series, information_chart, kinds_of, share_chart, spread_chart
from ..inputs import Inputs
from ..numbers import percent
from ._lines import draw_line, title_with
from .base import COLOURS, WIDTH, Plot, layer_ticks, lines, marker_of, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERDICTS = {"collapsed": "#000000", "specialised": "#CC79A7", "balanced": "#009E73", "undetermined": "0.8"}


def profiles(inputs: Inputs, kind: str) -> list[DomainSeries]:
    """Every profile among the inputs; raises `StatsError` for none."""
    if not inputs.profiles:
        raise StatsError(
            f"There is nothing to draw {kind} from: give stats pairs of one model on two or more domains, "
            "or the folder of a profile."
        )
    return [domain_series(name, profile) for name, profile in inputs.profiles.items()]


def over(series: DomainSeries) -> str:
    """``moebench-nano over code, general, math``."""
    return f"{plain(series.name, 40)} over {plain(', '.join(series.domains), 60)}"


def draw(inputs: Inputs) -> Figure:
    """A row of panels per profile and kind of router: information, shares that decide the verdict, spread."""
    from matplotlib.figure import Figure

    every = profiles(inputs, "domains")
    rows = [(one, kind) for one in every for kind in kinds_of(one.ids)]
    figure = Figure(figsize=(WIDTH, 0.9 + 2.0 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, sharey="col")
    for row, (one, kind) in zip(axes, rows, strict=True):
        _information(row[0], one, kind)
        _shares(row[1], one, kind)
        _spread(row[2], one, kind)
        for axis in row:
            layer_ticks(axis, [r.layer for r in one.ids if r.router == kind])
            axis.grid(axis="y")
        if len(rows) > 1:
            row[0].set_ylabel(f"{plain(one.name, 28)}\n{kind} routers\nnats")
    for axis in axes[0, :2]:  # a limit that is set before all rows are drawn would cut the next ones
        axis.set_ylim(bottom=0)
    _legend(figure, axes[0, 1])
    figure.suptitle(lines(*(over(one) for one in every), _intervals(every[0])))
    return figure


def _intervals(series: DomainSeries) -> str:
    known = [value for r in series.routers for value in (r.a, r.b, r.r, r.mi)]
    if any(value.has_interval for value in known):
        return f"bands: {percent(series.level)} intervals over sequences"
    return f"no intervals: {next((value.reason for value in known if value.reason), 'not computed')}"


def _information(axis: Any, series: DomainSeries, kind: str) -> None:
    chart = information_chart(series, kind)
    (line,), (null,) = chart.lines, chart.references
    draw_line(axis, line, COLOURS[0], marker=marker_of(0))
    below = f"at most ln {len(series.domains)} = {series.highest:.2f}"
    if np.isfinite(null.y).all():
        axis.fill_between(null.x, 0, null.y, color="0.75", lw=0, zorder=0.5)  # under the bands
        below += "; grey: 95% of permutations"
    title_with(axis, "information about the expert", below)
    axis.set_ylabel(chart.y)


def _shares(axis: Any, series: DomainSeries, kind: str) -> None:
    chart = share_chart(series, kind)
    for number, line in reversed(list(enumerate(chart.lines))):
        draw_line(axis, line, COLOURS[number], marker=marker_of(number), label=line.name)
    (tau,) = chart.references
    axis.axhline(tau.y[0], color="0.35", ls=":", lw=1)
    for r in series.routers:
        if r.router.router == kind:
            colour = VERDICTS.get(r.word or "", "white")
            axis.plot(r.router.layer, 0.03, "s", color=colour, ms=4, transform=axis.get_xaxis_transform())
    title_with(axis, "deciding shares", f"dotted: {tau.name}; squares: verdict")
    axis.set_ylabel(chart.y)


def _spread(axis: Any, series: DomainSeries, kind: str) -> None:
    chart = spread_chart(series, kind)
    draw_line(axis, chart.lines[0], COLOURS[0], marker=marker_of(0))
    (half,) = chart.references
    axis.axhline(half.y[0], color="0.35", ls=":", lw=1)
    title_with(axis, "experts in use, r", f"dotted: {half.name}")
    axis.set_ylabel(chart.y)
    axis.set_ylim(0, 1.02)


def _legend(figure: Figure, axis: Any) -> None:
    from matplotlib.lines import Line2D

    lines, words = axis.get_legend_handles_labels()
    squares = [Line2D([], [], ls="", marker="s", color=colour) for colour in VERDICTS.values()]
    figure.legend([*lines, *squares], [*words, *VERDICTS], loc="outside lower center", ncols=3)


PLOT = Plot(
    "domains",
    "What the domain tells about the expert, and the shares that decide the verdicts.",
    "a profile, or stats pairs of one model on two or more domains",
    draw,
)
