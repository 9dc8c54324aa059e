"""LongCat: softmax scores and a bias over experts and zero experts, which hand the hidden states on as they are."""

from __future__ import annotations

from .base import Family, InTransformers, RouterForm
from .layers import counted_by
from .rules import Rule
from .settings import Key
from .writers import fixed

FAMILIES = (
    Family(
        name="longcat_flash",
        model_types=("longcat_flash", "longcat_flash_ngram"),
        routers=(
            RouterForm(
                "mlp",
                "mlp.router.classifier",
                "mlp.switch_mlp",
                Rule(
                    "softmax",
                    normalise=Key("norm_topk_prob", False),
                    epsilon=1e-20,
                    scale=Key("routed_scaling_factor", 1.0),
                ),
                "mlp.router.e_score_correction_bias",
                # Its experts are called with 0 wherever a zero expert was chosen.
                chooser="mlp.router",
                extra=Key("zero_expert_num", 0),
                torch=InTransformers(
                    "mlp.router",
                    bias="mlp.router.e_score_correction_bias",
                    rule=Rule("softmax", scale=Key("routed_scaling_factor", 6.0)),
                ),
            ),
        ),
        n_experts=("n_routed_experts", "num_local_experts"),
        top_k=("moe_topk", "num_experts_per_tok"),
        # transformers writes twice as many num_hidden_layers.
        layers=counted_by("num_layers"),
        others={
            "attention_method": fixed("MLA"),
            "zero_expert_type": fixed("identity"),
            "mla_scale_q_lora": fixed(True),
            "mla_scale_kv_lora": fixed(True),
        },
        public=("meituan-longcat/LongCat-Flash-Chat",),
    ),
)
