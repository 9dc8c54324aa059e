"""Heatmaps as panels of one colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...routing.sums import Floats
from ..figures import Heat
from .base import WIDTH, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED_ROWS = 32
"""Above so many rows only some are named, and what stands beside each is left out."""


@dataclass(frozen=True)
class Panel:
    """One heatmap under ``name``, shortened to the room that the ``rest`` of the title leaves."""

    name: str
    rest: str
    heat: Heat

    @property
    def named(self) -> bool:
        """Whether there is room for the name of every row and what stands beside it."""
        return len(self.heat.rows) <= NAMED_ROWS

    @property
    def values(self) -> Floats:
        """What is shown of the heatmap, [rows, most columns]; NaN where a row has fewer."""
        return padded(self.heat.measures[self.heat.shown].values)


def padded(rows: Sequence[Floats]) -> Floats:
    """[rows, largest E]; NaN where a router has fewer experts."""
    matrix = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(matrix, rows, strict=True):
        row[: len(values)] = values
    return matrix


def draw_even(panels: Sequence[Panel]) -> Figure:
    """Multiples of the even share: blue is less, white is 1, red is more, on the one scale of all."""
    from matplotlib.colors import TwoSlopeNorm

    heat = panels[0].heat
    scale = heat.measures[heat.shown].scale
    assert scale is not None
    ticks = np.unique(np.concatenate([[0, 0.5, 1], np.floor(10 * np.linspace(1, scale.most, 4)[1:]) / 10]))
    norm = TwoSlopeNorm(vmin=0.0, vcenter=1.0, vmax=scale.most)
    figure, axes, image = draw_panels(panels, [panel.values for panel in panels], norm)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label(scale.label)
    bar.set_ticks([float(t) for t in ticks])
    return figure


def draw_panels(panels: Sequence[Panel], values: Sequence[Floats], norm: Any) -> tuple[Figure, list[Any], Any]:
    """(figure, axes, image) of the panels' values, as many side by side as their experts leave room for.

    Squares of experts by experts are as high as they are wide.
    """
    from matplotlib.figure import Figure

    columns = _columns(panels, max(matrix.shape[1] for matrix in values))
    heights = _heights(panels, columns)
    titles = 0.45 if "\n" not in panels[0].rest else 0.58
    figure = Figure(figsize=(WIDTH, 1.1 + titles * len(heights) + sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    axes = list(grid.flat[: len(panels)])
    for axis in grid.flat[len(panels) :]:
        axis.remove()
    for place, (axis, panel, matrix) in enumerate(zip(axes, panels, values, strict=True)):
        image = _draw_panel(axis, panel, matrix, norm, int(14 * (WIDTH / columns - 0.4)))
        if place % columns == 0:
            axis.set_ylabel(panel.heat.y)
        if place + columns >= len(panels):
            axis.set_xlabel(panel.heat.x)
    return figure, axes, image


def _columns(panels: Sequence[Panel], experts: int) -> int:
    """How many panels of so many ``experts`` stand side by side."""
    text = sum(max(map(len, panel.heat.beside), default=0) for panel in panels) / len(panels)
    room = 3 if panels[0].heat.square else max(1, int(WIDTH / (0.6 + 0.08 * experts + 0.06 * text)))
    return min(len(panels), room)


def _heights(panels: Sequence[Panel], columns: int) -> list[float]:
    """Of each line of panels, in inches."""
    rows = [len(panel.heat.rows) for panel in panels]
    lines = [max(rows[start : start + columns]) for start in range(0, len(rows), columns)]
    if panels[0].heat.square:
        return [WIDTH / max(columns, 2) - 0.4] * len(lines)
    row = 0.15 if max(rows) <= NAMED_ROWS else 0.09
    return [max(0.7, row * most) for most in lines]


def _draw_panel(axis: Any, panel: Panel, values: Floats, norm: Any, room: int) -> Any:
    """The image of one panel, under a title of about ``room`` letters."""
    rows, beside, square = panel.heat.rows, panel.heat.beside, panel.heat.square
    image = axis.imshow(values, cmap="RdBu_r", norm=norm, aspect="equal" if square else "auto", interpolation="nearest")
    axis.set_facecolor("0.85")  # shows where a router has no such expert
    axis.set_title(plain(panel.name, max(8, room - len(panel.rest.partition("\n")[0]))) + panel.rest)
    axis.spines[:].set_visible(True)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if square:
        axis.yaxis.get_major_locator().set_params(integer=True)
        return image
    step = 1 if panel.named else 4
    axis.set_yticks(range(0, len(rows), step), rows[::step])
    if beside and panel.named:
        right = axis.secondary_yaxis("right")
        right.set_yticks(range(len(rows)), beside)
        right.tick_params(length=0, labelsize=6)
    return image
