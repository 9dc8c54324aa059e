"""The lab: the routers of LibMoE in one decoder, trained from scratch, for all that this package measures."""

from ..blas import load_fast_blas

load_fast_blas()  # before anything below imports mlx
