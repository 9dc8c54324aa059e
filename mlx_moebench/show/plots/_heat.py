"""Heatmaps as panels of one colour scale, on as many pages as they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...routing.sums import Floats
from ...types import HostArray
from ..colours import FINDINGS, diverging_map
from ..figures import Heat
from .base import HEIGHT, WIDTH, plain, tick

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 64
"""Of one panel; of more, the next ones stand on another."""
ROW, LOWEST_ROW = 0.15, 0.11
"""Inches of a row, and of one where many are to fit a page: its name can still be read."""
AROUND = 1.25
"""Inches of the heading and the scale."""
FADED = 0.4
"""Opacity of a cell whose interval holds the even share."""

FADED_WORDS = "faded, hatched: the interval holds even"


@dataclass(frozen=True)
class Panel:
    """One heatmap under ``name``, shortened to the room that the ``rest`` of the title leaves.

    rows: numbers of those that are shown, (first, one after the last); by default all.
    """

    name: str
    rest: str
    heat: Heat
    rows: tuple[int, int] | None = None

    @property
    def shown(self) -> slice:
        """The rows that are shown."""
        return slice(*(self.rows or (0, len(self.heat.rows))))

    @property
    def values(self) -> Floats:
        """What is shown of the heatmap, [rows, most columns]; NaN where a row has fewer."""
        return padded(self.heat.measures[self.heat.shown].values[self.shown])

    @property
    def uncertain(self) -> Floats:
        """1 where a cell is faded, [rows, most columns]."""
        return np.nan_to_num(padded([row.astype(np.float64) for row in self.heat.uncertain[self.shown]]))


def padded(rows: Sequence[Floats]) -> Floats:
    """[rows, largest E]; NaN where a router has fewer experts."""
    matrix = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(matrix, rows, strict=True):
        row[: len(values)] = values
    return matrix


def draw_even(panels: Sequence[Panel]) -> list[Figure]:
    """Multiples of the even share: blue is less, orange more, on the one scale of all; the pages."""
    from matplotlib.colors import FuncNorm

    heat = panels[0].heat
    scale = heat.measures[heat.shown].scale
    assert scale is not None
    ticks = np.unique(np.concatenate([[0, 0.5, 1], np.floor(10 * scale.value(np.array([0.5, 1.0]))) / 10]))
    norm = FuncNorm((scale.place, scale.value), vmin=0.0, vmax=scale.most)
    pages = []
    for figure, axes, image in draw_panels(panels, norm):
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
        bar.set_label(scale.label)
        bar.set_ticks([float(t) for t in ticks], labels=[f"{t:g}" for t in ticks])
        bar.minorticks_off()
        pages.append(figure)
    return pages


def any_faded(panels: Sequence[Panel]) -> bool:
    """Whether a cell of them is faded."""
    return any(row.any() for panel in panels for row in panel.heat.uncertain)


def draw_panels(
    panels: Sequence[Panel], norm: Any, values: Sequence[Floats] | None = None
) -> Iterator[tuple[Figure, list[Any], Any]]:
    """(figure, axes, image) of each page, with as many panels side by side as their experts leave room for.

    values: in place of those of the panels. Squares of experts by experts are as high as they are wide.
    """
    from matplotlib.figure import Figure

    shown = [panel.values for panel in panels] if values is None else values
    pairs = [part for pair in zip(panels, shown, strict=True) for part in _parts(*pair)]
    columns = _columns([panel for panel, _ in pairs], max(matrix.shape[1] for matrix in shown))
    title = 0.45 if "\n" not in panels[0].rest else 0.58
    for lines, heights in _pages(pairs, columns, title):
        figure = Figure(figsize=(WIDTH, min(HEIGHT, AROUND + title * len(lines) + sum(heights))), layout="constrained")
        grid = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights)
        axes = []
        for below, (row, line) in enumerate(zip(grid, lines, strict=True), start=1):
            for axis in row[len(line) :]:
                axis.remove()
            for place, (axis, (panel, matrix)) in enumerate(zip(row, line, strict=False)):
                image = _draw_panel(axis, panel, matrix, norm, int(14 * (WIDTH / columns - 0.4)))
                axes.append(axis)
                if not place:
                    axis.set_ylabel(panel.heat.y)
                if below == len(lines) or len(lines[below]) <= place:
                    axis.set_xlabel(panel.heat.x)
        yield figure, axes, image


def _parts(panel: Panel, values: Floats) -> Iterator[tuple[Panel, Floats]]:
    """A panel of many rows as several of about as many."""
    count = len(panel.heat.rows)
    if panel.heat.square or count <= ROWS:
        yield panel, values
        return
    each = -(-count // -(-count // ROWS))
    for start in range(0, count, each):
        end = min(start + each, count)
        span = f" ({panel.heat.y} {panel.heat.rows[start]} to {panel.heat.rows[end - 1]})"
        yield replace(panel, name=(panel.name + span).strip(), rows=(start, end)), values[start:end]


def _columns(panels: Sequence[Panel], experts: int) -> int:
    """How many panels of so many ``experts`` stand side by side."""
    text = sum(max(map(len, panel.heat.beside), default=0) for panel in panels) / len(panels)
    room = 3 if panels[0].heat.square else max(1, int(WIDTH / (0.6 + 0.08 * experts + 0.06 * text)))
    return min(len(panels), room)


def _pages(
    pairs: Sequence[tuple[Panel, Floats]], columns: int, title: float
) -> Iterator[tuple[list[Sequence[tuple[Panel, Floats]]], list[float]]]:
    """The lines of panels of each page, and their heights in inches."""
    room = HEIGHT - AROUND
    lines: list[Sequence[tuple[Panel, Floats]]] = []
    heights: list[float] = []
    for start in range(0, len(pairs), columns):
        line = pairs[start : start + columns]
        if line[0][0].heat.square:
            height = WIDTH / max(columns, 2) - 0.4
        else:
            rows = max(len(matrix) for _, matrix in line)
            height = max(0.7, rows * max(LOWEST_ROW, min(ROW, (room - title) / rows)))
        if lines and sum(heights) + title * len(lines) + height + title > room:
            yield lines, heights
            lines, heights = [], []
        lines.append(line)
        heights.append(height)
    yield lines, heights


def _draw_panel(axis: Any, panel: Panel, values: Floats, norm: Any, room: int) -> Any:
    """The image of one panel, under a title of about ``room`` letters."""
    heat = panel.heat
    rows, beside, flags = heat.rows[panel.shown], heat.beside[panel.shown], heat.flags[panel.shown]
    faded = panel.uncertain
    colours = diverging_map().with_extremes(bad="0.85")  # shows where a router has no such expert
    style = {"norm": norm, "aspect": "equal" if heat.square else "auto", "interpolation": "nearest"}
    image = axis.imshow(values, cmap=colours, alpha=np.where(faded > 0, FADED, 1.0) if faded.any() else None, **style)
    _hatch(axis, faded)
    _divide(axis, heat.groups[panel.shown] if heat.order == "domain" else ())
    axis.set_title(plain(panel.name, max(8, room - len(panel.rest.partition("\n")[0]))) + panel.rest)
    axis.spines[:].set_visible(True)
    tick(axis.xaxis, whole=True)
    if heat.order != "number":
        axis.set_xticks([])  # a place is no expert's number
    if heat.square:
        tick(axis.yaxis, whole=True)
        return image
    small = 6 if len(rows) > 48 else 7
    axis.set_yticks(range(len(rows)), rows)
    axis.tick_params(axis="y", labelsize=small, pad=7 if any(flags) else 3, length=0 if any(flags) else 2)
    _mark(axis, flags)
    if beside:
        right = axis.secondary_yaxis("right")
        right.set_yticks(range(len(rows)), beside)
        right.tick_params(length=0, labelsize=6)
    return image


def _hatch(axis: Any, faded: Floats) -> None:
    """Lines over the faded cells, which also show in print without colours; neighbours in a row as one area."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    edges = np.diff(np.pad(faded > 0, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    if not len(starts):
        return
    areas = [
        Path([(x0, y - 0.5), (x1, y - 0.5), (x1, y + 0.5), (x0, y + 0.5), (x0, y - 0.5)], closed=True)
        for (y, x0), (_, x1) in zip(starts - [0, 0.5], ends - [0, 0.5], strict=True)
    ]
    axis.add_patch(
        PathPatch(Path.make_compound_path(*areas), fill=False, lw=0, hatch="/////", edgecolor="0.72", zorder=1.5)
    )


def _divide(axis: Any, groups: Sequence[HostArray]) -> None:
    """A line between neighbours of different groups."""
    edges = [(np.flatnonzero(np.diff(row)) + 0.5, y) for y, row in enumerate(groups)]
    if edges:
        x, y = (np.concatenate(one) for one in zip(*((at, np.full(len(at), y)) for at, y in edges), strict=True))
        axis.vlines(x, y - 0.5, y + 0.5, color="black", linewidth=1.2)


def _mark(axis: Any, flags: Sequence[str]) -> None:
    """The findings that rows are flagged for, left of them: filled, and hollow what is open."""
    for row, flag in enumerate(flags):
        if flag:
            fill = "none" if flag == "open" else FINDINGS[flag]
            edge = "0.35" if flag == "open" else FINDINGS[flag]
            at = axis.get_yaxis_transform()
            axis.plot(-0.012, row, ">", ms=3.2, mfc=fill, mec=edge, mew=0.7, transform=at, clip_on=False)
