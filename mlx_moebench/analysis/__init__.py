"""The questions one can ask of a model's routers."""

from .analyze import analyze, analyze_generation
from .keep import check_replaceable, decode_output
from .profile import profile

__all__ = [
    "analyze",
    "analyze_generation",
    "check_replaceable",
    "decode_output",
    "profile",
]
