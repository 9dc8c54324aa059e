"""Sigmoid or softmax scores, by a setting; a bias for the choice alone, groups; in a gate with a linear layer."""

from __future__ import annotations

from dataclasses import replace

from .base import Family, InTransformers, RouterForm
from .layers import after_dense, after_first_dense
from .rules import Groups, Rule
from .settings import Key
from .writers import first_of_types, fixed, kimi_delta_attention

_KIMI_GROUPS = Groups(Key(("num_expert_group", "n_group"), 1), Key("topk_group", 1))
_KIMI_NORM = Key(("moe_renormalize", "norm_topk_prob"), True)
_IN_TRANSFORMERS = InTransformers(
    bias="mlp.gate.e_score_correction_bias",
    rule=Rule(
        "sigmoid",
        groups=replace(_KIMI_GROUPS, fill=float("-inf")),
        normalise=_KIMI_NORM,
        epsilon=1e-20,
        scale=Key("routed_scaling_factor", 1.0),
    ),
)
_KIMI = RouterForm(
    "mlp",
    "mlp.gate",
    "mlp.switch_mlp",
    Rule(
        Key("moe_router_activation_func", "sigmoid"),
        groups=_KIMI_GROUPS,
        normalise=_KIMI_NORM,
        keeps_single=True,
        epsilon=1e-20,
        scale=Key("routed_scaling_factor", 1.0),
    ),
    "mlp.e_score_correction_bias",
    torch=_IN_TRANSFORMERS,
)
_BAILING = RouterForm(
    "mlp",
    "mlp.gate.gate_proj",
    "mlp.switch_mlp",
    Rule(
        Key("score_function", "softmax"),
        groups=Groups(Key("n_group", 1), Key("topk_group", 4)),
        normalise=Key("norm_topk_prob", True),
        keeps_single=True,
        epsilon=1e-20,
        scale=Key("routed_scaling_factor", 1.0),
    ),
    "mlp.gate.expert_bias",
)

FAMILIES = (
    Family(
        name="afmoe",
        model_types=("afmoe",),
        routers=(
            RouterForm(
                "mlp",
                "mlp.router.gate",
                "mlp.experts",
                Rule(
                    Key("score_func", "sigmoid"),
                    groups=Groups(Key("n_group", 1), Key("topk_group", 1)),
                    normalise=Key("route_norm", True),
                    keeps_single=True,
                    scale=Key("route_scale", 1.0),
                ),
                "mlp.expert_bias",
                torch=InTransformers(
                    "mlp.router",
                    bias="mlp.expert_bias",
                    rule=Rule("sigmoid", normalise=True, epsilon=1e-20, scale=Key("route_scale", 1.0)),
                ),
            ),
        ),
        n_experts=("num_experts", "num_local_experts"),
        top_k="num_experts_per_tok",
        layers=after_dense,
        public=("arcee-ai/Trinity-Mini",),
    ),
    Family(
        name="kimi_linear",
        model_types=("kimi_linear",),
        routers=(_KIMI,),
        n_experts=("num_experts", "num_local_experts"),
        top_k=("num_experts_per_token", "num_experts_per_tok"),
        layers=after_first_dense,
        dense=True,
        others={
            "first_k_dense_replace": first_of_types,
            "linear_attn_config": kimi_delta_attention,
            "rope_theta": fixed(10000.0),  # it has no rotary embedding
            "mla_use_nope": fixed(True),
        },
        public=("moonshotai/Kimi-Linear-48B-A3B-Instruct",),
    ),
    Family(
        name="kimi_k3",
        model_types=("kimi_k3",),
        routers=(replace(_KIMI, rule=replace(_KIMI.rule, score="sigmoid"), torch=None),),
        n_experts=("num_experts", "num_local_experts"),
        top_k=("num_experts_per_token", "num_experts_per_tok"),
        layers=after_first_dense,
        dense=True,
        uncalled=("self_attention_res_proj", "mlp_res_proj"),
    ),
    Family(
        name="bailing_moe",
        model_types=("bailing_moe", "bailing_moe_linear"),
        routers=(_BAILING,),
        n_experts="num_experts",
        top_k="num_experts_per_tok",
        layers=after_first_dense,
        dense=True,
        public=("inclusionAI/Ling-lite-1.5", "inclusionAI/Ling-mini-2.0", "inclusionAI/Ring-mini-linear-2.0"),
    ),
    # Its groups fall out with -inf, for a bias may make a kept score negative.
    Family(
        name="bailing_hybrid",
        model_types=("bailing_hybrid",),
        routers=(
            replace(
                _BAILING,
                rule=replace(
                    _BAILING.rule,
                    score=Key("score_function", "sigmoid"),
                    groups=Groups(Key(("n_group", "num_expert_group"), 1), Key("topk_group", 1), fill=float("-inf")),
                    normalise=Key(("norm_topk_prob", "moe_renormalize"), True),
                ),
            ),
        ),
        n_experts=("num_experts", "num_local_experts"),
        top_k=("num_experts_per_tok", "num_experts_per_token"),
        layers=after_first_dense,
        dense=True,
    ),
)
