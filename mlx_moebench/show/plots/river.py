"""Where tokens go from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import StatsError
from ...routing.sums import Floats
from ..colours import OTHER, diverging_map, expert_colours
from ..figures.base import labels
from ..figures.river import POOLED, Column, RiverSeries, river_series
from ..inputs import Inputs, Run
from ..names import sizes
from .base import WIDTH, Plot, lines, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 6
"""Columns that are drawn where no layers are named."""

NODE, GAP = 0.07, 0.012
"""Width of a node in columns, and what lies between two of them in heights."""

SQUEEZED = 1 / 3
"""Of the other nodes' height, what the merged experts have at most."""


def draw(inputs: Inputs, span: tuple[int, int] | None = None) -> Figure:
    """A panel for each run, ribbons coloured by lift; the first `MOST` routers, or those of the layers of ``span``."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    if not inputs.runs:
        raise StatsError("There is nothing to draw a river from: give a stats pair of a model with several routers.")
    every = [_within(river_series(run), run, span) for run in inputs.runs]
    figure = Figure(figsize=(WIDTH, 0.9 + 3.6 * len(every)), layout="constrained")
    axes = list(figure.subplots(len(every), 1, squeeze=False)[:, 0])
    for axis, series in zip(axes, every, strict=True):
        _draw_river(axis, series)
        if len(every) > 1:
            axis.set_title(plain(series.run))
    mappable = ScalarMappable(Normalize(0, 2), diverging_map())
    mappable.set_cmap(_upper())
    bar = figure.colorbar(mappable, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02, extend="max")
    bar.set_ticks([0, 1, 2], labels=["1", "2", "4"])
    bar.set_label("lift of a move over independent choices (1 = chance)")
    figure.suptitle(_heading(inputs.runs, every))
    return figure


def _upper() -> Any:
    """The half of the map around chance that is above it."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(diverging_map()(np.linspace(0.5, 1.0, 256)))


def _within(series: RiverSeries, run: Run, span: tuple[int, int] | None) -> RiverSeries:
    """The columns of these layers, next to each other; raises `StatsError` for fewer than two."""
    if series.reason is not None:
        raise StatsError(f"There is no river of {run.name} to draw: {series.reason}.")
    layers = [column.router.layer for column in series.columns]
    places = [n for n, layer in enumerate(layers) if span is None or span[0] <= layer <= span[1]]
    if len(places) < 2:
        raise StatsError(
            f"{run.name} has fewer than two routers in those layers: it has layers {layers[0]} to {layers[-1]}."
        )
    places = places[:MOST] if span is None else places
    columns = tuple(series.columns[place] for place in places)
    moves = series.moves[places[0] : places[-1]]
    return RiverSeries(series.run, series.n_sequences, series.n_tokens, columns, moves)


def _heading(runs: Sequence[Run], every: Sequence[RiverSeries]) -> str:
    named = (f"{plain(run.name, 40)} on {plain(run.report['data']['name'], 40)}: {sizes(run.report)}" for run in runs)
    merged = any(column.others for series in every for column in series.columns)
    rest = "; the busiest experts, all others together and drawn smaller" if merged else ""
    return lines(*named, f"height: selections{rest}; {POOLED}")


def _draw_river(axis: Any, series: RiverSeries) -> None:
    from matplotlib.patches import Rectangle

    places = [_places(column) for column in series.columns]
    names = labels([column.router for column in series.columns])
    for gap in range(len(series.moves)):
        _draw_gap(axis, series, gap, places[gap], places[gap + 1])
    for number, (column, (tops, heights)) in enumerate(zip(series.columns, places, strict=True)):
        alone = [load if expert is not None else 0 for expert, load in zip(column.experts, column.loads, strict=True)]
        colours = expert_colours(alone)
        for expert, top, height, colour in zip(column.experts, tops, heights, colours, strict=True):
            fill = OTHER if expert is None else colour
            axis.add_patch(Rectangle((number, top), NODE, height, facecolor=fill, edgecolor="white", linewidth=0.3))
            text = f"other {column.others}" if expert is None else str(expert)
            if height > 0.017:
                axis.text(number + NODE + 0.015, top + height / 2, text, va="center", fontsize=5.5)
    axis.set_xlim(-0.05, len(series.columns) - 1 + NODE + 0.28)
    axis.set_ylim(1.01, -0.01)
    axis.set_xticks([n + NODE / 2 for n in range(len(names))], names)
    axis.set_yticks([])
    axis.set_xlabel("layer")
    axis.set_ylabel("experts, by selections")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _places(column: Column) -> tuple[Floats, Floats]:
    """(top [n], height [n]) of the nodes of a column of height 1."""
    loads = column.loads.astype(np.float64)
    if column.others:
        loads[-1] = min(loads[-1], SQUEEZED * loads[:-1].sum())
    heights = loads / max(1.0, loads.sum()) * (1 - GAP * (len(loads) - 1))
    return np.cumsum(heights) - heights + GAP * np.arange(len(loads)), heights


def _draw_gap(axis: Any, series: RiverSeries, gap: int, here: Any, there: Any) -> None:
    """The ribbons between two columns, those of the largest lift on top."""
    from matplotlib.patches import PathPatch

    moves, lift = series.moves[gap].astype(np.float64), np.nan_to_num(series.lift(gap))
    out = moves / np.maximum(1.0, moves.sum(axis=1, keepdims=True)) * here[1][:, None]
    into = moves / np.maximum(1.0, moves.sum(axis=0, keepdims=True)) * there[1][None, :]
    left = here[0][:, None] + np.cumsum(out, axis=1) - out
    right = there[0][None, :] + np.cumsum(into, axis=0) - into
    colours = _upper()
    for flat in np.argsort(lift, axis=None, kind="stable"):
        i, j = divmod(int(flat), moves.shape[1])
        if not moves[i, j]:
            continue
        strength = float(np.clip(np.log2(max(lift[i, j], 1e-6)) / 2, 0, 1))
        path = _ribbon(gap + NODE, gap + 1, left[i, j], right[i, j], out[i, j], into[i, j])
        alpha = 0.06 if strength == 0 else 0.12 + 0.75 * strength
        axis.add_patch(PathPatch(path, facecolor=colours(0.25 + 0.75 * strength), alpha=alpha, linewidth=0))


def _ribbon(x0: float, x1: float, y0: float, y1: float, h0: float, h1: float) -> Any:
    from matplotlib.path import Path

    middle = (x0 + x1) / 2
    points = [(x0, y0), (middle, y0), (middle, y1), (x1, y1), (x1, y1 + h1), (middle, y1 + h1), (middle, y0 + h0)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    return Path([*points, (x0, y0 + h0), (x0, y0)], codes)


PLOT = Plot(
    "river",
    "Moves from layer to layer: ribbons between experts, by lift over chance.",
    "stats pairs with both files, of models with several routers",
    draw,
    options=("span",),
)
