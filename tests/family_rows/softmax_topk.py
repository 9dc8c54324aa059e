"""Softmax over all experts, then top-k."""

from __future__ import annotations

from .base import HEADS, LINEAR_ROPE, SIZES, Real, Row, in_text

_QWEN3_MOE = (
    SIZES
    | HEADS
    | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "decoder_sparse_step": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "mlp_only_layers": [0],
        "moe_intermediate_size": 32,
        "norm_topk_prob": False,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
)
_QWEN3_VL_MOE = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "model_type": "qwen3_vl_moe",
    "eos_token_id": 0,
    "text_config": _QWEN3_MOE | {"model_type": "qwen3_vl_moe_text", "norm_topk_prob": True},
}
_GATED_DELTA = {
    "full_attention_interval": 2,
    "head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
    "max_position_embeddings": 512,
}
_QWEN3_5_TEXT = (
    SIZES
    | HEADS
    | _GATED_DELTA
    | {
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        "shared_expert_intermediate_size": 32,
        "tie_word_embeddings": False,
    }
)
_QWEN3_5 = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "model_type": "qwen3_5",
    "eos_token_id": 0,
    "text_config": _QWEN3_5_TEXT | {"model_type": "qwen3_5_text"},
}
_QWEN3_5_MOE = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "model_type": "qwen3_5_moe",
    "eos_token_id": 0,
    "text_config": _QWEN3_5_TEXT | {"model_type": "qwen3_5_moe_text"},
}
# Of its layers one is packed: the widths of these are multiples of 128.
_PRISM = {
    "model_type": "prism_hadamard_qwen35",
    "eos_token_id": 0,
    "modules": [
        {
            "block": 0,
            "dtype": "float16",
            "embedding": False,
            "path": "model.layers.1.mlp.shared_expert.down_proj",
        }
    ],
    "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
    "tensor_namespace": "mlx-vlm-qwen3_5",
    "text_config": _QWEN3_5_TEXT | {"model_type": "qwen3_5_moe_text", "shared_expert_intermediate_size": 128},
}

