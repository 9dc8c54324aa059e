"""The numbers behind every figure, as plain data: what pages and plots draw from, and nothing about how.

Every series says its unit, how many sequences and tokens it is of, and what it means. Undefined numbers are NaN, with
a reason beside them.
"""

from .answer import Answer, Fact, answer
from .base import Estimate, RouterId
from .coactivation import CoactivationSeries, coactivation_series
from .differences import DifferenceSeries, LoadDifference, difference_series
from .domains import DomainSeries, RouterDomains, domain_series
from .layers import LAYER_METRICS, LayerSeries, layer_series
from .load import DeadSeries, LoadSeries, RouterLoad, dead_series, load_series
from .training import TrainingSeries, training_series
from .uncertainty import SCORES, Curve, UncertaintySeries, uncertainty_series

__all__ = [
    "LAYER_METRICS",
    "SCORES",
    "Answer",
    "CoactivationSeries",
    "Curve",
    "DeadSeries",
    "DifferenceSeries",
    "DomainSeries",
    "Estimate",
    "Fact",
    "LayerSeries",
    "LoadDifference",
    "LoadSeries",
    "RouterDomains",
    "RouterId",
    "RouterLoad",
    "TrainingSeries",
    "UncertaintySeries",
    "answer",
    "coactivation_series",
    "dead_series",
    "difference_series",
    "domain_series",
    "layer_series",
    "load_series",
    "training_series",
    "uncertainty_series",
]
