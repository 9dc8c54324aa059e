"""Where tokens go from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import StatsError
from ...routing.sums import Floats
from ..colours import OTHER, diverging_map, expert_colours, sequential_map
from ..figures.base import labels
from ..figures.river import POOLED, Column, Counts, RiverSeries, river_series
from ..figures.token_map import TokenMap, river_nodes, token_map
from ..inputs import Inputs, Run
from ..names import model_name, sizes
from ..numbers import count
from ..tokens import token_data
from .base import WIDTH, Plot, Span, lines, plain, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 6
"""Columns that are drawn where no layers are named."""

NAMES, LEAD = 0.85, 0.45
"""Room for the tokens left of the first column, and for the lines from them to it, in columns."""

NODE, GAP = 0.07, 0.012
"""Width of a node in columns, and what lies between two of them in heights."""

SQUEEZED = 1 / 3
"""Of the other nodes' height, what the merged experts have at most."""


PATHS = 24
"""Tokens of a sequence whose paths are drawn, from the first on: as many as can be named beside a panel."""


@dataclass(frozen=True)
class _Panel:
    """A run's columns that are drawn. nodes: [T, C] where the tokens of a traced sequence are; None without one."""

    series: RiverSeries
    tokens: TokenMap | None = None
    nodes: Counts | None = None


def draw(inputs: Inputs, span: Span | None = None, sequence: int = 0) -> Figure:
    """A panel for each run, ribbons coloured by lift; the first `MOST` routers, or those of the layers of ``span``.

    With a trace of the model, lines over them are the paths of the tokens of one ``sequence``.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    if not inputs.runs:
        raise StatsError("There is nothing to draw a river from: give a stats pair of a model with several routers.")
    every = _panels(inputs, span, sequence)
    figure = Figure(figsize=(WIDTH, 0.9 + 3.6 * len(every)), layout="constrained")
    axes = list(figure.subplots(len(every), 1, squeeze=False)[:, 0])
    for axis, panel in zip(axes, every, strict=True):
        places = _draw_river(axis, panel.series)
        if panel.nodes is not None and panel.tokens is not None:
            _draw_paths(axis, places, panel.nodes, panel.tokens.texts)
        if len(every) > 1:
            axis.set_title(plain(panel.series.run))
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


def _panels(inputs: Inputs, span: Span | None, sequence: int) -> list[_Panel]:
    """Each run with the trace of its tokens, the one given in its place or else the first of its routers."""
    traced = [token_map(token_data(trace), sequence, PATHS) for trace in inputs.traces]
    if sequence and not traced:
        raise StatsError("There is no sequence to draw the paths of: give the folder of a trace, too.")
    panels = []
    for number, run in enumerate(inputs.runs):
        series = river_series(run)
        columns = _shown(series, run, span)
        own = traced[number : number + 1] if len(traced) == len(inputs.runs) else []
        name = plain(model_name(run.report["model"]))
        alike = (one for one in (*own, *traced) if plain(one.model) == name)
        found = ((one, nodes) for one in alike if (nodes := river_nodes(one, series)) is not None)
        tokens, nodes = next(found, (None, None))
        cut = replace(series, columns=series.columns[columns], moves=series.moves[columns.start : columns.stop - 1])
        panels.append(_Panel(cut, tokens, None if nodes is None else nodes[:, columns]))
    if traced and all(panel.tokens is None for panel in panels):
        names = " and ".join(plain(panel.series.run) for panel in panels)
        raise StatsError(f"The trace is of another model than {names}: {plain(traced[0].model)}.")
    return panels


def _shown(series: RiverSeries, run: Run, span: Span | None) -> slice:
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
    return slice(places[0], places[-1] + 1)


def _heading(runs: Sequence[Run], every: Sequence[_Panel]) -> str:
    named = (f"{plain(run.name, 40)} on {plain(run.report['data']['name'], 40)}: {sizes(run.report)}" for run in runs)
    merged = any(column.others for panel in every for column in panel.series.columns)
    rest = "; the busiest experts, all others together and drawn smaller" if merged else ""
    paths = dict.fromkeys(_paths(panel.tokens) for panel in every if panel.tokens is not None)
    return lines(*named, f"height: selections{rest}; {POOLED}", *paths)


def _paths(tokens: TokenMap) -> str:
    shown = len(tokens.texts)
    some = f"the first {shown} of {tokens.total:,} tokens" if shown < tokens.total else f"the {count(shown, 'token')}"
    return f"lines: first experts of {some} of {plain(tokens.data, 40)}, {plain(tokens.name, 30)}, {tokens.phase}"


def _draw_river(axis: Any, series: RiverSeries) -> list[tuple[Floats, Floats]]:
    """Ribbons and nodes; returns (top [n], height [n]) of the nodes of each column."""
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
    return places


def _draw_paths(axis: Any, places: Sequence[tuple[Floats, Floats]], nodes: Counts, texts: Sequence[str]) -> None:
    """The tokens, read down the left side, and a line for each through the nodes of its first experts.

    Dark to light from the first to the last; those that meet in a node pass it side by side. nodes: [T, C].
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    from matplotlib.patheffects import withStroke

    y = np.stack([_side_by_side(*place, nodes[:, c]) for c, place in enumerate(places)], axis=1)
    beside = (np.arange(len(texts)) + 0.5) / len(texts)
    colours = sequential_map()(np.linspace(0, 0.85, len(texts)))
    axis.set_xlim(left=-NAMES)
    axis.yaxis.labelpad = 12
    written = {"ha": "right", "va": "center", "fontsize": 5.5, "family": "DejaVu Sans Mono"}
    for text, colour, from_y, ys in zip(texts, colours, beside, y, strict=True):
        axis.text(-LEAD, from_y, visible(text, 14), color=colour, **written)
        points, codes = [(-LEAD + 0.01, from_y)], [Path.MOVETO]
        for column, at in enumerate(ys):
            (x0, y0), x1 = points[-1], column
            points += [((x0 + x1) / 2, y0), ((x0 + x1) / 2, at), (x1, at), (x1 + NODE, at)]
            codes += [*[Path.CURVE4] * 3, Path.LINETO]
        path = PathPatch(Path(points, codes), fill=False, edgecolor=colour, linewidth=0.8, gid="path")
        path.set_path_effects([withStroke(linewidth=1.3, foreground="white", alpha=0.6)])
        axis.add_patch(path)


def _side_by_side(tops: Floats, heights: Floats, nodes: Counts) -> Floats:
    """[T] where tokens pass the nodes of a column, evenly over each, in their own order."""
    met = nodes[:, None] == nodes[None, :]
    before = np.tril(met, -1).sum(axis=1)
    return np.asarray(tops[nodes] + heights[nodes] * (before + 0.5) / met.sum(axis=1))


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
    "stats pairs with both files, of models with several routers, and the folder of a trace for paths of tokens",
    draw,
    options=("span", "sequence"),
)
