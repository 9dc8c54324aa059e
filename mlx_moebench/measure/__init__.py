"""Running a model over texts and keeping what its routers say, on any backend. Needs MLX only where it is used."""

from ..blas import load_fast_blas_before_mlx

load_fast_blas_before_mlx()

from ..pair.storage import decode_output  # noqa: E402
from .keep import check_replaceable  # noqa: E402
from .run import analyze, analyze_generation  # noqa: E402

__all__ = ["analyze", "analyze_generation", "check_replaceable", "decode_output"]
