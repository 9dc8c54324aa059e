"""Which experts are chosen together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...errors import StatsError
from ..figures import CoactivationSeries, coactivation_heat, coactivation_series
from ..figures.coactivation import BY_LIFT, WIDEST
from ..inputs import Inputs, Run
from ..names import sizes, unit_of_text
from ._heat import Panel, draw_panels
from .base import Plot, headed, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs, layers: Sequence[int] = ()) -> Figure:
    """The first of `pages`."""
    return pages(inputs, layers)[0]


def pages(inputs: Inputs, layers: Sequence[int] = ()) -> list[Figure]:
    """Lift over that of chance, a panel per run and router of ``layers``; by default first, middle and last one."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    if not inputs.runs:
        raise StatsError("There is nothing to draw co-activation from: give a stats pair.")
    panels, ratios = [], []
    for run in inputs.runs:
        for one in _chosen(run, layers):
            texts = unit_of_text(run.report["model"])
            heat = coactivation_heat(one, f"{one.router.layer} ({one.router.router})", texts)
            name = f"{one.run}, " if len(inputs.runs) > 1 else ""
            panels.append(Panel(name, f"layer {one.router.layer} ({one.router.router})", heat))
            ratios.append(one.over_chance)
    largest = max(float(np.nanmax(np.abs(np.log2(np.maximum(r, 1 / WIDEST))), initial=1.0)) for r in ratios)
    most = 2.0 ** min(np.ceil(largest), np.log2(WIDEST))
    clipped = [np.clip(ratio, 1 / most, most) for ratio in ratios]
    ticks = 2.0 ** np.arange(-np.log2(most), np.log2(most) + 1)
    drawn = []
    for figure, axes, image in draw_panels(panels, LogNorm(1 / most, most), clipped):
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02, extend="both")
        bar.ax.xaxis.set(major_locator=FixedLocator(list(ticks)), minor_locator=NullLocator())
        bar.ax.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
        bar.set_label(BY_LIFT.format("1 = chance"))
        drawn.append(figure)
    return headed(drawn, *_heading(inputs.runs))


def _chosen(run: Run, layers: Sequence[int]) -> list[CoactivationSeries]:
    """The routers of a run in ``layers``, with their pairs; raises `StatsError` where there are none to draw."""
    routers = run.report["routers"]
    have = sorted({r["layer"] for r in routers})
    if missing := sorted({*layers} - {*have}):
        raise StatsError(f"{run.name} has no router in layer {missing[0]}: it has layers {', '.join(map(str, have))}.")
    wanted = set(layers) or {have[0], have[len(have) // 2], have[-1]}
    chosen = [coactivation_series(run, number) for number, r in enumerate(routers) if r["layer"] in wanted]
    reasons = [one.reason for one in chosen if one.pairs is None]
    if reasons:
        raise StatsError(f"There is no co-activation of {run.name} to draw: {reasons[0]}.")
    return chosen


def _heading(runs: Sequence[Run]) -> list[str]:
    sized = ((run.name, run.report["data"]["name"], sizes(run.report)) for run in runs)
    names = [f"{plain(name, 40)} on {plain(data, 40)}: {size}" for name, data, size in sized]
    return [*names, "grey: an expert with itself, or one without tokens; no intervals: pairs are kept in one sum"]


PLOT = Plot(
    "coactivation",
    "Which experts are chosen together: lift over chance, for the routers of some layers.",
    "stats pairs with both files",
    draw,
    options=("layers",),
    pages=pages,
)
