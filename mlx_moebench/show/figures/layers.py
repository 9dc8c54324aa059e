"""A metric layer by layer, with its intervals and the line that even or chance routing would give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...routing.metrics import METRICS, get_metric
from .base import Estimate, RouterId, definition, estimate, number, router_id

LAYER_METRICS = tuple(name for name, metric in METRICS.items() if metric.even)
"""The metrics that are drawn by layer: those that there is something to hold against."""


@dataclass(frozen=True)
class LayerSeries:
    """One metric of every router. reference: what ``chance`` is, router by router, in words."""

    metric: str
    unit: str
    definition: str
    n_sequences: int
    n_tokens: int
    level: float
    routers: tuple[RouterId, ...]
    values: tuple[Estimate, ...]
    reference: str
    chance: tuple[float, ...]


def layer_series(report: dict[str, Any], metric: str) -> LayerSeries:
    """``metric`` of a routing report, router by router; raises `MoebenchError` for an unknown name."""
    drawn = get_metric(metric)
    even = drawn.even
    data, settings = report["data"], report["settings"]
    routers = tuple(router_id(r) for r in report["routers"])
    return LayerSeries(
        metric,
        drawn.unit,
        definition(metric),
        int(data["n_sequences"]),
        int(data["n_tokens"]),
        number(settings.get("ci", {}).get("level")),
        routers,
        tuple(estimate(r.get(metric), r["ci"].get(metric)) for r in report["routers"]),
        even.words if even else "",
        tuple(even.value(r.n_experts, r.top_k) if even else math.nan for r in routers),
    )
