"""The questions one can ask of a model's routers."""

from .analyze import analyze, analyze_generation
from .compare import Target, measured, target
from .keep import check_replaceable, decode_output

__all__ = [
    "Target",
    "analyze",
    "analyze_generation",
    "check_replaceable",
    "decode_output",
    "measured",
    "target",
]
