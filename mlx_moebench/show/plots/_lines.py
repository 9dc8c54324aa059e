"""Metrics by layer as lines with their bands, and the line that even routing would give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures import Estimate, LayerSeries, layer_series
from .base import COLOURS, WIDTH, Source, heading, intervals_of, layer_ticks, legend, marker_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def line(axis: Any, x: Sequence[float], values: Sequence[Estimate], number: int, **options: Any) -> None:
    """The values joined, each interval as part of a band; the ``number`` chooses colour and marker."""
    colour = COLOURS[number % len(COLOURS)]
    marker = marker_of(number) if len(x) <= 32 else None
    axis.plot(x, [v.value for v in values], marker=marker, color=colour, **options)
    ends = np.array([[v.low, v.high] for v in values])
    # Where a single point has an interval and its neighbours none, a band would not be seen: then bars.
    if np.isfinite(ends).all():
        axis.fill_between(x, ends[:, 0], ends[:, 1], color=colour, alpha=0.2, lw=0)
    else:
        axis.vlines(x, ends[:, 0], ends[:, 1], color=colour, lw=1)


def draw_by_layer(found: Sequence[Source], metrics: Mapping[str, str], label: str) -> Figure:
    """A panel per metric and kind of router with one y axis for all, a line per source.

    metrics: {name: title of its panels}. label: of the y axis.
    """
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(r["router"] for source in found for r in source.report["routers"]))
    named = 0.16 * math.ceil(len(found) / 3) if len(found) > 1 else 0.0
    figure = Figure(figsize=(WIDTH, 0.7 + 1.9 * len(kinds) + named), layout="constrained")
    axes = figure.subplots(len(kinds), len(metrics), squeeze=False, sharex="row", sharey=True)
    for row, kind in zip(axes, kinds, strict=True):
        for axis, (metric, title) in zip(row, metrics.items(), strict=True):
            even = _panel(axis, [layer_series(s.report, metric) for s in found], kind, found)
            tau = _tau(axis, metric, found)
            title_with(axis, title, "; ".join(filter(None, [f"dashed: {', '.join(even)}" if even else "", tau])))
        row[0].set_ylabel(f"{kind} routers\n{label}" if len(kinds) > 1 else label)
    axes[0, 0].set_ylim(0, 1.04 * axes[0, 0].get_ylim()[1])
    legend(figure, axes.flat, found)
    figure.suptitle(heading(found, intervals_of(found, metrics, "bands")))
    return figure


def title_with(axis: Any, title: str, said: str) -> None:
    """A panel's title, and under it in grey what its reference lines are."""
    axis.set_title(f"{title}\n" if said else title)
    axis.annotate(
        said, (0.5, 1), xycoords="axes fraction", xytext=(0, 3), textcoords="offset points",
        ha="center", fontsize=6.5, color="0.3",
    )  # fmt: skip


def _tau(axis: Any, metric: str, found: Sequence[Source]) -> str:
    """Draw the threshold of the flag where it is on this metric and near the data; returns what it is."""
    settings = [source.report["settings"] for source in found]
    near = {s["tau"] for s in settings if s["collapse_on"] == metric and s["tau"] < 1.3 * axis.get_ylim()[1]}
    for tau in near:
        axis.axhline(tau, color="0.35", ls=":", lw=1, zorder=1)
    return f"dotted: tau = {', '.join(f'{tau:g}' for tau in sorted(near))}" if near else ""


def _panel(axis: Any, series: Sequence[LayerSeries], kind: str, found: Sequence[Source]) -> list[str]:
    """Draw each source's routers of that kind and the lines of even routing; returns what those are."""
    references, layers = dict[str, float](), set[int]()
    for number, one in enumerate(series):
        own = [place for place, router in enumerate(one.routers) if router.router == kind]
        if not own:
            continue
        x = [one.routers[place].layer for place in own]
        line(axis, x, [one.values[place] for place in own], number, label=number)
        layers |= set(x)
        for place in own:
            if math.isfinite(one.chance[place]):
                references[f"{one.reference.split(', ')[-1]} = {one.chance[place]:.3g}"] = one.chance[place]
    if not any(math.isfinite(value.value) for one in series for value in one.values):
        axis.annotate("not recorded", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.3")
    for value in references.values():
        axis.axhline(value, color="0.35", ls="--", lw=0.9, zorder=1)
    layer_ticks(axis, layers)
    axis.grid(axis="y")
    return list(references)
