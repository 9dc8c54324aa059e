"""Gemma 4: top-K of the logits of a normalised input, softmax over the chosen, times a learned scale per expert."""

from __future__ import annotations

from .base import Family, InTransformers, RouterForm
from .layers import where_enabled
from .rules import Rule

# transformers' router returns probabilities; the logits are what its projection gives.
_IN_TRANSFORMERS = InTransformers("router.proj", "experts", expert_scale="router.per_expert_scale", output="logits")

FAMILIES = (
    Family(
        name="gemma4",
        model_types=("gemma4_text", "gemma4", "gemma4_unified"),
        routers=(
            RouterForm(
                "mlp",
                "router.proj",
                "experts.switch_glu",
                Rule("softmax_of_chosen"),
                expert_scale="router.per_expert_scale",
                torch=_IN_TRANSFORMERS,
            ),
        ),
        n_experts="num_experts",
        top_k="top_k_experts",
        layers=where_enabled,
        dense=True,
        whole={
            "num_kv_shared_layers": "its last blocks attend to the keys and values of earlier ones",
            "hidden_size_per_layer_input": "each of its blocks reads embeddings of its own",
        },
        public=("google/gemma-4-26B-A4B-it",),
    ),
)
