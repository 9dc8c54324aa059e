"""Softmax over all experts, then top-k, by a gate with a bare weight that returns (indices, weights)."""

from __future__ import annotations

from .base import GROUPED, HEADS, LATENT, SIZES, Row

ROWS = [
    Row(
        "deepseek",
        SIZES
        | HEADS
        | {
            "model_type": "deepseek",
            "first_k_dense_replace": 1,
            "max_position_embeddings": 512,
            "moe_intermediate_size": 32,
            "moe_layer_freq": 2,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_experts_per_tok": 3,
            "num_hidden_layers": 5,
            "rope_theta": 10000.0,
        },
        [("mlp", 8, 3)],
        layers=(2, 4),
        note="never renormalised or scaled",
    ),
    Row(
        "deepseek_v2",
        SIZES
        | LATENT
        | GROUPED
        | {
            "architectures": ["DeepseekV2ForCausalLM"],
            "model_type": "deepseek_v2",
            "first_k_dense_replace": 1,
            "max_position_embeddings": 512,
            "n_shared_experts": 1,
            "norm_topk_prob": False,
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 0.7,
                "mscale_all_dim": 0.7,
            },
            "rope_theta": 10000.0,
            "topk_method": "group_limited_greedy",
        },
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=({"topk_method": "greedy"},),
        fill=0.0,
        note="groups by their largest probability, dropped ones get 0, and weights are read from what is left; never "
        "renormalised; scaled always; a rope_scaling of null fails",
    ),
]
