"""OLMoE: softmax over all experts, then top-k; the chosen probabilities are renormalised only if the config says so."""

from __future__ import annotations

from array_api_compat import array_namespace

from ..routing.record import Array
from .base import Config, Family, RouterForm, softmax


def gate_weights(logits: Array, indices: Array, config: Config) -> Array:
    """g = p at the chosen experts, divided by their sum where ``norm_topk_prob`` is set. [..., K]."""
    xp = array_namespace(logits)
    chosen = xp.take_along_axis(softmax(logits), indices, axis=-1)
    return chosen / xp.sum(chosen, axis=-1, keepdims=True) if config.get("norm_topk_prob") else chosen


FAMILY = Family(
    name="olmoe",
    model_types=("olmoe",),
    routers=(RouterForm("mlp", "mlp.gate", "mlp.switch_mlp", "softmax", gate_weights),),
    n_experts="num_experts",
    top_k="num_experts_per_tok",
)
