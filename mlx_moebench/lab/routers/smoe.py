"""The plain sparse mixture: softmax, top-K, renormalised."""

from __future__ import annotations

from .base import Axes, Router, Sizes, Spec


def axes(sizes: Sizes, spec: Spec) -> Axes:
    """p = softmax(z), g = p / sum over the chosen; both specs agree."""
    return Axes(num_experts=sizes.n_experts, num_experts_per_tok=sizes.top_k)


ROUTER = Router("smoe", "softmax, top-K, renormalised (Shazeer et al. 2017; Fedus et al. 2022)", axes)
