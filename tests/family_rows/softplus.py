"""Sigmoid, or the root of softplus, with a selection bias, of logits that are capped or divided by a temperature."""

from __future__ import annotations

from .base import HEADS, SIZES, Row

ROWS = [
    Row(
        "laguna",
        SIZES
        | HEADS
        | {
            "architectures": ["LagunaForCausalLM"],
            "model_type": "laguna",
            "gating": True,
            "head_dim": 16,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "max_position_embeddings": 512,
            "mlp_layer_types": ["sparse", "dense", "sparse"],
            "moe_intermediate_size": 32,
            "moe_routed_scaling_factor": 1.7,
            "moe_router_logit_softcapping": 1.5,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
            "shared_expert_intermediate_size": 32,
            "sliding_window": 8,
            "tie_word_embeddings": False,
        },
        [("mlp", 8, 3)],
        layers=(0, 2),
        variants=({"moe_router_logit_softcapping": 0.0}, {"moe_router_score_func": "sqrtsoftplus"}),
        gate="mlp.gate.proj",
        bias="mlp.gate.e_score_correction_bias",
        note="logits are capped by tanh where moe_router_logit_softcapping > 0; always renormalised, without an "
        "epsilon; the scale multiplies the weighted sum, before the shared expert is added",
    ),
    Row(
        "deepseek_v41",
        SIZES
        | {
            "model_type": "deepseek_v41",
            "compress_ratios": [0, 4, 4],
            "gate_temp": 1.3,
            "hc_mult": 2,
            "hc_sinkhorn_iters": 4,
            "head_dim": 24,
            "index_head_dim": 24,
            "index_n_heads": 2,
            "index_source_layer_ids": [1],
            "index_topk": 2,
            "kv_source_layer_ids": [1],
            "max_position_embeddings": 512,
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "norm_topk_prob": True,
            "num_attention_heads": 2,
            "num_experts_per_tok": 3,
            "o_groups": 2,
            "o_lora_rank": 32,
            "q_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "routed_scaling_factor": 1.7,
            "scoring_func": "sqrtsoftplus",
            "sliding_window": 8,
            "swiglu_limit": 5.0,
        },
        [("mlp", 8, 3)],
        variants=(
            {"norm_topk_prob": False},
            {"scoring_func": "sigmoid"},
            {"scoring_func": "softmax"},
        ),
        aliases=("deepseek_v41_text",),
        experts="mlp.experts.switch_mlp",
        bias="mlp.gate.e_score_correction_bias",
        no_gradient="[gather_axis] Cannot calculate VJP with respect to indices",
        note="logits are divided by gate_temp; x is flattened before the gate and the experts; every scoring_func but "
        "sigmoid and softmax is the root of softplus; every block is sparse; a config without text_config is "
        "flat; cached keys are rounded to 4 or 8 bits where 16 or 32 divide head_dim",
    ),
]
