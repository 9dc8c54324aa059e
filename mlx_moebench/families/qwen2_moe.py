"""Qwen1.5-MoE and Qwen2-MoE: softmax over all experts, then top-k, beside a shared expert that is not routed.

mlx-lm never renormalises the chosen probabilities and keeps no ``norm_topk_prob`` in a model's arguments, so the rule
here does not either; transformers does where its config says so. It also makes every block sparse, so it cannot load
a checkpoint in which ``decoder_sparse_step`` or ``mlp_only_layers`` leave some dense.
"""

from __future__ import annotations

from collections.abc import Sequence

from .base import Config, Family, RouterForm, all_layers, probabilities_of_chosen


def sparse_layers(config: Config) -> Sequence[int]:
    """Every ``decoder_sparse_step``-th block, the first after step - 1 dense ones, without ``mlp_only_layers``."""
    step, dense = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or ()
    return [layer for layer in all_layers(config) if (layer + 1) % step == 0 and layer not in dense]


FAMILY = Family(
    name="qwen2_moe",
    model_types=("qwen2_moe",),
    routers=(RouterForm("mlp", "mlp.gate", "mlp.switch_mlp", "softmax", probabilities_of_chosen),),
    n_experts="num_experts",
    top_k="num_experts_per_tok",
    layers=sparse_layers,
    built_in={"hidden_act": "silu", "norm_topk_prob": False, "rope_scaling": None, "use_sliding_window": False},
)
