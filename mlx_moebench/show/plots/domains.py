"""What the domain of a text tells of its experts, and the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import StatsError
from ..figures import DomainSeries, RouterDomains, domain_series
from ..inputs import Inputs
from ..numbers import percent
from ._lines import line, title_with
from .base import WIDTH, Plot, layer_ticks, lines, plain

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


def over(found: DomainSeries) -> str:
    """``moebench-nano over code, general, math``."""
    return f"{plain(found.name, 40)} over {plain(', '.join(found.domains), 60)}"


def draw(inputs: Inputs) -> Figure:
    """A row of panels per profile and kind of router: information, shares that decide the verdict, spread."""
    from matplotlib.figure import Figure

    found = profiles(inputs, "domains")
    rows = [(one, kind) for one in found for kind in dict.fromkeys(r.router.router for r in one.routers)]
    figure = Figure(figsize=(WIDTH, 0.9 + 2.0 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, sharey="col")
    for row, (one, kind) in zip(axes, rows, strict=True):
        routers = [r for r in one.routers if r.router.router == kind]
        layers = [r.router.layer for r in routers]
        _information(row[0], one, routers, layers)
        _shares(row[1], one, routers, layers)
        line(row[2], layers, [r.r for r in routers], 0)
        row[2].axhline(0.5, color="0.35", ls=":", lw=1)
        title_with(row[2], "experts in use, r", "dotted: 0.5, collapsed below")
        row[2].set_ylabel("ratio")
        row[2].set_ylim(0, 1.02)
        for axis in row:
            layer_ticks(axis, layers)
            axis.grid(axis="y")
        if len(rows) > 1:
            row[0].set_ylabel(f"{plain(one.name, 28)}\n{kind} routers\nnats")
    for axis in axes[0, :2]:  # a limit that is set before all rows are drawn would cut the next ones
        axis.set_ylim(bottom=0)
    _legend(figure, axes[0, 1])
    figure.suptitle(lines(*(over(one) for one in found), _intervals(found[0])))
    return figure


def _intervals(found: DomainSeries) -> str:
    known = [value for r in found.routers for value in (r.a, r.b, r.r, r.mi)]
    if any(value.has_interval for value in known):
        return f"bands: {percent(found.level)} intervals over sequences"
    return f"no intervals: {next((value.reason for value in known if value.reason), 'not computed')}"


def _information(axis: Any, found: DomainSeries, routers: Sequence[RouterDomains], layers: Sequence[int]) -> None:
    line(axis, layers, [r.mi for r in routers], 0)
    null = [r.null_high for r in routers]
    said = f"at most ln {len(found.domains)} = {found.highest:.2f}"
    if np.isfinite(null).all():
        axis.fill_between(layers, 0, null, color="0.75", lw=0, zorder=0.5)  # under the bands
        said += "; grey: 95% of permutations"
    title_with(axis, "information about the expert", said)
    axis.set_ylabel("nats")


def _shares(axis: Any, found: DomainSeries, routers: Sequence[RouterDomains], layers: Sequence[int]) -> None:
    line(axis, layers, [r.b for r in routers], 1, label="b: busiest expert of any domain")
    line(axis, layers, [r.a for r in routers], 0, label="a: expert that no domain escapes")
    axis.axhline(found.tau, color="0.35", ls=":", lw=1)
    for r in routers:
        axis.plot(
            r.router.layer,
            0.03,
            "s",
            color=VERDICTS.get(r.word or "", "white"),
            ms=4,
            transform=axis.get_xaxis_transform(),
        )
    title_with(axis, "deciding shares", f"dotted: tau = {found.tau:g}; squares: verdict")
    axis.set_ylabel("share of tokens")


def _legend(figure: Figure, axis: Any) -> None:
    from matplotlib.lines import Line2D

    lines, words = axis.get_legend_handles_labels()
    squares = [Line2D([], [], ls="", marker="s", color=colour) for colour in VERDICTS.values()]
    figure.legend([*lines, *squares], [*words, *VERDICTS], loc="outside lower center", ncols=3)


PLOT = Plot(
    "domains",
    "What the domain tells of the expert, and the shares that decide the verdicts.",
    "a profile, or stats pairs of one model on two or more domains",
    draw,
)
