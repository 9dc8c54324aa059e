"""Sigmoid with a selection bias, groups by the sum of their two largest, by a gate that returns (indices, weights)."""

from __future__ import annotations

import math

from .base import GROUPED, HEADS, LATENT, SIZES, Row, in_text

_DEEPSEEK_V3 = (
    SIZES
    | LATENT
    | GROUPED
    | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "first_k_dense_replace": 1,
        "max_position_embeddings": 512,
        "n_shared_experts": 1,
        "rope_theta": 10000.0,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }
)
_KIMI_VL = {
    "model_type": "kimi_vl",
    "eos_token_id": 0,
    "text_config": _DEEPSEEK_V3 | {"moe_layer_freq": 2, "num_hidden_layers": 5},
}
_KIMI_K25 = {
    "architectures": ["Kimi_K25ForConditionalGeneration"],
    "model_type": "kimi_k25",
    "eos_token_id": 0,
    "text_config": _DEEPSEEK_V3 | {"model_type": "kimi_k2"},
}
_INDEXED = {"index_head_dim": 32, "index_n_heads": 2, "index_topk": 8}
_GLM4_MOE = (
    SIZES
    | HEADS
    | GROUPED
    | {
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "attention_bias": True,
        "first_k_dense_replace": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "n_shared_experts": 1,
        "partial_rotary_factor": 0.5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "use_qk_norm": True,
    }
)
_BIAS = "mlp.gate.e_score_correction_bias"
_UNNORMALISED = {"norm_topk_prob": False}
_UNGROUPED = {"n_group": 1, "topk_group": 1}

