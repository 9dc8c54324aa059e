"""Qwen1.5-MoE and Qwen2-MoE: softmax over all experts, then top-k, beside a shared expert that is not routed.

mlx-lm never renormalises the chosen probabilities and keeps no ``norm_topk_prob`` in a model's arguments, so the rule
here does not either; transformers does where its config says so. It also makes every block sparse, so it cannot load
a checkpoint in which ``decoder_sparse_step`` or ``mlp_only_layers`` leave some dense.
"""

from __future__ import annotations

from .base import Family, RouterForm, every_nth_layer, probabilities_of_chosen

FAMILY = Family(
    name="qwen2_moe",
    model_types=("qwen2_moe",),
    routers=(RouterForm("mlp", "mlp.gate", "mlp.switch_mlp", "softmax", probabilities_of_chosen),),
    n_experts="num_experts",
    top_k="num_experts_per_tok",
    layers=every_nth_layer,
    built_in={"hidden_act": "silu", "norm_topk_prob": False, "rope_scaling": None, "use_sliding_window": False},
)
