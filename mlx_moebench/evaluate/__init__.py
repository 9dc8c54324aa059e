"""What a model knows: questions with choices, their scores and intervals. Needs MLX only where it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..blas import load_fast_blas

load_fast_blas()  # before anything here imports mlx

from .accuracy import compare_answers  # noqa: E402
from .evaluations import read_evaluation  # noqa: E402

if TYPE_CHECKING:
    from .mmlu import evaluate_mmlu

__all__ = ["compare_answers", "evaluate_mmlu", "read_evaluation"]


def __getattr__(name: str) -> Any:
    if name != "evaluate_mmlu":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .mmlu import evaluate_mmlu

    return evaluate_mmlu
