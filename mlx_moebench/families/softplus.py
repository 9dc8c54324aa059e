"""Sigmoid, softmax or sqrt(softplus) scores, by a setting, of logits that a soft cap or a temperature changed."""

from __future__ import annotations

from dataclasses import replace

from .base import Family, InTransformers, RouterForm, in_transformers
from .layers import all_layers, learned, listed_types
from .rules import Rule
from .settings import Key

_BIAS = "mlp.gate.e_score_correction_bias"
_LAGUNA = Rule(
    Key("moe_router_score_func", "sigmoid"),
    normalise=True,
    scale=Key("moe_routed_scaling_factor", 1.0),
    soft_cap=Key("moe_router_logit_softcapping", 0.0),
)
_V4 = Rule(Key("scoring_func", "sqrtsoftplus"), normalise=True, epsilon=1e-20, scale=Key("routed_scaling_factor", 1.5))

FAMILIES = (
    Family(
        name="laguna",
        model_types=("laguna",),
        routers=(
            RouterForm(
                "mlp",
                "mlp.gate.proj",
                "mlp.switch_mlp",
                _LAGUNA,
                _BIAS,
                # transformers' gate returns logits that are capped already.
                torch=InTransformers(
                    bias=_BIAS, rule=replace(_LAGUNA, score="sigmoid", soft_cap=0.0), scaled_after=True
                ),
            ),
        ),
        n_experts=("num_experts", "num_local_experts"),
        top_k="num_experts_per_tok",
        layers=listed_types,
        public=("poolside/Laguna-XS.2",),
    ),
    Family(
        name="deepseek_v41",
        model_types=("deepseek_v41", "deepseek_v41_text"),
        routers=(
            RouterForm(
                "mlp",
                "mlp.gate",
                "mlp.experts.switch_mlp",
                Rule(
                    Key("scoring_func", "sqrtsoftplus"),
                    normalise=Key("norm_topk_prob", True),
                    keeps_single=True,
                    epsilon=1e-20,
                    scale=Key("routed_scaling_factor", 1.5),
                    temperature=Key("gate_temp", 1.0),
                ),
                _BIAS,
                seam="raw_float32",
            ),
        ),
        n_experts="n_routed_experts",
        top_k="num_experts_per_tok",
        layers=all_layers,
        untrainable="mlx-lm takes the scores of the chosen experts without stopping the gradient of their indices, and "
        "MLX refuses that",
    ),
    in_transformers(
        "deepseek_v4",
        rule=_V4,
        place=InTransformers(bias=_BIAS),
        n_experts=("n_routed_experts", "num_local_experts"),
        layers=learned,
        torch_layers=learned,
        public=("deepseek-ai/DeepSeek-V4-Flash",),
    ),
    in_transformers(
        "inkling2",
        "inkling2_text",
        "inkling2_loop",
        "inkling2_loop_text",
        rule=replace(
            _V4, score=Key("scoring_func", "sigmoid"), scale=Key(("routed_scaling_factor", "route_scale"), 1.0)
        ),
        place=InTransformers(bias=_BIAS),
        n_experts=("n_routed_experts", "num_local_experts"),
    ),
)
