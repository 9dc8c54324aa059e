"""Routers by experts as panels of one colour scale, where white is an even share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...routing.sums import Floats
from .base import WIDTH, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED_ROWS = 32
"""Above so many rows only some are named, and what stands beside each is left out."""


@dataclass(frozen=True)
class Heat:
    """One panel: values [rows, largest E], NaN where there is no such expert. beside: what stands right of each row.

    name: shortened to the room that the rest of the title leaves.
    """

    name: str
    rest: str
    values: Floats
    rows: Sequence[str]
    beside: Sequence[str] = ()

    @property
    def named(self) -> bool:
        """Whether there is room for the name of every row and what stands beside it."""
        return len(self.rows) <= NAMED_ROWS


def padded(rows: Sequence[Floats]) -> Floats:
    """[rows, largest E]; NaN where a router has fewer experts."""
    matrix = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(matrix, rows, strict=True):
        row[: len(values)] = values
    return matrix


def draw_even(panels: Sequence[Heat], bar: str) -> Figure:
    """Multiples of the even share: blue is less, white is 1, red is more, on one scale for all; ``bar`` names it."""
    from matplotlib.colors import TwoSlopeNorm

    most = max(2.0, *(float(np.nanmax(panel.values, initial=1.0)) for panel in panels))
    ticks = np.unique(np.concatenate([[0, 0.5, 1], np.floor(10 * np.linspace(1, most, 4)[1:]) / 10]))
    figure, axes, image = draw_panels(panels, TwoSlopeNorm(vmin=0.0, vcenter=1.0, vmax=most))
    scale = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    scale.set_label(bar)
    scale.set_ticks([float(t) for t in ticks])
    return figure


def draw_panels(panels: Sequence[Heat], norm: Any, *, square: bool = False) -> tuple[Figure, list[Any], Any]:
    """(figure, axes, image) of the panels, as many side by side as their experts leave room for.

    square: rows are experts, too, and panels as high as they are wide.
    """
    from matplotlib.figure import Figure

    experts = max(panel.values.shape[1] for panel in panels)
    most_rows = max(len(panel.rows) for panel in panels)
    text = sum(max(map(len, panel.beside), default=0) for panel in panels) / len(panels)
    columns = min(len(panels), 3 if square else max(1, int(WIDTH / (0.6 + 0.08 * experts + 0.06 * text))))
    lines = -(-len(panels) // columns)
    row = 0.15 if most_rows <= NAMED_ROWS else 0.09
    rows = [max(len(panel.rows) for panel in panels[n * columns : (n + 1) * columns]) for n in range(lines)]
    heights = [WIDTH / max(columns, 2) - 0.4 if square else max(0.7, row * most) for most in rows]
    titles = 0.45 if "\n" not in panels[0].rest else 0.58
    figure = Figure(figsize=(WIDTH, 1.1 + titles * lines + sum(heights)), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, height_ratios=heights)
    axes = list(grid.flat[: len(panels)])
    for axis in grid.flat[len(panels) :]:
        axis.remove()
    for place, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
        image = _draw_panel(axis, panel, norm, int(14 * (WIDTH / columns - 0.4)), square)
        if place % columns == 0:
            axis.set_ylabel("expert" if square else "layer")
        if place + columns >= len(panels):
            axis.set_xlabel("expert")
    return figure, axes, image


def _draw_panel(axis: Any, panel: Heat, norm: Any, room: int, square: bool) -> Any:
    """The image of one panel, under a title of about ``room`` letters."""
    shape = "equal" if square else "auto"
    image = axis.imshow(panel.values, cmap="RdBu_r", norm=norm, aspect=shape, interpolation="nearest")
    axis.set_facecolor("0.85")  # shows where a router has no such expert
    axis.set_title(plain(panel.name, max(8, room - len(panel.rest.partition("\n")[0]))) + panel.rest)
    axis.spines[:].set_visible(True)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if square:
        axis.yaxis.get_major_locator().set_params(integer=True)
        return image
    step = 1 if panel.named else 4
    axis.set_yticks(range(0, len(panel.rows), step), panel.rows[::step])
    if panel.beside and panel.named:
        right = axis.secondary_yaxis("right")
        right.set_yticks(range(len(panel.rows)), panel.beside)
        right.tick_params(length=0, labelsize=6)
    return image
