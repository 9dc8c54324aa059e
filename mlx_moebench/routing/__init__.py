"""What routers said, in numbers: records, tallies, statistics, metrics and intervals. Needs neither MLX nor torch."""

from ..options import Plan
from .domains.information import DomainInformation, domain_information, domain_information_null
from .domains.statistics import DomainStatistics, domain_statistics
from .domains.verdict import Verdict, verdict
from .intervals.bootstrap import Interval
from .metrics import METRICS, compute, get_metric
from .record import RouterSpec, Routing
from .stats import RoutingSums
from .sums import Sums
from .tally import Tally, selection_matrix, tally, transition_counts

__all__ = [
    "METRICS",
    "DomainInformation",
    "DomainStatistics",
    "Interval",
    "Plan",
    "RouterSpec",
    "Routing",
    "RoutingSums",
    "Sums",
    "Tally",
    "Verdict",
    "compute",
    "domain_information",
    "domain_information_null",
    "domain_statistics",
    "get_metric",
    "selection_matrix",
    "tally",
    "transition_counts",
    "verdict",
]
