"""Shared experts as in DeepSeek-V3: sigmoid scores, and a bias of the choice that balances without a loss."""

from __future__ import annotations

from .base import Axes, Router, Sizes, Spec
from .shared_v2 import SHARED


def axes(sizes: Sizes, spec: Spec) -> Axes:
    """g = 2.5 s / sum of the chosen s, chosen by s + b; LibMoE has a balance loss, and neither bias nor factor."""
    common = Axes(
        num_experts=sizes.n_experts - SHARED,
        num_experts_per_tok=sizes.top_k - SHARED,
        scoring_func="sigmoid",
        shared_experts=SHARED,
    )
    if spec == "paper":
        common.routed_scaling_factor = 2.5
        common.selection_bias, common.bias_update = True, 1e-3
        common.balance, common.balance_weight = "none", 0.0
    return common


ROUTER = Router("shared_v3", "sigmoid with a balancing bias beside a shared FFN (DeepSeek-AI 2024, V3)", axes)
