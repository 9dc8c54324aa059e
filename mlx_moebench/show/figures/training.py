"""A training step by step: cross-entropy, routing loss, and the state of every router on the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...routing.sums import Floats
from ...types import Facts
from ..inputs import Training
from ..names import label_and_unit
from ..numbers import count
from .base import Value, or_nan
from .drawing import Chart, Line, Points, Reference

PER_ROUTER = {
    "token_entropy": "mean_entropy",
    "marginal_entropy": "marginal_entropy",
    "load_entropy": "load_entropy",
    "top_load_ratio": "top_load_ratio",
    "dead_experts": "dead_experts",
}
"""What the log has of every router on the batch of the step, and which metric that is."""


@dataclass(frozen=True)
class TrainingSeries:
    """steps [n]; ce, routing_loss [n] in nats (routing loss before its weight); routers {name: [n, routers]}.

    validation: steps and cross-entropies of held-out text. floors: the floor of the entropy, nats, where there is one.
    loss: the settings of the routing loss, None for a training without one. warnings: what the training said.
    finished: whether it wrote its report; until then loss and floors are unknown.
    """

    name: str
    steps: tuple[int, ...]
    tokens: int
    ce: Floats
    routing_loss: Floats
    routers: Mapping[str, Floats]
    validation: tuple[tuple[int, ...], Floats]
    floors: tuple[float, ...]
    loss: Facts | None
    warnings: tuple[str, ...]
    finished: bool
    definition: str = (
        "Each step's own batch, so that the lines are noisy and have no interval; of the routers the mean is a line, "
        "the smallest and the largest a band. Routing loss: before its weight."
    )


def training_series(training: Training) -> TrainingSeries:
    """From the log and the report of a training."""
    entries = [entry for entry in training.log if "ce" in entry]
    routing_loss = training.report.get("routing_loss") or {}
    return TrainingSeries(
        training.name,
        tuple(entry["step"] for entry in entries),
        sum(int(entry.get("tokens") or 0) for entry in entries),
        _column(entries, "ce"),
        _column(entries, "routing_loss"),
        {name: _rows(entries, name) for name in PER_ROUTER},
        _validation(training.log),
        tuple(float(nats) for nats in routing_loss.get("floor_nats", ())),
        (training.report.get("settings") or {}).get("routing_loss"),
        tuple(map(str, routing_loss.get("warnings", ()))),
        bool(training.report),
    )


def _validation(log: Sequence[Facts]) -> tuple[tuple[int, ...], Floats]:
    entries = [entry for entry in log if entry.get("val_ce") is not None]
    return tuple(entry["step"] for entry in entries), _column(entries, "val_ce")


def _column(entries: Sequence[Facts], name: str) -> Floats:
    return np.array([or_nan(entry.get(name)) for entry in entries])


def _rows(entries: Sequence[Facts], name: str) -> Floats:
    rows = [[or_nan(x) for x in entry.get(name) or ()] for entry in entries]
    width = max(map(len, rows), default=0)
    return np.array([row + [np.nan] * (width - len(row)) for row in rows]).reshape(len(rows), width)


def training_charts(series: TrainingSeries, most: int | None = None) -> tuple[Chart, Chart, Chart, Chart]:
    """Cross-entropy, routing loss, entropies and load, step by step; of more than ``most`` steps every n-th."""
    every = 1 if most is None else max(1, math.ceil(len(series.steps) / most))
    n = f"n = {count(len(series.steps), 'step')}, {count(series.tokens, 'token')}"
    n += f"; every {every}th step is drawn" if every > 1 else ""
    batch = _line("training batch", series.steps[::every], series.ce[::every])
    validation = [_line("validation", *series.validation)] if series.validation[0] else []
    known = series.loss is None or series.loss.get("name") == "entropy_floor"
    loss = _line("routing loss", series.steps[::every], series.routing_loss[::every])
    entropies = [_band(series, name, every) for name in ("token_entropy", "marginal_entropy", "load_entropy")]
    loads = [_band(series, name, every) for name in ("top_load_ratio", "dead_experts")]
    return (
        _chart(series, n, "Cross-entropy", "nats per token", [batch, *validation]),
        _chart(series, n, "Routing loss, unweighted", "nats" if known else "as the loss is", [loss]),
        _chart(series, n, "Entropies of the routers", "nats", entropies, "floor", series.floors),
        _chart(series, n, "Load of the routers", "multiple of even load; experts", loads, "even load", (1.0,)),
    )


def _chart(
    series: TrainingSeries,
    n: str,
    title: str,
    unit: str,
    lines: list[Line],
    reference: str = "",
    values: tuple[float, ...] = (),
) -> Chart:
    ends = (float(series.steps[0]), float(series.steps[-1])) if series.steps else (0.0, 0.0)
    dotted = f" Dotted: {reference}, {', '.join(f'{value:.3g}' for value in values)}." if values else ""
    bands = any(one.facts for one in lines)
    tip = "mean over routers {mean}, from {low} to {high}" if bands else "{value:4}"
    return Chart(
        title,
        f"{title}, step by step",
        "step",
        unit,
        "value",
        (f"{tip} {'{unit}' if bands else unit}",),
        f"{series.definition} Unit: {unit}.{dotted} {n}.",
        tuple(lines),
        tuple(Reference(reference, ends, (value, value)) for value in values),
        line_head="quantity",
        point_heads=("step",),
        ends=("smallest over routers", "largest over routers"),
        layers=False,
        zero=False,
        bars=False,
    )


def _line(name: str, steps: tuple[int, ...], values: Floats) -> Line:
    return Line(name, _points(steps), tuple(Value(float(value)) for value in values))


def _points(steps: tuple[int, ...]) -> Points:
    return Points(tuple(map(float, steps)), tuple(f"step {s}" for s in steps), tuple((s,) for s in steps))


def _band(series: TrainingSeries, name: str, every: int) -> Line:
    """Mean over routers, with the smallest and the largest as its ends."""
    label, unit = label_and_unit(PER_ROUTER[name])
    steps = series.steps[::every]
    values = tuple(_range(series.routers[name][::every]))
    return Line(label, _points(steps), values, {"unit": (unit,) * len(steps)})


def _range(rows: Floats) -> Iterator[Value]:
    for row in rows:
        known = row[np.isfinite(row)]
        mean = float((known / max(1, known.size)).sum())  # no sum that is larger than the largest
        yield Value(mean, float(known.min()), float(known.max())) if known.size else Value(math.nan)
