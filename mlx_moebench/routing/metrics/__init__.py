"""Metrics of one router, grouped by what they describe. A new one is one decorated function in its group's file."""

from . import entropy, load, margin, structure
from .registry import METRICS, Metric, compute, get_metric
from .structure import chance_lift, coactivation, coactivation_lift, transition

__all__ = [
    "METRICS",
    "Metric",
    "chance_lift",
    "coactivation",
    "coactivation_lift",
    "compute",
    "entropy",
    "get_metric",
    "load",
    "margin",
    "structure",
    "transition",
]
