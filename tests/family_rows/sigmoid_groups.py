"""Sigmoid or softmax with a selection bias, groups by the sum of their two largest, by a Linear gate."""

from __future__ import annotations

import math

from .base import HEADS, LATENT, SIZES, Row, in_text

_KDA = {"head_dim": 32, "num_heads": 2, "short_conv_kernel_size": 4}
_KIMI = {
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid",
    "num_expert_group": 4,
    "num_experts": 16,
    "num_experts_per_token": 3,
    "num_shared_experts": 1,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.7,
    "topk_group": 2,
}
_KIMI_K3 = {
    "model_type": "kimi_k3",
    "eos_token_id": 0,
    "text_config": SIZES
    | LATENT
    | _KIMI
    | {
        "model_type": "kimi_linear",
        "activation_situ_beta": 2.0,
        "activation_situ_linear_beta": 3.0,
        "attn_res_block_size": 2,
        "hidden_act": "situ",
        "latent_moe_use_norm": True,
        "linear_attn_config": _KDA | {"full_attn_layers": [2, 4], "kda_layers": [1, 3, 5]},
        "mla_use_nope": True,
        "mla_use_output_gate": True,
        "moe_layer_freq": 2,
        "num_hidden_layers": 5,
        "routed_expert_hidden_size": 32,
    },
}
_BAILING = {
    "first_k_dense_replace": 1,
    "max_position_embeddings": 512,
    "moe_intermediate_size": 32,
    "moe_router_enable_expert_bias": True,
    "moe_shared_expert_intermediate_size": 32,
    "n_group": 4,
    "norm_topk_prob": True,
    "num_experts": 16,
    "num_experts_per_tok": 3,
    "num_shared_experts": 1,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.7,
    "score_function": "sigmoid",
    "topk_group": 2,
    "use_qk_norm": True,
}
_BAILING_VARIANTS = ({"norm_topk_prob": False}, {"score_function": "softmax"}, {"n_group": 1, "topk_group": 1})
_GROUP_NORM = {"group_norm_size": 2, "layer_group_size": 2}

ROWS = [
    Row(
        "afmoe",
        SIZES
        | HEADS
        | {
            "architectures": ["AfmoeForCausalLM"],
            "model_type": "afmoe",
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "max_position_embeddings": 512,
            "moe_intermediate_size": 32,
            "mup_enabled": True,
            "n_group": 4,
            "num_dense_layers": 1,
            "num_experts": 16,
            "num_experts_per_tok": 3,
            "num_shared_experts": 1,
            "rope_theta": 10000.0,
            "route_norm": True,
            "route_scale": 1.7,
            "score_func": "sigmoid",
            "sliding_window": 8,
            "tie_word_embeddings": False,
            "topk_group": 2,
        },
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=({"route_norm": False}, {"score_func": "softmax"}, {"n_group": 1, "topk_group": 1}),
        gate="mlp.router.gate",
        experts="mlp.experts",
        bias="mlp.expert_bias",
        fill=0.0,
        note="no epsilon in the norm; transformers has no groups",
    ),
    Row(
        "kimi_linear",
        SIZES
        | LATENT
        | _KIMI
        | {
            "architectures": ["KimiLinearForCausalLM"],
            "model_type": "kimi_linear",
            "head_dim": 32,
            "linear_attn_config": _KDA | {"full_attn_layers": [2], "kda_layers": [1, 3]},
            "mla_use_nope": True,
            "model_max_length": 512,
            "q_lora_rank": None,
            "tie_word_embeddings": False,
        },
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=(
            {"moe_renormalize": False},
            {"moe_router_activation_func": "softmax"},
            {"num_expert_group": 1, "topk_group": 1},
        ),
        bias="mlp.e_score_correction_bias",
        fill=0.0,
        note="transformers writes mlp_layer_types only, which is not read: block 0 would be sparse",
    ),
    Row(
        "kimi_k3",
        _KIMI_K3,
        [("mlp", 16, 3)],
        layers=(2, 4),
        variants=in_text(
            _KIMI_K3,
            {"moe_renormalize": False},
            {"num_expert_group": 1, "topk_group": 1},
            {"routed_expert_hidden_size": None, "latent_moe_use_norm": False},
        ),
        bias="mlp.e_score_correction_bias",
        fill=0.0,
        note="experts are latent: they get routed_expert_down_proj(x), the gate gets x, and the weighted sum is "
        "normalised and projected up; a config without text_config is taken as one",
    ),
    Row(
        "bailing_moe",
        SIZES | HEADS | _BAILING | {"model_type": "bailing_moe"},
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=_BAILING_VARIANTS,
        gate="mlp.gate.gate_proj",
        bias="mlp.gate.expert_bias",
        fill=0.0,
        note="scaled even where moe_router_enable_routed_scaling is false; without moe_router_enable_expert_bias the "
        "bias is None",
    ),
    Row(
        "bailing_moe_linear",
        SIZES | HEADS | _BAILING | _GROUP_NORM | {"model_type": "bailing_moe_linear"},
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=_BAILING_VARIANTS,
        gate="mlp.gate.gate_proj",
        bias="mlp.gate.expert_bias",
        fill=0.0,
        note="as bailing_moe, without an epsilon in the norm",
    ),
    Row(
        "bailing_hybrid",
        SIZES
        | LATENT
        | _BAILING
        | _GROUP_NORM
        | {"architectures": ["BailingMoeV2_5ForCausalLM"], "model_type": "bailing_hybrid", "head_dim": 32},
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=_BAILING_VARIANTS,
        gate="mlp.gate.gate_proj",
        bias="mlp.gate.expert_bias",
        fill=-math.inf,
        note="with the architecture BailingMoeV3ForCausalLM it is bailing_moe_v3; transformers writes "
        "num_expert_group, num_experts_per_token and moe_renormalize",
    ),
]
