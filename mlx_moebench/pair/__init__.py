"""The stats pair: the report of a measurement and the sums from which it can be made again, and what compares two."""

from .comparison import Comparison, compare
from .stats import RoutingStats

__all__ = ["Comparison", "RoutingStats", "compare"]
