"""A training, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ...types import Facts, Json
from ..figures import Chart, TrainingSeries, training_charts, training_series
from ..inputs import Inputs, Training
from ._lines import draw_line
from .base import WIDTH, Plot, colour_of, lines, plain, tick, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs) -> Figure:
    """A column of panels per training, with one axis per row."""
    if not inputs.trainings:
        raise StatsError("There is no training to draw: give the folder that train wrote.")
    every = [training_series(training) for training in inputs.trainings]
    if empty := [series.name for series in every if not series.steps]:
        raise StatsError(f"The log of {empty[0]} holds no step yet, so that there is nothing to draw of it.")
    return draw_training(every)


def draw_training(every: Sequence[TrainingSeries]) -> Figure:
    """Cross-entropy, routing loss, entropies and load per step. Lines are means over routers, bands their range."""
    from matplotlib.figure import Figure

    one = len(every) == 1
    figure = Figure(figsize=(WIDTH, 5.2 if one else 8.4), layout="constrained")
    grid = figure.subplots(2, 2).reshape(4, 1) if one else figure.subplots(4, len(every), sharey="row")
    for column, series in zip(grid.T, every, strict=True):
        for axis, chart, colours in zip(column, training_charts(series), HUES, strict=True):
            _panel(axis, chart, colours)
        if not one:
            column[0].set_title(f"{plain(series.name, 36)}\n{_loss(series, 40)}\n\n", fontsize=7)
    # A limit that is set before all columns are drawn would cut the next ones.
    grid[1, 0].set_ylim(bottom=min(0.0, grid[1, 0].get_ylim()[0]))
    grid[3, 0].set_ylim(bottom=0)
    for axis in grid[:, 1:].flat:
        axis.set_ylabel("")
    for axis in grid[[0, 2, 3], 0]:
        columns = 1 if any(len(name) > 24 for name in axis.get_legend_handles_labels()[1]) else 2
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, handlelength=1.2, borderaxespad=0.1)
    title = f"{plain(every[0].name, 40)}, {_loss(every[0], 70)}" if one else f"{len(every)} trainings"
    figure.suptitle(lines(title, "of each step's batch, so without intervals; bands: the range over routers"))
    return figure


def plot_training(log: Sequence[Facts], report: Json, path: Path) -> Path:
    """The picture of a training, as ``train`` writes it beside the adapter; returns ``path``."""
    series = training_series(Training(str(report["model"]), report, log))
    write_picture(path, lambda: draw_training([series]))
    return path


HUES = ((0, 1), (5,), (2, 3, 0), (1, 7))
"""Which colours the lines of each chart have."""


def _panel(axis: Any, chart: Chart, hues: Sequence[int]) -> None:
    for line, hue in zip(chart.lines, hues, strict=False):
        style: Json = {"marker": "o"} if line.name == "validation" else {"lw": 0.9}
        draw_line(axis, line, color=colour_of(hue), band=0.15, label=line.name, **style)
    for number, reference in enumerate(chart.references):
        axis.axhline(reference.y[0], color="0.3", ls="--", lw=1, label=None if number else reference.name)
    axis.set_ylabel(f"{chart.title},\n{chart.y}")
    axis.set_xlabel(chart.x)
    tick(axis.xaxis, whole=chart.whole_x)
    tick(axis.yaxis)
    axis.grid()


def _loss(series: TrainingSeries, limit: int) -> str:
    if series.loss is None:
        return "no routing loss" if series.finished else "not finished"
    details = (f"{key} {_plain(series.loss[key])}" for key in ("weight", "signal", "floor") if key in series.loss)
    return plain(f"{series.loss['name']}: {', '.join(details)}", limit)


def _plain(value: Any) -> str:
    """``fraction 0.9`` for {"fraction": 0.9}."""
    return (
        " ".join(f"{kind} {number:g}" for kind, number in value.items()) if isinstance(value, Mapping) else str(value)
    )


PLOT = Plot(
    "training", "Cross-entropy, routing loss, entropies and load of a training, by step.", "folders of train", draw
)
