"""Entropies by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..inputs import Inputs
from ._lines import draw_by_layer
from .base import Plot, Span, views

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs, span: Span | None = None) -> Figure:
    """Entropy of a token's routing, of the mean routing and of the load, below ln E."""
    metrics = ("mean_entropy", "marginal_entropy", "load_entropy")
    return draw_by_layer(views(inputs, "entropies", span), metrics, "nats")


PLOT = Plot(
    "entropy", "Entropies by layer with their intervals, below ln E.", "stats pairs or profiles", draw, ("span",)
)
