"""What the domain of a text tells about its experts, and the findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ..colours import FINDINGS
from ..figures import DomainSeries, domain_series, information_chart, kinds_of, share_chart, spread_chart
from ..inputs import Inputs
from ..names import QUANTITIES
from ..numbers import percent
from ._lines import draw_line, title_with
from .base import HEIGHT, WIDTH, Plot, Span, headed, layer_ticks, look, paged, plain, tick, within

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def profiles(inputs: Inputs, kind: str, span: Span | None = None) -> list[DomainSeries]:
    """Every profile among the inputs, its routers in some layers; raises `StatsError` for none."""
    if not inputs.profiles:
        raise StatsError(
            f"There is nothing to draw {kind} from: give stats pairs of one model on two or more domains, "
            "or the folder of a profile."
        )
    return [domain_series(name, within(profile, span)) for name, profile in inputs.profiles.items()]


def over(series: DomainSeries) -> str:
    """``moebench-nano over code, general, math``."""
    return f"{plain(series.name, 40)} over {plain(', '.join(series.domains), 60)}"


def pages(inputs: Inputs, span: Span | None = None) -> list[Figure]:
    """A row of panels per profile and kind of router: information, the expert that leads, spread."""
    every = profiles(inputs, "domains", span)
    rows = [(one, kind) for one in every for kind in kinds_of(one.ids)]
    drawn = [_page(part, len(rows) > 1) for part in paged(rows, int((HEIGHT - 1.3) / 2.0))]
    return headed(drawn, *(over(one) for one in every[:MOST_OVER]), _intervals(every[0]))


MOST_OVER = 4
"""Profiles that the heading names; a row has the name of its own."""


def draw(inputs: Inputs, span: Span | None = None) -> Figure:
    """The first of `pages`."""
    return pages(inputs, span)[0]


def _page(rows: Sequence[tuple[DomainSeries, str]], named: bool) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.9 + 2.0 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, sharey="col")
    for row, (one, kind) in zip(axes, rows, strict=True):
        _information(row[0], one, kind)
        _shares(row[1], one, kind)
        _spread(row[2], one, kind)
        for axis in row:
            layer_ticks(axis, [r.layer for r in one.ids if r.router == kind])
            tick(axis.yaxis)
            axis.grid(axis="y")
        if named:
            row[0].set_ylabel(f"{plain(one.name, 28)}\n{kind} routers\n{row[0].get_ylabel()}")
    for axis in axes[0, :2]:  # a limit that is set before all rows are drawn would cut the next ones
        axis.set_ylim(bottom=0)
    _legend(figure, axes[0, 1])
    return figure


def _intervals(series: DomainSeries) -> str:
    known = [value for r in series.routers for value in (r.dominant, r.used, r.mi)]
    if any(value.has_interval for value in known):
        return f"bands: {percent(series.level)} intervals over sequences"
    return f"no intervals: {next((value.reason for value in known if value.reason), 'not computed')}"


def _information(axis: Any, series: DomainSeries, kind: str) -> None:
    chart = information_chart(series, kind)
    (line,) = chart.lines
    draw_line(axis, line, **look(chart.styles()[0]))
    title_with(axis, chart.title, f"at most ln {len(series.domains)} = {series.highest:.2f}")
    axis.set_ylabel(chart.y)


def _shares(axis: Any, series: DomainSeries, kind: str) -> None:
    chart = share_chart(series, kind)
    draw_line(axis, chart.lines[0], **look(chart.styles()[0]))
    (threshold,) = chart.references
    axis.plot(threshold.x, threshold.y, color="0.35", ls=":", lw=1)
    for r in series.routers:
        if r.router.router == kind:
            colour = FINDINGS.get(r.word or "", "white")
            axis.plot(r.router.layer, 0.03, "s", color=colour, ms=4, transform=axis.get_xaxis_transform())
    title_with(axis, QUANTITIES["dominant_share"].label, "dotted: dominated above; squares: word")
    axis.set_ylabel(chart.y)


def _spread(axis: Any, series: DomainSeries, kind: str) -> None:
    chart = spread_chart(series, kind)
    draw_line(axis, chart.lines[0], **look(chart.styles()[0]))
    (half,) = chart.references
    axis.axhline(half.y[0], color="0.35", ls=":", lw=1)
    title_with(axis, QUANTITIES["mixture_spread"].title, f"dotted: {half.name}")
    axis.set_ylabel(chart.y)
    axis.set_ylim(0, 1.02)


def _legend(figure: Figure, axis: Any) -> None:
    from matplotlib.lines import Line2D

    lines, words = axis.get_legend_handles_labels()
    squares = [Line2D([], [], ls="", marker="s", color=colour) for colour in FINDINGS.values()]
    figure.legend([*lines, *squares], [*words, *FINDINGS], loc="outside lower center", ncols=3)


PLOT = Plot(
    "domains",
    "What the domain tells about the expert, and the numbers behind the findings.",
    "a profile, or stats pairs of one model on two or more domains",
    draw,
    ("span",),
    pages,
)
