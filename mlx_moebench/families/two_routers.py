"""JetMoE: two routers per block, one over attention heads and one over MLPs; top-K, then softmax over the chosen."""

from __future__ import annotations

from .base import Family, InTransformers, RouterForm
from .rules import Rule

_RULE = Rule("softmax_of_chosen")

FAMILIES = (
    Family(
        name="jetmoe",
        model_types=("jetmoe",),
        routers=(
            RouterForm(
                "attention",
                "self_attention.router",
                "self_attention.experts",
                _RULE,
                torch=InTransformers("self_attention.experts.router", output="sorted_by_expert"),
            ),
            RouterForm(
                "mlp",
                "mlp.router",
                "mlp.experts",
                _RULE,
                torch=InTransformers("mlp.router", output="sorted_by_expert"),
            ),
        ),
        n_experts="num_local_experts",
        top_k="num_experts_per_tok",
        module="mlx_moebench.models.jetmoe",
        public=("jetmoe/jetmoe-8b",),
    ),
)
