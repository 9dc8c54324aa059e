"""Phi-3.5-MoE: sparsemixer, one choice after the other."""

from __future__ import annotations

from .base import Family, InTransformers, RouterForm
from .rules import Rule
from .settings import Key

FAMILIES = (
    Family(
        name="phimoe",
        model_types=("phimoe",),
        routers=(
            RouterForm(
                "mlp",
                "block_sparse_moe.gate",
                "block_sparse_moe.switch_mlp",
                Rule("sparsemixer", jitter=Key("router_jitter_noise", 0.01)),
                torch=InTransformers("mlp.router"),
            ),
        ),
        n_experts="num_local_experts",
        top_k="num_experts_per_tok",
        public=("microsoft/Phi-3.5-MoE-instruct",),
    ),
)
