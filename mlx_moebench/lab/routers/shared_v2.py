"""Shared experts as in DeepSeek-V2: two of the K are an FFN that every token goes through."""

from __future__ import annotations

from .base import Axes, Router, Sizes, Spec

SHARED = 2
"""Experts that are shared: so many fewer are routed, and chosen."""


def axes(sizes: Sizes, spec: Spec) -> Axes:
    """N - 2 routed experts, K - 2 chosen, softmax, renormalised; one shared FFN of two widths is added."""
    return Axes(num_experts=sizes.n_experts - SHARED, num_experts_per_tok=sizes.top_k - SHARED, shared_experts=SHARED)


ROUTER = Router("shared_v2", "softmax beside a shared FFN (DeepSeek-AI 2024, V2)", axes)
