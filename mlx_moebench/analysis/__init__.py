"""The questions one can ask of a model: how it routes, and what it knows."""

from ..routing.storage import decode_output
from .accuracy import compare_answers
from .analyze import analyze, analyze_generation
from .compare import Target, measured, target
from .evaluations import read_evaluation
from .keep import check_replaceable
from .mmlu import evaluate_mmlu
from .profile import profile

__all__ = [
    "Target",
    "analyze",
    "analyze_generation",
    "check_replaceable",
    "compare_answers",
    "decode_output",
    "evaluate_mmlu",
    "measured",
    "profile",
    "read_evaluation",
    "target",
]
