"""XMoE: a reduced input, compared with expert vectors by its direction alone."""

from __future__ import annotations

import mlx.core as mx

from ...routing.record import Array
from .base import Axes, Gate, Router, Sizes, Spec, drawn

NORM, TEMPERATURE = 1.5, 0.3
"""The norm of expert vectors, and what the scaled cosines are divided by."""


class CosineGate(Gate):
    """z = 1.5 cos(W_red x, v_i) / 0.3; with ``double_softmax`` softmax(z) takes the place of z.

    A softmax is then less 1 / R, which a second one does not see: logits that sum to 1 would be taken for a
    distribution by whoever reads them.
    """

    def __init__(self, axes: Axes, hidden_size: int, moe_layer: int) -> None:
        super().__init__(axes, axes.num_experts // 2, moe_layer)
        self.reduce = drawn(axes.num_experts // 2, hidden_size)
        self._double = axes.double_softmax

    def __call__(self, x: Array) -> Array:
        """[..., D] -> [..., R]."""
        cosine = _unit(x @ self.reduce.T) @ _unit(self.weight).T
        z = cosine * (NORM / TEMPERATURE)
        return mx.softmax(z, axis=-1) - 1 / z.shape[-1] if self._double else z


def _unit(x: Array) -> Array:
    """x / |x| along the last axis, 0 where x is; the gradient goes through the norm."""
    return x * mx.rsqrt(mx.maximum(mx.square(x).sum(axis=-1, keepdims=True), 1e-24))


def axes(sizes: Sizes, spec: Spec) -> Axes:
    """As smoe, of cosines; LibMoE applies softmax to what is one already."""
    return Axes(num_experts=sizes.n_experts, num_experts_per_tok=sizes.top_k, double_softmax=spec == "libmoe")


ROUTER = Router("xmoe", "cosines in a space of N/2 dimensions (Chi et al. 2022)", axes, CosineGate)
