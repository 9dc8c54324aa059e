"""Softmax over all experts, groups by the sum of their two largest, then top-k."""

from __future__ import annotations

from .base import GROUPED, LATENT, SIZES, Row, in_text

_MISTRAL4 = (
    SIZES
    | LATENT
    | GROUPED
    | {
        "architectures": ["Mistral4ForCausalLM"],
        "model_type": "mistral4",
        "first_k_dense_replace": 1,
        "max_position_embeddings": 512,
        "n_shared_experts": 1,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "llama_4_scaling_beta": 0.3,
            "original_max_position_embeddings": 8,
        },
        "tie_word_embeddings": False,
    }
)
_MISTRAL3 = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "model_type": "mistral3",
    "eos_token_id": 0,
    "text_config": _MISTRAL4,
}

ROWS = [
    Row(
        "mistral4",
        _MISTRAL4,
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=({"norm_topk_prob": False}, {"n_group": 1, "topk_group": 1}),
        fill=0.0,
    ),
    Row(
        "mistral3",
        _MISTRAL3,
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=in_text(_MISTRAL3, {"norm_topk_prob": False}),
        aliases=("llava",),
        fill=0.0,
        note="sparse only where text_config is a mistral4; others of this model type are dense",
    ),
]
