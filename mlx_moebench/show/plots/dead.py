"""Experts without a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..figures import dead_series
from ..inputs import Inputs, Run
from ._lines import title_with
from .base import COLOURS, WIDTH, Plot, heading, layer_ticks, legend, marker_of, sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs) -> Figure:
    """Number of experts that no token chose by layer, a panel per kind of router, against that of even routing."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    found = sources(inputs, "dead experts")
    series = [dead_series(Run(source.label, source.report, None, {})) for source in found]
    kinds = list(dict.fromkeys(router.router for one in series for router in one.routers))
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        layers = set[int]()
        for number, one in enumerate(series):
            own = [place for place, router in enumerate(one.routers) if router.router == kind]
            x = [one.routers[place].layer for place in own]
            colour, marker = COLOURS[number % len(COLOURS)], marker_of(number)
            shift = 0.5 * ((number + 0.5) / len(found) - 0.5)  # runs stand side by side in each layer
            axis.vlines([at + shift for at in x], 0, [one.dead[place] for place in own], color=colour)
            axis.plot([at + shift for at in x], [one.dead[p] for p in own], marker, color=colour, label=number)
            axis.step(x, [one.expected[p] for p in own], color=colour, ls="--", lw=0.8, where="mid")
            layers |= set(x)
        experts = sorted({r.n_experts for one in series for r in one.routers if r.router == kind})
        title = f"of {' or '.join(map(str, experts))} experts" + (f", {kind} routers" if len(kinds) > 1 else "")
        title_with(axis, title, "dashed: expected under even routing")
        layer_ticks(axis, layers)
        axis.grid(axis="y")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        if not any(one.dead[place] for one in series for place, r in enumerate(one.routers) if r.router == kind):
            axis.annotate("none in any layer", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.3")
    axes[0].set_ylim(0, max(1.0, axes[0].get_ylim()[1]))
    axes[0].set_ylabel("experts without a token")
    legend(figure, axes, found)
    figure.suptitle(heading(found, "no intervals: an expert without a token in a sample says little of one with few"))
    return figure


PLOT = Plot("dead", "Experts that no token chose, by layer, against even routing.", "stats pairs or profiles", draw)
