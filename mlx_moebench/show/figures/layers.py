"""A metric layer by layer, with its intervals and the line that even or chance routing would give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...routing.metrics import get_metric
from .base import Estimate, RouterId, definition, estimate, number, router_id

_EVEN: dict[str, tuple[str, Callable[[int, int], float]]] = {
    "mean_entropy": ("undecided about every token, ln E", lambda e, k: math.log(e)),
    "topk_entropy": ("equal gate weights, ln K", lambda e, k: math.log(k)),
    "load_entropy": ("even load, ln E", lambda e, k: math.log(e)),
    "marginal_entropy": ("even on average, ln E", lambda e, k: math.log(e)),
    "token_information": ("every token routed alike, 0", lambda e, k: 0.0),
    "top_share_token": ("even load, K/E", lambda e, k: k / e),
    "top_share_selection": ("even load, 1/E", lambda e, k: 1 / e),
    "top_share_top1": ("even load, 1/E", lambda e, k: 1 / e),
    "top_load_ratio": ("even load, 1", lambda e, k: 1.0),
    "n_eff": ("even load, E", lambda e, k: float(e)),
    "n90": ("even load", lambda e, k: float(math.ceil(0.9 * e - 1e-9))),
    "gini": ("even load, 0", lambda e, k: 0.0),
    "switch_balance": ("even load, 1", lambda e, k: 1.0),
    "adjacent_overlap": ("chance under even routing, K/E", lambda e, k: k / e),
    "margin_prob": ("two best experts tie, 0", lambda e, k: 0.0),
    "selection_margin": ("a tie for the last place, 0", lambda e, k: 0.0),
}

LAYER_METRICS: tuple[str, ...] = tuple(_EVEN)
"""The metrics that are drawn by layer, entropies and shares first."""


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
    """``metric``, one of `LAYER_METRICS`, of a routing report; raises `MoebenchError` for an unknown name."""
    found, (reference, even) = get_metric(metric), _EVEN[metric]
    data, settings = report["data"], report["settings"]
    routers = tuple(router_id(r) for r in report["routers"])
    return LayerSeries(
        metric,
        found.unit,
        definition(metric),
        int(data["n_sequences"]),
        int(data["n_tokens"]),
        number(settings.get("ci", {}).get("level")),
        routers,
        tuple(estimate(r.get(metric), r["ci"].get(metric)) for r in report["routers"]),
        reference,
        tuple(even(r.n_experts, r.top_k) for r in routers),
    )
