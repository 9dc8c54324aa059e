"""OLMoE: softmax over all experts, then top-k; the chosen probabilities are renormalised only if the config says so."""

from __future__ import annotations

from .base import Family, RouterForm, probabilities_of_chosen

FAMILY = Family(
    name="olmoe",
    model_types=("olmoe",),
    routers=(RouterForm("mlp", "mlp.gate", "mlp.switch_mlp", "softmax", probabilities_of_chosen),),
    n_experts="num_experts",
    top_k="num_experts_per_tok",
    built_in={"clip_qkv": None, "hidden_act": "silu"},
)
