"""JetMoE: two routers per block, one over attention heads and one over MLPs; top-k, then softmax over the chosen."""

from __future__ import annotations

from .base import Family, RouterForm, softmax_of_chosen

FAMILY = Family(
    name="jetmoe",
    model_types=("jetmoe",),
    routers=(
        RouterForm(
            "attention",
            "self_attention.router",
            "self_attention.experts",
            "softmax_then_topk_derived",
            softmax_of_chosen,
            "self_attention.experts.router",
            "sorted_by_expert",
        ),
        RouterForm(
            "mlp",
            "mlp.router",
            "mlp.experts",
            "softmax_then_topk_derived",
            softmax_of_chosen,
            "mlp.router",
            "sorted_by_expert",
        ),
    ),
    n_experts="num_local_experts",
    top_k="num_experts_per_tok",
    port=True,
)
