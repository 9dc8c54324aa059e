"""Mixtral: top-k of the logits, then softmax over the chosen."""

from __future__ import annotations

from .base import Family, RouterForm, softmax_of_chosen

FAMILY = Family(
    name="mixtral",
    model_types=("mixtral",),
    routers=(
        RouterForm(
            "mlp",
            "block_sparse_moe.gate",
            "block_sparse_moe.switch_mlp",
            "softmax_then_topk_derived",
            softmax_of_chosen,
        ),
    ),
    n_experts="num_local_experts",
    top_k="num_experts_per_tok",
    built_in={"hidden_act": "silu", "rope_scaling": None, "sliding_window": None},
)
