"""Llama 4: the best expert, whose input is multiplied by the sigmoid of its logit; beside a shared expert."""

from __future__ import annotations

from .base import Family, InTransformers, RouterForm, in_transformers
from .layers import interleaved, listed_or_interleaved
from .rules import Rule
from .writers import NULL, fixed

_RULE = Rule("sigmoid")
_IN_TRANSFORMERS = InTransformers("feed_forward.router", "feed_forward.experts", output="scores_logits")

FAMILIES = (
    Family(
        name="llama4",
        model_types=("llama4",),
        routers=(
            RouterForm(
                "mlp",
                "feed_forward.router",
                "feed_forward.experts",
                _RULE,
                scales_input=True,
                torch=_IN_TRANSFORMERS,
            ),
        ),
        n_experts="num_local_experts",
        top_k="num_experts_per_tok",
        layers=interleaved,
        torch_layers=listed_or_interleaved,
        others={"rope_scaling": fixed(NULL)},
        public=("meta-llama/Llama-4-Scout-17B-16E-Instruct", "meta-llama/Llama-4-Maverick-17B-128E-Instruct"),
    ),
    in_transformers(
        "llama4_text",
        rule=_RULE,
        place=_IN_TRANSFORMERS,
        n_experts="num_local_experts",
        layers=listed_or_interleaved,
        unavailable="mlx-lm's model of this name is dense, and reads routers inside the whole llama4 only",
    ),
)
