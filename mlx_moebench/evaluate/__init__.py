"""What a model knows: questions with choices, their scores and intervals. Needs MLX only where it is used."""

from ..blas import load_fast_blas_before_mlx

load_fast_blas_before_mlx()

from .accuracy import compare_answers  # noqa: E402
from .evaluations import read_evaluation  # noqa: E402
from .mmlu import evaluate_mmlu  # noqa: E402

__all__ = ["compare_answers", "evaluate_mmlu", "read_evaluation"]
