"""What routers said, in numbers: records, tallies, statistics, metrics and intervals. Needs neither MLX nor torch."""

from ..options import Plan
from .domains.estimates import DomainEstimates, domain_estimates
from .domains.findings import Finding, Findings, findings
from .domains.information import domain_information
from .intervals.bootstrap import Interval
from .metrics import METRICS, compute, get_metric
from .record import RouterSpec, Routing
from .stats import RoutingSums
from .sums import Sums
from .tally import Tally, selection_matrix, tally, transition_counts

__all__ = [
    "METRICS",
    "DomainEstimates",
    "Finding",
    "Findings",
    "Interval",
    "Plan",
    "RouterSpec",
    "Routing",
    "RoutingSums",
    "Sums",
    "Tally",
    "compute",
    "domain_estimates",
    "domain_information",
    "findings",
    "get_metric",
    "selection_matrix",
    "tally",
    "transition_counts",
]
