"""The questions one can ask of a model's routers."""

from ..routing.storage import decode_output
from .analyze import analyze, analyze_generation
from .keep import check_replaceable

__all__ = ["analyze", "analyze_generation", "check_replaceable", "decode_output"]