ROWS = [
    Row(
        "olmoe",
        SIZES
        | {
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "norm_topk_prob": False,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        [("mlp", 8, 2)],
        variants=({"norm_topk_prob": True},),
        refused={"clip_qkv": 0.5, "hidden_act": "gelu"},
        real={
            # config.json of allenai/OLMoE-1B-7B-0924
            "OLMoE-1B-7B": Real(
                {
                    "model_type": "olmoe",
                    "hidden_size": 2048,
                    "intermediate_size": 1024,
                    "num_hidden_layers": 16,
                    "num_attention_heads": 16,
                    "num_key_value_heads": 16,
                    "num_experts": 64,
                    "num_experts_per_tok": 8,
                    "rms_norm_eps": 1e-5,
                    "tie_word_embeddings": False,
                    "vocab_size": 50304,
                },
                [("mlp", 64, 8)],
                6_919_161_856,
            ),
        },
        note="x is flattened before the gate and the experts",
    ),
    Row(
        "qwen3_moe",
        _QWEN3_MOE,
        [("mlp", 8, 3)],
        layers=(1, 2),
        variants=({"norm_topk_prob": True},),
    ),
    Row(
        "qwen3_vl_moe",
        _QWEN3_VL_MOE,
        [("mlp", 8, 3)],
        layers=(1, 2),
        variants=in_text(_QWEN3_VL_MOE, {"norm_topk_prob": False}),
        note="the model is qwen3_moe's; transformers' text config has no norm_topk_prob, and always renormalises",
    ),
    Row(
        "mellum",
        SIZES
        | HEADS
        | {
            "architectures": ["MellumForCausalLM"],
            "model_type": "mellum",
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "max_position_embeddings": 512,
            "moe_intermediate_size": 32,
            "norm_topk_prob": False,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
            "sliding_window": 8,
            "tie_word_embeddings": False,
        },
        [("mlp", 8, 3)],
        variants=({"norm_topk_prob": True},),
        note="every block is sparse; mlp_layer_types of transformers is not read",
    ),
    Row(
        "qwen2_moe",
        SIZES
        | {
            "architectures": ["Qwen2MoeForCausalLM"],
            "model_type": "qwen2_moe",
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
            "tie_word_embeddings": False,
        },
        [("mlp", 6, 3)],
        refused={
            "hidden_act": "gelu",
            "norm_topk_prob": True,
            "rope_scaling": LINEAR_ROPE,
            "use_sliding_window": True,
        },
        real={
            # Qwen2MoeConfig of transformers without arguments; its docstring names Qwen/Qwen1.5-MoE-A2.7B
            "Qwen1.5-MoE-A2.7B": Real(
                {
                    "model_type": "qwen2_moe",
                    "hidden_size": 2048,
                    "intermediate_size": 5632,
                    "moe_intermediate_size": 1408,
                    "shared_expert_intermediate_size": 5632,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "num_key_value_heads": 16,
                    "num_experts": 60,
                    "num_experts_per_tok": 4,
                    "rms_norm_eps": 1e-6,
                    "vocab_size": 151936,
                },
                [("mlp", 60, 4)],
                14_315_784_192,
            ),
        },
        note="every block is sparse: decoder_sparse_step and mlp_only_layers are not read; a sigmoid-gated shared "
        "expert",
    ),
    Row(
        "qwen3_next",
        SIZES
        | HEADS
        | _GATED_DELTA
        | {
            "architectures": ["Qwen3NextForCausalLM"],
            "model_type": "qwen3_next",
            "decoder_sparse_step": 2,
            "mlp_only_layers": [],
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "num_hidden_layers": 4,
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
            "shared_expert_intermediate_size": 32,
            "tie_word_embeddings": False,
        },
        [("mlp", 8, 3)],
        layers=(1, 3),
        variants=({"norm_topk_prob": False},),
        note="a sigmoid-gated shared expert",
    ),
    Row(
        "qwen3_5",
        _QWEN3_5,
        [("mlp", 8, 3)],
        variants=in_text(_QWEN3_5, {"norm_topk_prob": False}),
        note="sparse in every block if num_experts > 0; decoder_sparse_step is not read; a sigmoid-gated shared "
        "expert; a config without text_config is taken as one",
    ),
    Row(
        "qwen3_5_moe",
        _QWEN3_5_MOE,
        [("mlp", 8, 3)],
        variants=in_text(_QWEN3_5_MOE, {"norm_topk_prob": False}),
        note="as qwen3_5",
    ),
    Row(
        "prism_hadamard_qwen35",
        _PRISM,
        [("mlp", 8, 3)],
        variants=in_text(_PRISM, {"norm_topk_prob": False}),
        note="qwen3_5 with some Linear layers packed in 2 bit, which may be gates and are never experts",
    ),
    Row(
        "hunyuan",
        SIZES
        | HEADS
        | {
            "architectures": ["HunYuanMoEV1ForCausalLM"],
            "model_type": "hunyuan",
            "attention_bias": False,
            "cla_share_factor": 2,
            "moe_intermediate_size": [32, 32, 32],
            "moe_topk": [3, 3, 3],
            "num_experts": 8,
            "num_shared_expert": [1, 1, 1],
            "rope_scaling": {"type": "dynamic", "alpha": 10.0, "factor": 1.0},
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "use_cla": True,
            "use_mixed_mlp_moe": True,
            "use_qk_norm": True,
        },
        [("mlp", 8, 3)],
        gate="mlp.gate.wg",
        note="moe_topk is a number, or a list with one for each block; never renormalised; hunyuan_v1_moe, "
        "transformers' name, is no model type of mlx-lm; the head is always tied",
    ),
    Row(
        "ernie4_5_moe",
        SIZES
        | HEADS
        | {
            "architectures": ["Ernie4_5_MoeForCausalLM"],
            "model_type": "ernie4_5_moe",
            "max_position_embeddings": 512,
            "moe_gate_act": "softmax",
            "moe_intermediate_size": 32,
            "moe_k": 3,
            "moe_layer_end_index": 2,
            "moe_layer_interval": 1,
            "moe_layer_start_index": 1,
            "moe_num_experts": 8,
            "moe_num_shared_experts": 2,
            "num_hidden_layers": 4,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "use_bias": False,
        },
        [("mlp", 8, 3)],
        layers=(1, 2),
        variants=({"moe_gate_act": "sigmoid"},),
        note="always renormalised, by no less than 1e-12; the selection bias of checkpoints is dropped; start and end "
        "index may be lists, of which the smallest and the largest count",
    ),
]
