"""The loss of the next token by tenths of a router's uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..tables.loss import UNITS
from ..tables.routers import model_name
from .base import Estimate, RouterId, estimate, number, router_id

SCORES: dict[str, str] = {"entropy": "routing entropy", "selection_margin": "selection margin"}
"""What uncertainty is measured by, in words."""


@dataclass(frozen=True)
class Curve:
    """One router and score. rho: Spearman's rank correlation with the loss.

    scores, loss: the mean score of each tenth of the tokens, and their mean loss, nats; tokens: how many each has.
    """

    router: RouterId
    rho: Estimate
    scores: tuple[float, ...]
    loss: tuple[Estimate, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class UncertaintySeries:
    """One report: {score: the curve of every router}."""

    name: str
    n_sequences: int
    n_tokens: int
    level: float
    mean_loss: Estimate
    curves: Mapping[str, tuple[Curve, ...]]
    score_units: Mapping[str, str]
    unit: str = "nats"
    definition: str = (
        "Tokens are ordered by the router's score and cut into tenths; a point is the mean loss of the next token in a "
        "tenth against its mean score. rho: Spearman's rank correlation of score and loss. A small selection margin is "
        "an uncertain choice: there, uncertainty foretells loss where rho is negative."
    )


def uncertainty_series(report: Mapping[str, Any]) -> UncertaintySeries:
    """From the JSON that ``mlx-moebench uncertainty`` writes."""
    data = report["data"]
    return UncertaintySeries(
        f"{model_name(report['model'])} on {data['name']}",
        int(data["n_sequences"]),
        int(report["n_pairs"]),
        number(report["settings"]["ci"].get("level", 0.95)),
        estimate(report["mean_loss"]["value"], report["mean_loss"]),
        {score: tuple(_curve(r, r[score]) for r in report["routers"]) for score in SCORES},
        UNITS,
    )


def _curve(router: Mapping[str, Any], found: Mapping[str, Any]) -> Curve:
    bins = found["calibration"] or []
    return Curve(
        router_id(router),
        estimate(found["rho"], found),
        tuple(number(b["score"]["mean"]) for b in bins),
        tuple(estimate(b["loss"]["value"], b["loss"]) for b in bins),
        tuple(int(b["n_tokens"]) for b in bins),
    )
