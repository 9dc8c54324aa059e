"""Sigmoid scores and a bias for the choice alone, without groups."""

from __future__ import annotations

from dataclasses import replace

from .base import Family, InTransformers, RouterForm, in_transformers
from .layers import after_dense, enumerated, every_nth_layer, listed_types, listed_types_or_flags
from .rules import Rule
from .settings import Key
from .writers import fixed, list_of_types, rotary_dim

_GATE_BIAS = "mlp.gate.e_score_correction_bias"
_NORMALISED = Rule("sigmoid", normalise=True, epsilon=1e-20)
_MINIMAX_M3 = replace(_NORMALISED, scale=Key("routed_scaling_factor", 2.0))
_MINIMAX_M3_PLACE = InTransformers(bias=_GATE_BIAS, scaled_after=True)

FAMILIES = (
    # transformers' `minimax` is MiniMax-Text-01, another model, which its architecture tells.
    Family(
        name="minimax",
        model_types=("minimax", "minimax_m2"),
        routers=(
            RouterForm(
                "mlp",
                "block_sparse_moe.gate",
                "block_sparse_moe.switch_mlp",
                _NORMALISED,
                "block_sparse_moe.e_score_correction_bias",
                torch=InTransformers(bias="mlp.e_score_correction_bias"),
            ),
        ),
        n_experts=("num_local_experts", "num_experts"),
        top_k="num_experts_per_tok",
        others={"rotary_dim": rotary_dim, "shared_intermediate_size": fixed(0)},
        public=("MiniMaxAI/MiniMax-M2",),
    ),
    Family(
        name="minimax_m3_vl",
        model_types=("minimax_m3_vl",),
        routers=(
            RouterForm(
                "mlp",
                "block_sparse_moe.gate",
                "block_sparse_moe.switch_mlp",
                _MINIMAX_M3,
                "block_sparse_moe.e_score_correction_bias",
                torch=_MINIMAX_M3_PLACE,
            ),
        ),
        n_experts=("num_local_experts", "num_experts"),
        top_k="num_experts_per_tok",
        layers=listed_types_or_flags,
        public=("MiniMaxAI/MiniMax-M3",),
    ),
    Family(
        name="lfm2_moe",
        model_types=("lfm2_moe",),
        routers=(
            RouterForm(
                "mlp",
                "feed_forward.gate",
                "feed_forward.switch_mlp",
                Rule(
                    "sigmoid",
                    normalise=Key("norm_topk_prob", True),
                    epsilon=1e-6,
                    scale=Key("routed_scaling_factor", 1.0),
                ),
                "feed_forward.expert_bias",
                torch=InTransformers("feed_forward.gate", "feed_forward.experts", "feed_forward.expert_bias"),
            ),
        ),
        n_experts="num_experts",
        top_k="num_experts_per_tok",
        layers=after_dense,
        public=("LiquidAI/LFM2-8B-A1B",),
    ),
    Family(
        name="Klear",
        model_types=("Klear",),
        routers=(
            RouterForm(
                "mlp",
                "mlp.gate",
                "mlp.experts",
                Rule("sigmoid", normalise=Key("norm_topk_prob", True)),
                "mlp.expert_bias",
            ),
        ),
        n_experts="num_experts",
        top_k="num_experts_per_tok",
        layers=every_nth_layer,
        dense=True,
        public=("Kwai-Klear/Klear-46B-A2.5B-Instruct",),
    ),
    Family(
        name="step3p5",
        model_types=("step3p5",),
        routers=(
            RouterForm(
                "mlp",
                "mlp.gate.gate",
                "mlp.switch_mlp",
                Rule(
                    "sigmoid",
                    normalise=Key("norm_expert_weight", True),
                    epsilon=1e-20,
                    scale=Key("moe_router_scaling_factor", 3.0),
                ),
                "mlp.gate.router_bias",
            ),
        ),
        n_experts=("moe_num_experts", "n_routed_experts"),
        top_k=("moe_top_k", "num_experts_per_tok"),
        layers=enumerated,
        others={"moe_layers_enum": list_of_types},
        public=("stepfun-ai/Step-3.5-Flash",),
    ),
    in_transformers(
        "minimax_m3_vl_text",
        rule=_MINIMAX_M3,
        place=_MINIMAX_M3_PLACE,
        n_experts=("num_local_experts", "num_experts"),
        layers=listed_types_or_flags,
    ),
    # With the language model of step3p5, which transformers cannot load alone.
    in_transformers(
        "step3p7",
        rule=replace(_NORMALISED, scale=Key("moe_router_scaling_factor", 1.0)),
        place=InTransformers(bias=_GATE_BIAS, scaled_after=True),
        n_experts=("n_routed_experts", "moe_num_experts"),
        top_k=("num_experts_per_tok", "moe_top_k"),
        layers=listed_types,
    ),
    in_transformers(
        "hy_v3",
        rule=replace(_NORMALISED, scale=Key("router_scaling_factor", 1.0)),
        place=InTransformers(bias="mlp.e_score_correction_bias"),
        layers=listed_types,
    ),
    in_transformers("flint", rule=Rule("sigmoid", normalise=Key("norm_topk_prob", False)), layers=every_nth_layer),
    in_transformers(
        "kolibri1",
        rule=Rule("sigmoid", normalise=Key("norm_topk_prob", False), biased="logits"),
        place=InTransformers(bias=_GATE_BIAS),
    ),
)
