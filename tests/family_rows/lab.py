"""Models of the lab, whose router is a matter of settings; every router of it is tested in test_lab_routers."""

from __future__ import annotations

from .base import HEADS, SIZES, Row

ROWS = [
    Row(
        "moebench_lab",
        {
            "architectures": ["LabForCausalLM"],
            "model_type": "moebench_lab",
            "eos_token_id": 0,
            "head_dim": 12,
            "hidden_size": 64,
            "moe_intermediate_size": 32,
            "num_attention_heads": 4,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "num_hidden_layers": 3,
            "router": "smoe",
            "vocab_size": 320,
        },
        [("mlp", 8, 3)],
        variants=(
            {"norm_topk_prob": False, "routed_scaling_factor": 1.7},
            {"scoring_func": "sigmoid", "n_group": 4, "topk_group": 2},
            {"shared_experts": 2, "shared_scale": 0.5, "routed_scaling_factor": 0.5},
            {"router": "xmoe"},
        ),
        experts="mlp.experts",
        note="the block returns its output and its logits, which a router may be given by the one before it; the "
        "attention is narrower than the model",
    ),
    Row(
        "moebench_lab_llama",
        SIZES
        | HEADS
        | {
            "architectures": ["LabForCausalLM"],
            "model_type": "moebench_lab_llama",
            "moe_intermediate_size": 32,
            "moe_layers": [1, 2],
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "router": "smoe",
        },
        [("mlp", 8, 3)],
        layers=(1, 2),
        variants=(
            {"norm_topk_prob": False, "routed_scaling_factor": 1.7},
            {"shared_experts": 1, "shared_scale": 0.5, "routed_scaling_factor": 0.5},
        ),
        experts="mlp.experts",
        note="the block returns output and logits, as above; the networks of its experts are mlx-lm's, one level down",
    ),
]
