"""What routers said, in numbers: records, tallies, statistics, metrics and intervals. Needs neither MLX nor torch."""

from .comparison import Comparison, compare
from .domain_stats import DomainStatistics, domain_statistics
from .domains import DomainInformation, domain_information, domain_information_null
from .metrics import METRICS, compute, get_metric
from .record import RouterSpec, Routing
from .stats import RoutingStats
from .sums import Sums
from .tally import Tally, selection_matrix, tally, transition_counts
from .uncertainty import Interval, Plan, intervals
from .verdict import Verdict, verdict

__all__ = [
    "METRICS",
    "Comparison",
    "DomainInformation",
    "DomainStatistics",
    "Interval",
    "Plan",
    "RouterSpec",
    "Routing",
    "RoutingStats",
    "Sums",
    "Tally",
    "Verdict",
    "compare",
    "compute",
    "domain_information",
    "domain_information_null",
    "domain_statistics",
    "get_metric",
    "intervals",
    "selection_matrix",
    "tally",
    "transition_counts",
    "verdict",
]
