"""Which experts are chosen together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...errors import StatsError
from ..figures import CoactivationSeries, coactivation_series
from ..inputs import Inputs, Run
from ._heat import Heat, draw_panels
from .base import Plot, lines, plain, sizes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDEST = 8.0
"""Lifts beyond this multiple of chance, or below its inverse, have the last colour."""


def draw(inputs: Inputs, layers: Sequence[int] = ()) -> Figure:
    """Lift over that of chance, a panel per run and router of ``layers``; by default first, middle and last one."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    if not inputs.runs:
        raise StatsError("There is nothing to draw co-activation from: give a stats pair.")
    found = [one for run in inputs.runs for one in _chosen(run, layers)]
    ratios = [one.lift / one.chance_lift for one in found]
    largest = max(float(np.nanmax(np.abs(np.log2(np.maximum(r, 1 / WIDEST))), initial=1.0)) for r in ratios)
    most = 2.0 ** min(np.ceil(largest), np.log2(WIDEST))
    panels = [
        Heat(
            f"{one.run}, " if len(inputs.runs) > 1 else "",
            f"layer {one.router.layer} ({one.router.router})",
            np.clip(ratio, 1 / most, most),
            [str(e) for e in range(len(ratio))],
        )
        for one, ratio in zip(found, ratios, strict=True)
    ]
    figure, axes, image = draw_panels(panels, LogNorm(1 / most, most), square=True)
    ticks = 2.0 ** np.arange(-np.log2(most), np.log2(most) + 1)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02, extend="both")
    bar.ax.xaxis.set(major_locator=FixedLocator(list(ticks)), minor_locator=NullLocator())
    bar.ax.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    bar.set_label("lift, multiple of its value under even routing (1 = chance)")
    figure.suptitle(_heading(inputs.runs))
    return figure


def _chosen(run: Run, layers: Sequence[int]) -> list[CoactivationSeries]:
    """The routers of a run in ``layers``, with their pairs; raises `StatsError` where there are none to draw."""
    routers = run.report["routers"]
    have = sorted({r["layer"] for r in routers})
    if missing := sorted({*layers} - {*have}):
        raise StatsError(f"{run.name} has no router in layer {missing[0]}: it has layers {', '.join(map(str, have))}.")
    wanted = set(layers) or {have[0], have[len(have) // 2], have[-1]}
    found = [coactivation_series(run, number) for number, r in enumerate(routers) if r["layer"] in wanted]
    reasons = [one.reason for one in found if one.pairs is None]
    if reasons:
        raise StatsError(f"There is no co-activation of {run.name} to draw: {reasons[0]}.")
    return found


def _heading(runs: Sequence[Run]) -> str:
    sized = ((run.name, run.report["data"]["name"], sizes(run.report)) for run in runs)
    names = [f"{plain(name, 40)} on {plain(data, 40)}: {size}" for name, data, size in sized]
    return lines(*names, "grey: an expert with itself, or one without tokens; no intervals: pairs are kept in one sum")


PLOT = Plot(
    "coactivation",
    "Which experts are chosen together: lift over chance, for the routers of some layers.",
    "stats pairs with both files",
    draw,
    options=("layers",),
)
