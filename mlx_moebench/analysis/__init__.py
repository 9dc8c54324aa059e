"""The questions one can ask of a measured or loaded model. Needs MLX only where it is used."""

from ..blas import load_fast_blas_before_mlx

load_fast_blas_before_mlx()

from .compare import Target, measured, target  # noqa: E402
from .profile import profile  # noqa: E402

__all__ = ["Target", "measured", "profile", "target"]
