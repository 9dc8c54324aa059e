"""Sigmoid of the scaled logits with a selection bias, in a Metal kernel."""

from __future__ import annotations

from .base import HEADS, SIZES, Row

ROWS = [
    Row(
        "muse_spark",
        {
            "architectures": ["MuseSparkForConditionalGeneration"],
            "model_type": "muse_spark",
            "eos_token_id": 0,
            "text_config": SIZES
            | HEADS
            | {
                "model_type": "muse_spark_text",
                "final_logit_softcapping": 20.0,
                "head_dim": 16,
                "layer_rope_theta": [10000.0, 0, 10000.0],
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                "moe_hidden_size": 32,
                "moe_intermediate_size": 32,
                "num_experts_per_tok": 3,
                "num_local_experts": 8,
                "output_multiplier": 0.3,
                "post_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
                "routed_scaling_factor": 1.7,
                "sliding_window": 8,
            },
        },
        [("mlp", 8, 3)],
        experts="mlp.experts",
        bias="mlp.gate.e_score_correction_bias",
        note="the gate is never called, the block reads its weight; logits are multiplied by output_multiplier; "
        "experts are latent; weights are applied inside a kernel, after a norm of each expert's output",
        unrunnable="its kernels are Metal's, and have no other form",
    ),
]
