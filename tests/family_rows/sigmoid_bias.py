"""Sigmoid with a selection bias, without groups."""

from __future__ import annotations

from .base import HEADS, SIZES, Row

ROWS = [
    Row(
        "minimax",
        SIZES
        | HEADS
        | {
            "architectures": ["MiniMaxM2ForCausalLM"],
            "model_type": "minimax",
            "head_dim": 16,
            "max_position_embeddings": 512,
            "num_experts_per_tok": 3,
            "num_local_experts": 8,
            "rope_theta": 10000.0,
            "rotary_dim": 8,
            "shared_intermediate_size": 0,
            "tie_word_embeddings": False,
            "use_qk_norm": True,
        },
        [("mlp", 8, 3)],
        aliases=("minimax_m2",),
        block="block_sparse_moe",
        gate="block_sparse_moe.gate",
        experts="block_sparse_moe.switch_mlp",
        bias="block_sparse_moe.e_score_correction_bias",
        note="always renormalised; transformers' minimax is another model, its minimax_m2 is this one",
    ),
    Row(
        "minimax_m3_vl",
        {
            "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
            "model_type": "minimax_m3_vl",
            "eos_token_id": 0,
            "text_config": SIZES
            | HEADS
            | {
                "model_type": "minimax_m3",
                "dense_intermediate_size": 64,
                "head_dim": 16,
                "max_position_embeddings": 512,
                "mlp_layer_types": ["dense", "sparse", "sparse"],
                "num_experts_per_tok": 3,
                "num_local_experts": 8,
                "rope_theta": 10000.0,
                "rotary_dim": 8,
                "routed_scaling_factor": 1.7,
                "shared_intermediate_size": 32,
            },
        },
        [("mlp", 8, 3)],
        layers=(1, 2),
        block="block_sparse_moe",
        gate="block_sparse_moe.gate",
        experts="block_sparse_moe.switch_mlp",
        bias="block_sparse_moe.e_score_correction_bias",
        note="x is flattened before the gate and the experts; always renormalised, then scaled; the shared expert is "
        "inside the block",
    ),
    Row(
        "lfm2_moe",
        SIZES
        | HEADS
        | {
            "architectures": ["Lfm2MoeForCausalLM"],
            "model_type": "lfm2_moe",
            "conv_L_cache": 3,
            "conv_bias": False,
            "layer_types": ["conv", "full_attention", "conv"],
            "max_position_embeddings": 512,
            "moe_intermediate_size": 32,
            "norm_eps": 1e-5,
            "norm_topk_prob": True,
            "num_dense_layers": 1,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "rope_theta": 10000.0,
            "routed_scaling_factor": 1.7,
            "use_expert_bias": True,
        },
        [("mlp", 8, 3)],
        layers=(1, 2),
        variants=({"norm_topk_prob": False},),
        block="feed_forward",
        gate="feed_forward.gate",
        experts="feed_forward.switch_mlp",
        bias="feed_forward.expert_bias",
        note="the norm adds 1e-6; without use_expert_bias there is no bias",
    ),
    Row(
        "Klear",
        SIZES
        | HEADS
        | {
            "model_type": "Klear",
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "max_position_embeddings": 512,
            "mlp_only_layers": [1],
            "moe_intermediate_size": 32,
            "n_shared_experts": 1,
            "norm_topk_prob": True,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "rope_theta": 10000.0,
        },
        [("mlp", 8, 3)],
        layers=(0, 2),
        variants=({"norm_topk_prob": False},),
        experts="mlp.experts",
        bias="mlp.expert_bias",
        note="routed and shared output are mixed by a softmax of mlp.coefficient(x); no epsilon in the norm; the bias "
        "is shaped for x of three dimensions",
    ),
    Row(
        "step3p5",
        SIZES
        | {
            "model_type": "step3p5",
            "head_dim": 16,
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "max_position_embeddings": 512,
            "moe_intermediate_size": 32,
            "moe_layers_enum": "1,3",
            "moe_num_experts": 8,
            "moe_router_scaling_factor": 1.7,
            "moe_top_k": 3,
            "norm_expert_weight": True,
            "num_attention_groups": 2,
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "rope_theta": 10000.0,
            "share_expert_dim": 32,
            "sliding_window": 8,
            "swiglu_limits": [0.0, 0.5, 0.0, 0.0],
        },
        [("mlp", 8, 3)],
        layers=(1, 3),
        variants=({"norm_expert_weight": False},),
        gate="mlp.gate.gate",
        bias="mlp.gate.router_bias",
        note="without moe_layers_enum every block but the first is sparse; transformers writes n_routed_experts, "
        "num_experts_per_tok and mlp_layer_types, and defaults (288, 8) would hide it",
    ),
]
