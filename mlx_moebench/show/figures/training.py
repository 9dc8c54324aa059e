"""A training step by step: cross-entropy, routing loss, and the state of every router on the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...routing.sums import Floats
from ..inputs import Training
from .base import number

PER_ROUTER = {
    "token_entropy": ("entropy of a token's routing, mean H(p)", "nats"),
    "marginal_entropy": ("entropy of the mean routing, H(mean p)", "nats"),
    "load_entropy": ("entropy of the load, H(f)", "nats"),
    "top_load_ratio": ("load of the busiest expert", "multiple of even load"),
    "dead_experts": ("experts that no token of the batch chose", "experts"),
}
"""What the log has of every router, on the batch of the step: words and unit."""


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
    loss: Mapping[str, Any] | None
    warnings: tuple[str, ...]
    finished: bool
    definition: str = (
        "Each step's own batch, so that the lines are noisy and have no interval; of the routers the mean is a line, "
        "the smallest and the largest a band. Routing loss: before its weight."
    )


def training_series(training: Training) -> TrainingSeries:
    """From the log and the report of a training."""
    entries = [entry for entry in training.log if "ce" in entry]
    validation = [entry for entry in training.log if entry.get("val_ce") is not None]
    found = training.report.get("routing_loss") or {}
    return TrainingSeries(
        training.name,
        tuple(entry["step"] for entry in entries),
        sum(int(entry.get("tokens") or 0) for entry in entries),
        _column(entries, "ce"),
        _column(entries, "routing_loss"),
        {name: _rows(entries, name) for name in PER_ROUTER},
        (tuple(entry["step"] for entry in validation), _column(validation, "val_ce")),
        tuple(float(nats) for nats in found.get("floor_nats", ())),
        (training.report.get("settings") or {}).get("routing_loss"),
        tuple(map(str, found.get("warnings", ()))),
        bool(training.report),
    )


def _column(entries: Sequence[Mapping[str, Any]], name: str) -> Floats:
    return np.array([number(entry.get(name)) for entry in entries])


def _rows(entries: Sequence[Mapping[str, Any]], name: str) -> Floats:
    rows = [[number(x) for x in entry.get(name) or ()] for entry in entries]
    width = max(map(len, rows), default=0)
    return np.array([row + [np.nan] * (width - len(row)) for row in rows]).reshape(len(rows), width)
