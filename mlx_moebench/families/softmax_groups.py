"""Mistral 4: softmax over all experts, and a choice from the groups whose two best experts are best together."""

from __future__ import annotations

from dataclasses import replace

from .base import Family, InTransformers, RouterForm, in_transformers
from .layers import after_first_dense, listed_types
from .rules import Groups, Rule
from .settings import Key

_RULE = Rule(
    "softmax",
    groups=Groups(Key("n_group", 1), Key("topk_group", 1)),
    normalise=Key("norm_topk_prob", True),
    epsilon=1e-20,
    scale=Key("routed_scaling_factor", 1.0),
)

FAMILIES = (
    Family(
        name="mistral4",
        model_types=("mistral4", "mistral3", "llava"),
        routers=(RouterForm("mlp", "mlp.gate", "mlp.switch_mlp", _RULE, torch=InTransformers()),),
        n_experts=("n_routed_experts", "num_local_experts"),
        top_k="num_experts_per_tok",
        layers=after_first_dense,
        dense=True,
        public=("mistralai/Mistral-Small-4",),
    ),
    in_transformers(
        "mistral_large4",
        "mistral_large4_text",
        rule=replace(_RULE, normalise=True),
        n_experts=("n_routed_experts", "num_local_experts"),
        layers=listed_types,
    ),
)
