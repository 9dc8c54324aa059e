"""Top-k one by one, each weight a softmax over the logits near the largest that is left."""

from __future__ import annotations

from .base import HEADS, SIZES, Row

ROWS = [
    Row(
        "phimoe",
        SIZES
        | HEADS
        | {
            "architectures": ["PhimoeForCausalLM"],
            "model_type": "phimoe",
            "max_position_embeddings": 512,
            "num_experts_per_tok": 2,
            "num_local_experts": 8,
            "original_max_position_embeddings": 512,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "router_jitter_noise": 0.2,
        },
        [("mlp", 8, 2)],
        block="block_sparse_moe",
        gate="block_sparse_moe.gate",
        experts="block_sparse_moe.switch_mlp",
        note="weights do not sum to 1; the band around the largest logit is 2 * router_jitter_noise wide, relative to "
        "max(|logit|, largest)",
    ),
]
