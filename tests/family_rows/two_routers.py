"""Two routers in every block, one over attention heads and one over MLPs; top-k, then softmax over the chosen."""

from __future__ import annotations

from .base import SIZES, Real, Row

ROWS = [
    Row(
        "jetmoe",
        SIZES
        | {
            "architectures": ["JetMoeForCausalLM"],
            "model_type": "jetmoe",
            "num_key_value_heads": 2,
            "kv_channels": 16,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
        },
        [("attention", 8, 3), ("mlp", 8, 3)],
        variants=({"num_experts_per_tok": 1},),
        real={
            # JetMoeConfig of transformers with num_hidden_layers=24; its docstring names jetmoe/jetmoe-8b
            "JetMoE-8B": Real(
                {
                    "model_type": "jetmoe",
                    "hidden_size": 2048,
                    "intermediate_size": 5632,
                    "num_hidden_layers": 24,
                    "num_key_value_heads": 16,
                    "kv_channels": 128,
                    "num_local_experts": 8,
                    "num_experts_per_tok": 2,
                    "vocab_size": 32000,
                },
                [("attention", 8, 2), ("mlp", 8, 2)],
                8_522_237_952,
            ),
        },
        block=("self_attention", "mlp"),
        gate=("self_attention.router", "mlp.router"),
        experts=("self_attention.experts", "mlp.experts"),
        random=("self_attention.bias", "mlp.bias"),
        note="not in mlx-lm; bias is added to the block's output; experts are called with a third argument",
    ),
]
