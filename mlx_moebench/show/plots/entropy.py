"""Entropies by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..inputs import Inputs
from ._lines import draw_by_layer
from .base import Plot, sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs) -> Figure:
    """Entropy of a token's routing, of the mean routing and of the load, below ln E."""
    metrics = {
        "mean_entropy": "of a token's routing",
        "marginal_entropy": "of the mean routing",
        "load_entropy": "of the load",
    }
    return draw_by_layer(sources(inputs, "entropies"), metrics, "entropy, nats")


PLOT = Plot("entropy", "Entropies by layer with their intervals, below ln E.", "stats pairs or profiles", draw)
