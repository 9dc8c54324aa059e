"""TC-MoE: every expert may be added or taken off, and null experts do nothing."""

from __future__ import annotations

import mlx.core as mx

from ...routing.record import Array
from .base import Axes, Gate, Router, Sizes, Spec


class OffsetGate(Gate):
    """z = W x, less than it was for the columns that take off, and far less for those that do nothing."""

    def __init__(self, axes: Axes, hidden_size: int, moe_layer: int) -> None:
        super().__init__(axes, hidden_size, moe_layer)
        offsets = {"neg": axes.neg_offset, "null": axes.null_offset}
        self._offsets = mx.array([offsets.get(kind, 0.0) for kind in axes.kinds])

    def __call__(self, x: Array) -> Array:
        """[..., D] -> [..., R]."""
        return x @ self.weight.T + self._offsets


def axes(sizes: Sizes, spec: Spec) -> Axes:
    """2N + K columns: +E_i, -E_i and K null experts. Both specs agree."""
    special = ["neg"] * sizes.n_experts + ["null"] * sizes.top_k
    return Axes(
        num_experts=sizes.n_experts,
        num_experts_per_tok=sizes.top_k,
        num_special_experts=len(special),
        special_experts=special,  # type: ignore[arg-type]  # a list of literals
        neg_offset=-1.0,
        null_offset=-10.0,
        balance="ternary",
        reward=1e-5,
    )


ROUTER = Router("tc_moe", "experts that are added, taken off or null (Yan et al. 2025)", axes, OffsetGate)
