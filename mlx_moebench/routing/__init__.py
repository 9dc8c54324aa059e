"""What routers said, in numbers: records, tallies, statistics, metrics and intervals. Needs neither MLX nor torch."""

from .comparison import Comparison, compare
from .domains import DomainInformation, domain_information, domain_information_null
from .metrics import METRICS, compute, get_metric
from .record import RouterSpec, Routing
from .stats import RoutingStats
from .sums import Sums
from .tally import Tally, selection_matrix, tally, transition_counts
from .uncertainty import Interval, Plan, intervals

__all__ = [
    "METRICS",
    "Comparison",
    "DomainInformation",
    "Interval",
    "Plan",
    "RouterSpec",
    "Routing",
    "RoutingStats",
    "Sums",
    "Tally",
    "compare",
    "compute",
    "domain_information",
    "domain_information_null",
    "get_metric",
    "intervals",
    "selection_matrix",
    "tally",
    "transition_counts",
]