ROWS = [
    Row(
        "deepseek_v3",
        _DEEPSEEK_V3,
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=(_UNNORMALISED, _UNGROUPED),
        aliases=("kimi_k2", "joyai_llm_flash"),
        bias=_BIAS,
        fill=0.0,
        note="no epsilon in the norm; scoring_func is not read",
    ),
    Row(
        "kimi_vl",
        _KIMI_VL,
        [("mlp", 16, 3)],
        layers=(2, 4),
        variants=in_text(_KIMI_VL, _UNNORMALISED),
        bias=_BIAS,
        fill=0.0,
        note="as deepseek_v3",
    ),
    Row(
        "kimi_k25",
        _KIMI_K25,
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=in_text(_KIMI_K25, _UNNORMALISED),
        bias=_BIAS,
        fill=0.0,
        note="as deepseek_v3",
    ),
    Row(
        "deepseek_v32",
        _DEEPSEEK_V3 | _INDEXED | {"architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32"},
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=(_UNNORMALISED, _UNGROUPED),
        bias=_BIAS,
        fill=0.0,
        note="as deepseek_v3",
    ),
    Row(
        "glm_moe_dsa",
        _DEEPSEEK_V3
        | _INDEXED
        | {
            "architectures": ["GlmMoeDsaForCausalLM"],
            "model_type": "glm_moe_dsa",
            "attention_bias": False,
            "moe_layer_freq": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=(_UNNORMALISED, _UNGROUPED),
        bias=_BIAS,
        fill=0.0,
        note="as deepseek_v3",
    ),
    Row(
        "glm4_moe",
        _GLM4_MOE,
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=(_UNNORMALISED, _UNGROUPED),
        bias=_BIAS,
        fill=0.0,
        note="no epsilon in the norm",
    ),
    Row(
        "solar_open",
        _GLM4_MOE
        | {
            "architectures": ["SolarOpenForCausalLM"],
            "model_type": "solar_open",
            "attention_bias": False,
            "first_k_dense_replace": 0,
            "use_qk_norm": False,
        },
        [("mlp", 16, 3)],
        variants=(_UNNORMALISED, _UNGROUPED),
        bias=_BIAS,
        fill=0.0,
        note="as glm4_moe; transformers has no dense block here, so a config that has some is refused",
    ),
    Row(
        "glm4_moe_lite",
        _DEEPSEEK_V3
        | {
            "architectures": ["Glm4MoeLiteForCausalLM"],
            "model_type": "glm4_moe_lite",
            "num_hidden_layers": 4,
            "first_k_dense_replace": 2,
        },
        [("mlp", 16, 3)],
        layers=(2, 3),
        variants=(_UNNORMALISED, _UNGROUPED),
        bias=_BIAS,
        fill=0.0,
    ),
    Row(
        "mimo_v2_flash",
        SIZES
        | HEADS
        | GROUPED
        | {
            "architectures": ["MiMoV2FlashForCausalLM"],
            "model_type": "mimo_v2_flash",
            "add_full_attention_sink_bias": False,
            "add_swa_attention_sink_bias": True,
            "head_dim": 16,
            "hybrid_layer_pattern": [0, 1, 1],
            "layernorm_epsilon": 1e-5,
            "max_position_embeddings": 512,
            "moe_layer_freq": [1, 0, 1],
            "n_shared_experts": 1,
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
            "scoring_func": "sigmoid",
            "sliding_window_size": 8,
            "swa_head_dim": 16,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_rope_theta": 500.0,
            "swa_v_head_dim": 16,
            "topk_method": "noaux_tc",
            "v_head_dim": 16,
        },
        [("mlp", 16, 3)],
        layers=(0, 2),
        variants=(_UNNORMALISED, _UNGROUPED, {"n_shared_experts": None}),
        bias=_BIAS,
        fill=0.0,
        note="a scale of null is 1",
    ),
    Row(
        "exaone_moe",
        SIZES
        | HEADS
        | {
            "architectures": ["ExaoneMoeForCausalLM"],
            "model_type": "exaone_moe",
            "head_dim": 16,
            "is_moe_layer": [False, True, True],
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "max_position_embeddings": 512,
            "moe_intermediate_size": 32,
            "n_group": 4,
            "norm_topk_prob": True,
            "num_experts": 16,
            "num_experts_per_tok": 3,
            "num_shared_experts": 1,
            "rope_theta": 10000.0,
            "routed_scaling_factor": 1.7,
            "sliding_window": 8,
            "tie_word_embeddings": False,
            "topk_group": 2,
        },
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=(_UNNORMALISED, _UNGROUPED),
        bias=_BIAS,
        fill=0.0,
    ),
    Row(
        "dots1",
        SIZES
        | HEADS
        | GROUPED
        | {
            "architectures": ["Dots1ForCausalLM"],
            "model_type": "dots1",
            "first_k_dense_replace": 1,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "n_shared_experts": 1,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        [("mlp", 16, 3)],
        layers=(1, 2),
        variants=(_UNNORMALISED, _UNGROUPED),
        experts="mlp.experts",
        bias=_BIAS,
        fill=0.0,
        note="no epsilon in the norm; groups count wherever n_group differs from topk_group",
    ),
    Row(
        "nemotron_h",
        SIZES
        | HEADS
        | GROUPED
        | {
            "architectures": ["NemotronHForCausalLM"],
            "model_type": "nemotron_h",
            "attention_bias": False,
            "conv_kernel": 4,
            "head_dim": 16,
            "hybrid_override_pattern": "M-E*E",
            "layer_norm_epsilon": 1e-5,
            "mamba_head_dim": 16,
            "mamba_num_heads": 4,
            "mamba_proj_bias": False,
            "max_position_embeddings": 512,
            "mlp_bias": False,
            "moe_latent_size": 32,
            "moe_shared_expert_intermediate_size": 32,
            "n_groups": 2,
            "n_shared_experts": 1,
            "num_hidden_layers": 5,
            "ssm_state_size": 16,
            "use_bias": False,
            "use_conv_bias": True,
        },
        [("mlp", 16, 3)],
        layers=(2, 4),
        variants=(_UNNORMALISED, _UNGROUPED, {"moe_latent_size": None}),
        block="mixer",
        gate="mixer.gate",
        experts="mixer.switch_mlp",
        bias="mixer.gate.e_score_correction_bias",
        fill=0.0,
        note="a layer is one mixer: Mamba, attention, an MLP or a sparse block; experts are SwitchMLP and latent where"
        " moe_latent_size is set: they get fc1_latent_proj(x), the gate gets x; caches are only for Mamba and "
        "attention layers",
    ),
    Row(
        "bailing_moe_v3",
        SIZES
        | LATENT
        | {
            "architectures": ["BailingMoeV3ForCausalLM"],
            "model_type": "bailing_moe_v3",
            "first_k_dense_replace": 1,
            "head_dim": 32,
            "layer_group_size": 2,
            "max_position_embeddings": 512,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 32,
            "n_group": 4,
            "num_experts": 16,
            "num_experts_per_tok": 3,
            "num_shared_experts": 1,
            "rope_theta": 10000.0,
            "routed_scaling_factor": 1.7,
            "topk_group": 2,
        },
        [("mlp", 16, 3)],
        layers=(1, 2),
        bias="mlp.gate.expert_bias",
        fill=-math.inf,
        note="checkpoints say model_type bailing_hybrid, with this architecture; always renormalised",
    ),
]
