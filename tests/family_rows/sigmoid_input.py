"""Top-1 of the logits; the sigmoid of the chosen one scales the expert's input."""

from __future__ import annotations

from .base import HEADS, SIZES, Row

ROWS = [
    Row(
        "llama4",
        {
            "architectures": ["Llama4ForConditionalGeneration"],
            "model_type": "llama4",
            "eos_token_id": 0,
            "text_config": SIZES
            | HEADS
            | {
                "model_type": "llama4_text",
                "attention_bias": False,
                "attention_chunk_size": 8,
                "head_dim": 16,
                "interleave_moe_layer_step": 2,
                "intermediate_size_mlp": 64,
                "max_position_embeddings": 512,
                "num_experts_per_tok": 1,
                "num_hidden_layers": 4,
                "num_local_experts": 6,
                "rope_scaling": None,
                "rope_theta": 10000.0,
                "use_qk_norm": True,
            },
        },
        [("mlp", 6, 1)],
        layers=(1, 3),
        block="feed_forward",
        gate="feed_forward.router",
        experts="feed_forward.experts",
        scales_input=True,
        note="experts are called with x * sigmoid(logit), their output is not weighted; K must be 1; a shared expert "
        "is added; the block needs x of three dimensions",
    ),
]
