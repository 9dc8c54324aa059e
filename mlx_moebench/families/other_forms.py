"""Models of transformers that route as no declaration here describes: known, each with the reason, and not measured."""

from __future__ import annotations

from .base import Family

_REASONS = {
    ("doge",): (
        "its experts are single vectors found by product keys, and transformers takes the two halves of the keys from "
        "other tokens of the batch, so that no token has scores of its own"
    ),
    ("switch_transformers",): (
        "it is an encoder-decoder with a capacity for each expert, beyond which tokens get no expert at all"
    ),
    ("nllb-moe",): (
        "it is an encoder-decoder with a capacity for each expert, beyond which tokens get no expert at all"
    ),
    ("zaya",): (
        "its routers may skip the experts, with a weight of 0 that no rule here gives, and carry a state from layer to "
        "layer"
    ),
    ("inkling_mm_model", "inkling_text"): (
        "its shared experts have logits of their own and share the sum that gate weights are divided by"
    ),
    ("diffusion_gemma", "diffusion_gemma_text"): (
        "it fills in blocks of text by diffusion, and no token is predicted from those before it"
    ),
    ("openai_privacy_filter",): "it labels tokens in both directions, and predicts none",
    ("qwen3_omni_moe",): (
        "it is two models, of which the one that writes is measured where it is saved alone, as qwen3_omni_moe_thinker"
    ),
    ("qwen3_omni_moe_talker_text",): "it continues codes of speech, not text",
}

FAMILIES = tuple(
    Family(name=types[0], model_types=types, routers=(), n_experts=(), top_k=(), only_torch=True, unavailable=reason)
    for types, reason in _REASONS.items()
)
