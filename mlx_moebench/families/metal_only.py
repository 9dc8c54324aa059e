"""Muse Spark: sigmoid scores and a bias in a Metal kernel; known, and not measured."""

from __future__ import annotations

from .base import Family, InTransformers, RouterForm
from .layers import all_layers
from .rules import Rule
from .settings import Key

_RULE = Rule("sigmoid", normalise=True, epsilon=1e-15, scale=Key("routed_scaling_factor", 1.0))

FAMILIES = (
    Family(
        name="muse_spark",
        model_types=("muse_spark",),
        routers=(
            RouterForm(
                "mlp",
                "feed_forward.gate",
                "feed_forward.experts",
                _RULE,
                seam="raw",
                # Its logits are multiplied by output_multiplier already.
                torch=InTransformers(bias="mlp.gate.e_score_correction_bias"),
            ),
        ),
        n_experts="num_local_experts",
        top_k="num_experts_per_tok",
        layers=all_layers,
        unavailable=(
            "mlx-lm chooses and weighs its experts inside a Metal kernel and never calls the gate, so what it chose "
            "cannot be checked where this was built"
        ),
    ),
)
