"""sigma-MoE: sigmoid scores, which are the weights themselves."""

from __future__ import annotations

from .base import Axes, Router, Sizes, Spec


def axes(sizes: Sizes, spec: Spec) -> Axes:
    """g = sigmoid(z) of the chosen, expert dropout, rows of one norm, entropy regulariser; LibMoE has none of these."""
    if spec == "libmoe":
        return Axes(num_experts=sizes.n_experts, num_experts_per_tok=sizes.top_k, scoring_func="sigmoid")
    return Axes(
        num_experts=sizes.n_experts,
        num_experts_per_tok=sizes.top_k,
        scoring_func="sigmoid",
        norm_topk_prob=False,
        expert_dropout=0.05,
        unit_rows=True,
        balance="entropy",
    )


ROUTER = Router("sigma", "sigmoid scores without renormalisation (Csordas et al. 2023)", axes)
