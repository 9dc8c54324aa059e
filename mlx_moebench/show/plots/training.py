"""A training, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ...routing.sums import Floats
from ..figures import TrainingSeries, training_series
from ..inputs import Inputs, Training
from .base import COLOURS, WIDTH, Plot, lines, plain, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs) -> Figure:
    """A column of panels per training, with one axis per row."""
    if not inputs.trainings:
        raise StatsError("There is no training to draw: give the folder that train wrote.")
    found = [training_series(training) for training in inputs.trainings]
    if empty := [series.name for series in found if not series.steps]:
        raise StatsError(f"The log of {empty[0]} holds no step yet, so that there is nothing to draw of it.")
    return draw_training(found)


def draw_training(found: Sequence[TrainingSeries]) -> Figure:
    """Cross-entropy, routing loss, entropies and load per step. Lines are means over routers, bands their range."""
    from matplotlib.figure import Figure

    one = len(found) == 1
    figure = Figure(figsize=(WIDTH, 5.2 if one else 8.4), layout="constrained")
    grid = figure.subplots(2, 2).reshape(4, 1) if one else figure.subplots(4, len(found), sharey="row")
    for column, series in zip(grid.T, found, strict=True):
        for axis, panel in zip(column, (_ce, _routing_loss, _entropies, _load), strict=True):
            panel(axis, series)
            axis.grid()
            axis.set_xlabel("step")
        if not one:
            column[0].set_title(f"{plain(series.name, 36)}\n{_loss(series, 40)}\n\n", fontsize=7)
    # A limit that is set before all columns are drawn would cut the next ones.
    grid[1, 0].set_ylim(bottom=min(0.0, grid[1, 0].get_ylim()[0]))
    grid[3, 0].set_ylim(bottom=0)
    for axis in grid[:, 1:].flat:
        axis.set_ylabel("")
    for axis in grid[[0, 2, 3], 0]:
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handlelength=1.2, borderaxespad=0.1)
    title = f"{plain(found[0].name, 40)}, {_loss(found[0], 70)}" if one else f"{len(found)} trainings"
    figure.suptitle(lines(title, "of each step's batch, so without intervals; bands: the range over routers"))
    return figure


def plot_training(log: Sequence[Mapping[str, Any]], report: dict[str, Any], path: Path) -> Path:
    """The picture of a training, as ``train`` writes it beside the adapter; returns ``path``."""
    series = training_series(Training(str(report["model"]), report, log))
    write_picture(path, lambda: draw_training([series]))
    return path


def _ce(axis: Any, series: TrainingSeries) -> None:
    axis.plot(series.steps, series.ce, color=COLOURS[0], lw=0.9, label="training batch")
    steps, values = series.validation
    axis.plot(steps, values, "o-", color=COLOURS[1], label="validation")
    axis.set_ylabel("cross-entropy, nats per token")


def _routing_loss(axis: Any, series: TrainingSeries) -> None:
    axis.plot(series.steps, series.routing_loss, color=COLOURS[5], lw=0.9)
    unit = ", nats" if series.loss is None or series.loss.get("name") == "entropy_floor" else ""
    axis.set_ylabel(f"routing loss, unweighted{unit}")


def _entropies(axis: Any, series: TrainingSeries) -> None:
    words = {
        "token_entropy": "token, mean H(p)",
        "marginal_entropy": "marginal, H(mean p)",
        "load_entropy": "load, H(f)",
    }
    for colour, (name, label) in zip((2, 3, 0), words.items(), strict=True):
        _band(axis, series.steps, series.routers[name], label, COLOURS[colour])
    for nats in series.floors:
        axis.axhline(nats, color="0.3", ls="--", lw=1, label="floor" if nats == series.floors[0] else None)
    axis.set_ylabel("entropy, nats")


def _load(axis: Any, series: TrainingSeries) -> None:
    _band(axis, series.steps, series.routers["top_load_ratio"], "busiest expert's load", COLOURS[1])
    _band(axis, series.steps, series.routers["dead_experts"], "experts not chosen", "0.4")
    axis.axhline(1, color="0.7", lw=0.8)
    axis.set_ylabel("multiple of even; experts")


def _band(axis: Any, x: Sequence[int], values: Floats, label: str, colour: str) -> None:
    if values.size:
        axis.plot(x, values.mean(axis=1), color=colour, label=label)
        axis.fill_between(x, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15, lw=0)


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
