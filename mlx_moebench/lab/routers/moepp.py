"""MoE++: experts that cost nothing, and logits that are carried from router to router."""

from __future__ import annotations

from ...routing.record import Array
from .base import Axes, Gate, Router, Sizes, Spec, drawn


class CarriedGate(Gate):
    """G^j = W^j x + W_g^j G^(j-1), with gradient into the routers before; the first router has no W_g."""

    carries = True

    def __init__(self, axes: Axes, hidden_size: int, moe_layer: int) -> None:
        super().__init__(axes, hidden_size, moe_layer)
        if moe_layer:
            self.carry = drawn(len(axes.kinds), len(axes.kinds))

    def __call__(self, x: Array, before: Array | None) -> Array:
        """[..., D] and, but for the first router, [..., R] -> [..., R]."""
        z = x @ self.weight.T
        return z if before is None else z + before @ self.carry.T


def axes(sizes: Sizes, spec: Spec) -> Axes:
    """N experts, constant ones, one that copies its input and one that is zero. Both specs agree."""
    n_constant = max(sizes.n_experts // 4 - 2, 1) if sizes.n_constant is None else sizes.n_constant
    special = ["constant"] * n_constant + ["copy", "zero"]
    return Axes(
        num_experts=sizes.n_experts,
        num_experts_per_tok=sizes.top_k,
        num_special_experts=len(special),
        special_experts=special,  # type: ignore[arg-type]  # a list of literals
        balance="hetero",
        eta=0.75,
    )


ROUTER = Router("moepp", "constant, copy and zero experts; carried logits (Jin et al. 2024)", axes, CarriedGate)
