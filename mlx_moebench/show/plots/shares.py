"""Shares by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..inputs import Inputs
from ._lines import draw_by_layer
from .base import Plot, Span, views

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs, span: Span | None = None) -> Figure:
    """Shares of the busiest expert and of the experts that adjacent tokens share, over even routing's."""
    metrics = ("top_share_token", "top_share_top1", "adjacent_overlap")
    return draw_by_layer(views(inputs, "shares", span), metrics, "share")


PLOT = Plot(
    "shares",
    "Shares by layer with their intervals, and those of even routing.",
    "stats pairs or profiles",
    draw,
    ("span",),
)
