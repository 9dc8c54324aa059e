"""The questions one can ask of a model: how it routes, and what it knows. Needs MLX only where it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..blas import load_fast_blas

load_fast_blas()  # before anything here imports mlx

from ..routing.storage import decode_output  # noqa: E402
from .accuracy import compare_answers  # noqa: E402
from .analyze import analyze, analyze_generation  # noqa: E402
from .compare import Target, measured, target  # noqa: E402
from .evaluations import read_evaluation  # noqa: E402
from .keep import check_replaceable  # noqa: E402
from .profile import profile  # noqa: E402

if TYPE_CHECKING:
    from .mmlu import evaluate_mmlu

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


def __getattr__(name: str) -> Any:
    if name != "evaluate_mmlu":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .mmlu import evaluate_mmlu

    return evaluate_mmlu
