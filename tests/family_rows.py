"""The table of families: one row each, from which the tests build a tiny random model of it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """config: of a tiny model with three blocks. routers: (router, E, K) of one block, in running order."""

    model_type: str
    config: dict[str, Any]
    routers: list[tuple[str, int, int]]


_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-5,
    "vocab_size": 320,
    "eos_token_id": 0,
}

ROWS = [
    Row(
        "olmoe",
        _SIZES
        | {
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "norm_topk_prob": False,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        [("mlp", 8, 2)],
    ),
    Row(
        "mixtral",
        _SIZES
        | {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": False,
        },
        [("mlp", 4, 2)],
    ),
    Row(
        "qwen2_moe",
        _SIZES
        | {
            "architectures": ["Qwen2MoeForCausalLM"],
            "model_type": "qwen2_moe",
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
            "tie_word_embeddings": False,
        },
        [("mlp", 6, 3)],
    ),
    Row(
        "jetmoe",
        _SIZES
        | {
            "architectures": ["JetMoeForCausalLM"],
            "model_type": "jetmoe",
            "num_key_value_heads": 2,
            "kv_channels": 16,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
        },
        [("attention", 8, 3), ("mlp", 8, 3)],
    ),
]

CONFIGS = {row.model_type: row.config for row in ROWS}
