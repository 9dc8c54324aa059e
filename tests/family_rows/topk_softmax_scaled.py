"""Top-k of the logits, then softmax over the chosen, times a learnt scale of each expert."""

from __future__ import annotations

from .base import HEADS, SIZES, Row, in_text

_GEMMA4_TEXT = (
    SIZES
    | HEADS
    | {
        "architectures": ["Gemma4ForCausalLM"],
        "model_type": "gemma4_text",
        "enable_moe_block": True,
        "global_head_dim": 32,
        "head_dim": 16,
        "hidden_size_per_layer_input": 0,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "max_position_embeddings": 512,
        "moe_intermediate_size": 32,
        "num_experts": 8,
        "num_kv_shared_layers": 0,
        "sliding_window": 8,
        "tie_word_embeddings": True,
        "top_k_experts": 3,
    }
)
_GEMMA4 = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "model_type": "gemma4",
    "eos_token_id": 0,
    "text_config": _GEMMA4_TEXT,
    "vocab_size": 320,
}
_PATHS = {
    "block": "experts",
    "gate": "router.proj",
    "experts": "experts.switch_glu",
    "random": ("router.scale", "router.per_expert_scale"),
}

ROWS = [
    Row(
        "gemma4_text",
        _GEMMA4_TEXT,
        [("mlp", 8, 3)],
        **_PATHS,
        note="router and experts stand beside a dense MLP in the layer; the gate's input is the residual stream, "
        "normalised and scaled, not the experts' input; block returns the weighted sum, which is normalised and "
        "added",
    ),
    Row(
        "gemma4",
        _GEMMA4,
        [("mlp", 8, 3)],
        variants=in_text(_GEMMA4, {"top_k_experts": 2}),
        aliases=("gemma4_unified",),
        **_PATHS,
        note="vocab_size is read outside text_config only",
    ),
]
