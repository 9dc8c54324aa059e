"""Top-k of the logits, then softmax over the chosen."""

from __future__ import annotations

from .base import HEADS, LINEAR_ROPE, SIZES, Real, Row

_GRANITE = {
    "attention_bias": False,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "max_position_embeddings": 512,
    "num_experts_per_tok": 3,
    "num_local_experts": 8,
    "residual_multiplier": 0.7,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}

ROWS = [
    Row(
        "mixtral",
        SIZES
        | {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": False,
        },
        [("mlp", 4, 2)],
        refused={"hidden_act": "gelu", "rope_scaling": LINEAR_ROPE, "sliding_window": 8},
        real={
            # config.json of mistralai/Mixtral-8x7B-Instruct-v0.1
            "Mixtral-8x7B": Real(
                {
                    "model_type": "mixtral",
                    "hidden_size": 4096,
                    "intermediate_size": 14336,
                    "num_hidden_layers": 32,
                    "num_attention_heads": 32,
                    "num_key_value_heads": 8,
                    "num_local_experts": 8,
                    "num_experts_per_tok": 2,
                    "vocab_size": 32000,
                },
                [("mlp", 8, 2)],
                46_702_792_704,
            ),
        },
        block="block_sparse_moe",
        gate="block_sparse_moe.gate",
        experts="block_sparse_moe.switch_mlp",
    ),
    Row(
        "phixtral",
        {
            "model_type": "phixtral",
            "eos_token_id": 0,
            "model_dim": 64,
            "num_experts_per_tok": 3,
            "num_heads": 4,
            "num_layers": 3,
            "num_local_experts": 6,
            "num_vocab": 320,
            "rotary_dim": 8,
        },
        [("mlp", 6, 3)],
        aliases=("phi-msft",),
        block="moe",
        gate="moe.gate",
        experts="moe.switch_mlp",
        random=("moe.switch_mlp.fc1.bias", "moe.switch_mlp.fc2.bias"),
        note="experts are SwitchMLP, four times as wide as the model; the block runs beside the attention; the call's "
        "second positional argument is a mask, not a cache",
    ),
    Row(
        "gpt_oss",
        SIZES
        | HEADS
        | {
            "architectures": ["GptOssForCausalLM"],
            "model_type": "gpt_oss",
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "num_experts_per_tok": 3,
            "num_local_experts": 8,
            "rope_theta": 10000,
            "sliding_window": 8,
        },
        [("mlp", 8, 3)],
        gate="mlp.router",
        experts="mlp.experts",
        random=(
            "mlp.router.bias",
            "mlp.experts.gate_proj.bias",
            "mlp.experts.up_proj.bias",
            "mlp.experts.down_proj.bias",
            "self_attn.sinks",
        ),
        note="the gate has a bias that is part of the logits, experts have biases",
    ),
    Row(
        "jamba",
        SIZES
        | HEADS
        | {
            "architectures": ["JambaForCausalLM"],
            "model_type": "jamba",
            "attn_layer_offset": 1,
            "attn_layer_period": 2,
            "expert_layer_offset": 1,
            "expert_layer_period": 2,
            "mamba_d_conv": 4,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
            "mamba_expand": 2,
            "max_position_embeddings": 512,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "num_hidden_layers": 4,
            "tie_word_embeddings": False,
        },
        [("mlp", 8, 3)],
        layers=(1, 3),
        block="feed_forward",
        gate="feed_forward.router",
        experts="feed_forward.switch_mlp",
        note="sparse where (i + offset) % period == 0, in transformers where (i - offset) % period == 0; transformers "
        "takes the softmax over all experts and does not renormalise",
    ),
    Row(
        "granitemoe",
        SIZES | HEADS | _GRANITE | {"architectures": ["GraniteMoeForCausalLM"], "model_type": "granitemoe"},
        [("mlp", 8, 3)],
        block="block_sparse_moe",
        gate="block_sparse_moe.router.layer",
        experts="block_sparse_moe.switch_mlp",
        note="the block's output is multiplied by residual_multiplier",
    ),
    Row(
        "granitemoehybrid",
        SIZES
        | HEADS
        | _GRANITE
        | {
            "architectures": ["GraniteMoeHybridForCausalLM"],
            "model_type": "granitemoehybrid",
            "layer_types": ["mamba", "attention", "mamba"],
            "mamba_conv_bias": True,
            "mamba_d_conv": 4,
            "mamba_d_head": 32,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "mamba_n_heads": 4,
            "mamba_proj_bias": False,
            "position_embedding_type": "rope",
            "shared_intermediate_size": 32,
        },
        [("mlp", 8, 3)],
        block="block_sparse_moe",
        gate="block_sparse_moe.router.layer",
        experts="block_sparse_moe.switch_mlp",
        note="the shared MLP runs beside the block: its output is added outside; without num_local_experts dense",
    ),
]
