"""Public models at their real size: the numbers of their config.json that shape them, and their parameter counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Public(NamedTuple):
    """A public model.

    config: of its config.json, what shapes it and what its routers do; what mlx-lm demands beside is in `UNSHAPED`.
    experts, top_k: E (routed; experts without weights are not among them) and K.
    layers: absolute indices of the blocks with a router.
    published: its parameters, as precisely as they are known. built: those of mlx-lm's model, counted.
    figure: where the published count is from, and what is left out of it.
    source: where the config is from, as repository and path or by another name.
    rounded_to: the unit to which the published count is rounded, where that is coarser than 1%.
    """

    config: dict[str, Any]
    experts: int
    top_k: int
    layers: Sequence[int]
    published: int
    built: int
    figure: str
    source: str
    rounded_to: int = 0


UNSHAPED: dict[str, Any] = {
    "rms_norm_eps": 1e-06,
    "layernorm_epsilon": 1e-06,
    "layer_norm_epsilon": 1e-06,
    "norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "swa_rope_theta": 10000.0,
    "rope_scaling": None,
    "max_position_embeddings": 4096,
    "model_max_length": 4096,
    "attention_chunk_size": 8192,
    "embedding_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
}
"""Settings without which mlx-lm builds no model, and on which no shape depends."""


def demanded(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with all that mlx-lm demands, also of a text model inside a multimodal one."""
    inner = {"text_config": UNSHAPED | config["text_config"]} if "text_config" in config else {}
    return UNSHAPED | config | inner


def _blocks(pattern: str, letter: str) -> list[int]:
    """The indices of the blocks of one kind in Nemotron-H's pattern."""
    return [layer for layer, kind in enumerate(pattern) if kind == letter]


# fmt: off
PUBLIC = {
    "Qwen3-30B-A3B": Public(
        {
            "model_type": "qwen3_moe", "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
            "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "head_dim": 128,
            "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_attention_heads": 32,
            "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 151936,
        },
        experts=128, top_k=8, layers=range(48),
        published=30_532_122_624, built=30_532_122_624,
        figure="keras-team/keras-hub qwen3_moe_presets.py",
        source="ai-dynamo/aiconfigurator model_configs/Qwen--Qwen3-30B-A3B_config.json",
    ),
    "Qwen3-235B-A22B": Public(
        {
            "model_type": "qwen3_moe", "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
            "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 94, "head_dim": 128,
            "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_attention_heads": 64,
            "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 151936,
        },
        experts=128, top_k=8, layers=range(94),
        published=235_093_634_560, built=235_093_634_560,
        figure="keras-team/keras-hub qwen3_moe_presets.py",
        source="ai-dynamo/aiconfigurator model_configs/Qwen--Qwen3-235B-A22B_config.json",
    ),
    "Qwen3-Coder-480B-A35B": Public(
        {
            "model_type": "qwen3_moe", "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
            "num_experts": 160, "num_experts_per_tok": 8, "num_hidden_layers": 62, "head_dim": 128,
            "hidden_size": 6144, "intermediate_size": 8192, "moe_intermediate_size": 2560, "num_attention_heads": 96,
            "num_key_value_heads": 8, "tie_word_embeddings": False, "vocab_size": 151936,
        },
        experts=160, top_k=8, layers=range(62),
        published=480_000_000_000, built=480_154_875_392,
        figure="model card",
        source="ai-dynamo/aiconfigurator model_configs/Qwen--Qwen3-Coder-480B-A35B-Instruct_config.json",
    ),
    "Qwen3-Next-80B-A3B": Public(
        {
            "model_type": "qwen3_next", "num_hidden_layers": 48, "decoder_sparse_step": 1, "num_experts_per_tok": 10,
            "num_experts": 512, "norm_topk_prob": True, "mlp_only_layers": [], "partial_rotary_factor": 0.25,
            "attention_bias": False, "head_dim": 256, "hidden_size": 2048, "intermediate_size": 5632,
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
            "linear_num_value_heads": 32, "linear_value_head_dim": 128, "moe_intermediate_size": 512,
            "num_attention_heads": 16, "num_key_value_heads": 2, "shared_expert_intermediate_size": 512,
            "tie_word_embeddings": False, "vocab_size": 151936,
        },
        experts=512, top_k=10, layers=range(48),
        published=80_000_000_000, built=79_674_391_296,
        figure="model card; prediction layers, which mlx-lm drops, left out",
        source="transformers' Qwen3NextConfig without arguments",
    ),
    "Qwen3-VL-30B-A3B": Public(
        {
            "model_type": "qwen3_vl_moe",
            "text_config": {
                "decoder_sparse_step": 1, "mlp_only_layers": [], "model_type": "qwen3_vl_moe_text",
                "norm_topk_prob": True, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
                "head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
                "num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False,
                "vocab_size": 151936,
            },
        },
        experts=128, top_k=8, layers=range(48),
        published=30_532_122_624, built=30_532_122_624,
        figure="text part only, that of Qwen3-30B-A3B",
        source="ai-dynamo/aiconfigurator model_configs/Qwen--Qwen3-VL-30B-A3B-Instruct_config.json",
    ),
    "Qwen3.5-35B-A3B": Public(
        {
            "model_type": "qwen3_5_moe",
            "text_config": {
                "mlp_only_layers": [], "model_type": "qwen3_5_moe_text", "num_experts": 256, "num_experts_per_tok": 8,
                "num_hidden_layers": 40, "attention_bias": False, "full_attention_interval": 4, "head_dim": 256,
                "hidden_size": 2048, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
                "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_value_head_dim": 128,
                "moe_intermediate_size": 512, "num_attention_heads": 16, "num_key_value_heads": 2,
                "shared_expert_intermediate_size": 512, "vocab_size": 248320,
            },
        },
        experts=256, top_k=8, layers=range(40),
        published=35_000_000_000, built=34_660_610_688,
        figure="model card; text part only; prediction layers, which mlx-lm drops, left out",
        source="ai-dynamo/aiconfigurator model_configs/Qwen--Qwen3.5-35B-A3B_config.json",
    ),
    "Qwen3.5-122B-A10B": Public(
        {
            "model_type": "qwen3_5_moe",
            "text_config": {
                "mlp_only_layers": [], "model_type": "qwen3_5_moe_text", "num_experts": 256, "num_experts_per_tok": 8,
                "num_hidden_layers": 48, "attention_bias": False, "full_attention_interval": 4, "head_dim": 256,
                "hidden_size": 3072, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
                "linear_num_key_heads": 16, "linear_num_value_heads": 64, "linear_value_head_dim": 128,
                "moe_intermediate_size": 1024, "num_attention_heads": 32, "num_key_value_heads": 2,
                "shared_expert_intermediate_size": 1024, "vocab_size": 248320,
            },
        },
        experts=256, top_k=8, layers=range(48),
        published=122_000_000_000, built=122_111_526_912,
        figure="model card; text part only; prediction layers, which mlx-lm drops, left out",
        source="ai-dynamo/aiconfigurator model_configs/Qwen--Qwen3.5-122B-A10B_config.json",
    ),
    "Qwen3.5-397B-A17B": Public(
        {
            "model_type": "qwen3_5_moe",
            "text_config": {
                "mlp_only_layers": [], "model_type": "qwen3_5_moe_text", "num_experts": 512,
                "num_experts_per_tok": 10, "num_hidden_layers": 60, "attention_bias": False,
                "full_attention_interval": 4, "head_dim": 256, "hidden_size": 4096, "linear_conv_kernel_dim": 4,
                "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 64,
                "linear_value_head_dim": 128, "moe_intermediate_size": 1024, "num_attention_heads": 32,
                "num_key_value_heads": 2, "shared_expert_intermediate_size": 1024, "vocab_size": 248320,
            },
        },
        experts=512, top_k=10, layers=range(60),
        published=397_000_000_000, built=396_346_350_336,
        figure="model card; text part only; prediction layers, which mlx-lm drops, left out",
        source="ai-dynamo/aiconfigurator model_configs/Qwen--Qwen3.5-397B-A17B_config.json",
    ),
    "Qwen1.5-MoE-A2.7B": Public(
        {
            "model_type": "qwen2_moe", "num_hidden_layers": 24, "num_experts_per_tok": 4, "num_experts": 60,
            "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 1408, "num_attention_heads": 16,
            "num_key_value_heads": 16, "shared_expert_intermediate_size": 5632, "vocab_size": 151936,
        },
        experts=60, top_k=4, layers=range(24),
        published=14_300_000_000, built=14_315_784_192,
        figure="model card",
        source="transformers' Qwen2MoeConfig without arguments",
    ),
    "OLMoE-1B-7B": Public(
        {
            "model_type": "olmoe", "norm_topk_prob": False, "num_experts": 64, "num_experts_per_tok": 8,
            "num_hidden_layers": 16, "attention_bias": False, "hidden_size": 2048, "intermediate_size": 1024,
            "num_attention_heads": 16, "num_key_value_heads": 16, "tie_word_embeddings": False, "vocab_size": 50304,
        },
        experts=64, top_k=8, layers=range(16),
        published=6_900_000_000, built=6_919_161_856,
        figure="OLMoE paper",
        source="config.json of allenai/OLMoE-1B-7B-0924",
    ),
    "Mixtral-8x7B": Public(
        {
            "model_type": "mixtral", "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_local_experts": 8,
            "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
            "tie_word_embeddings": False, "vocab_size": 32000,
        },
        experts=8, top_k=2, layers=range(32),
        published=46_700_000_000, built=46_702_792_704,
        figure="release note: 46.7B",
        source="ai-dynamo/aiconfigurator model_configs/mistralai--Mixtral-8x7B-v0.1_config.json",
    ),
    "Mixtral-8x22B": Public(
        {
            "model_type": "mixtral", "num_experts_per_tok": 2, "num_hidden_layers": 56, "num_local_experts": 8,
            "hidden_size": 6144, "intermediate_size": 16384, "num_attention_heads": 48, "num_key_value_heads": 8,
            "tie_word_embeddings": False, "vocab_size": 32000,
        },
        experts=8, top_k=2, layers=range(56),
        published=140_620_634_112, built=140_620_634_112,
        figure="half the total_size of a bfloat16 checkpoint's index (WizardLM-2-8x22B)",
        source="ai-dynamo/aiconfigurator model_configs/mistralai--Mixtral-8x22B-v0.1_config.json",
    ),
    "Phi-3.5-MoE": Public(
        {
            "model_type": "phimoe", "num_hidden_layers": 32, "num_experts_per_tok": 2, "num_local_experts": 16,
            "hidden_size": 4096, "intermediate_size": 6400, "num_attention_heads": 32, "num_key_value_heads": 8,
            "vocab_size": 32064,
        },
        experts=16, top_k=2, layers=range(32),
        published=41_900_000_000, built=41_873_153_344,
        figure="the count shown beside the checkpoint",
        source="transformers' PhimoeConfig without arguments",
    ),
    "gpt-oss-20b": Public(
        {
            "model_type": "gpt_oss", "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_local_experts": 32,
            "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64,
            "num_key_value_heads": 8, "vocab_size": 201088,
        },
        experts=32, top_k=4, layers=range(24),
        published=20_910_000_000, built=20_914_757_184,
        figure="model card, table 1",
        source="ai-dynamo/aiconfigurator model_configs/openai--gpt-oss-20b_config.json",
    ),
    "gpt-oss-120b": Public(
        {
            "model_type": "gpt_oss", "num_experts_per_tok": 4, "num_hidden_layers": 36, "num_local_experts": 128,
            "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64,
            "num_key_value_heads": 8, "vocab_size": 201088,
        },
        experts=128, top_k=4, layers=range(36),
        published=116_830_000_000, built=116_829_156_672,
        figure="model card, table 1",
        source="ai-dynamo/aiconfigurator model_configs/openai--gpt-oss-120b_config.json",
    ),
    "GLM-4.5-Air": Public(
        {
            "model_type": "glm4_moe", "num_hidden_layers": 46, "num_experts_per_tok": 8, "n_routed_experts": 128,
            "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
            "norm_topk_prob": True, "partial_rotary_factor": 0.5, "attention_bias": True, "head_dim": 128,
            "hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_shared_experts": 1,
            "num_attention_heads": 96, "num_key_value_heads": 8, "tie_word_embeddings": False, "use_qk_norm": False,
            "vocab_size": 151552,
        },
        experts=128, top_k=8, layers=range(1, 46),
        published=106_000_000_000, built=106_852_251_264,
        figure="transformers docs glm4_moe.md; prediction layers, which mlx-lm drops, left out",
        source="vllm-project/vime scripts/models/glm4.5-106B-A12B.sh",
    ),
    "GLM-4.5": Public(
        {
            "model_type": "glm4_moe", "num_hidden_layers": 92, "num_experts_per_tok": 8, "n_routed_experts": 160,
            "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 3,
            "norm_topk_prob": True, "partial_rotary_factor": 0.5, "attention_bias": True, "head_dim": 128,
            "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_shared_experts": 1,
            "num_attention_heads": 96, "num_key_value_heads": 8, "tie_word_embeddings": False, "use_qk_norm": True,
            "vocab_size": 151552,
        },
        experts=160, top_k=8, layers=range(3, 92),
        published=355_000_000_000, built=352_797_829_024,
        figure="transformers docs glm4_moe.md; prediction layers, which mlx-lm drops, left out",
        source="zyzshishui/slime scripts/models/glm4.5-355B-A32B.sh",
    ),
    "GLM-4.7-Flash": Public(
        {
            "model_type": "glm4_moe_lite", "num_hidden_layers": 47, "n_routed_experts": 64,
            "routed_scaling_factor": 1.8, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 4,
            "norm_topk_prob": True, "attention_bias": False, "hidden_size": 2048, "intermediate_size": 10240,
            "kv_lora_rank": 512, "moe_intermediate_size": 1536, "n_shared_experts": 1, "num_attention_heads": 20,
            "q_lora_rank": 768, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
            "vocab_size": 154880,
        },
        experts=64, top_k=4, layers=range(1, 47),
        published=30_000_000_000, built=29_943_393_920,
        figure="name of the model; prediction layers, which mlx-lm drops, left out",
        source="transformers' Glm4MoeLiteConfig without arguments; yitianlian/slime scripts/models/glm4.7-30B-A3B.sh",
    ),
    "GLM-5": Public(
        {
            "model_type": "glm_moe_dsa", "first_k_dense_replace": 3, "moe_layer_freq": 1, "n_group": 1,
            "n_routed_experts": 256, "norm_topk_prob": True, "num_experts_per_tok": 8, "num_hidden_layers": 78,
            "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 1, "topk_method": "noaux_tc",
            "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}, "attention_bias": False,
            "hidden_size": 6144, "index_head_dim": 128, "index_n_heads": 32, "index_topk": 2048,
            "intermediate_size": 12288, "kv_lora_rank": 512, "moe_intermediate_size": 2048, "n_shared_experts": 1,
            "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 2048, "qk_nope_head_dim": 192,
            "qk_rope_head_dim": 64, "v_head_dim": 256, "vocab_size": 154880,
        },
        experts=256, top_k=8, layers=range(3, 78),
        published=744_000_000_000, built=743_911_218_432,
        figure="model card; prediction layers, which mlx-lm drops, left out",
        source="ai-dynamo/aiconfigurator model_configs/zai-org--GLM-5_config.json",
    ),
    "DeepSeek-MoE-16B": Public(
        {
            "model_type": "deepseek", "num_hidden_layers": 28, "n_routed_experts": 64, "num_experts_per_tok": 6,
            "moe_layer_freq": 1, "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944,
            "moe_intermediate_size": 1408, "n_shared_experts": 2, "num_attention_heads": 16,
            "num_key_value_heads": 16, "vocab_size": 102400,
        },
        experts=64, top_k=6, layers=range(1, 28),
        published=16_380_000_000, built=16_375_728_128,
        figure="vinicius-ianni/shimmy docs/deepseek-moe-16b-cpu-offload-README.md",
        source="deepseek-ai/DeepSeek-MoE, configuration defaults",
    ),
    "DeepSeek-V2-Lite": Public(
        {
            "model_type": "deepseek_v2", "num_hidden_layers": 27, "n_routed_experts": 64,
            "routed_scaling_factor": 1.0, "topk_method": "greedy", "n_group": 1, "topk_group": 1,
            "num_experts_per_tok": 6, "moe_layer_freq": 1, "first_k_dense_replace": 1, "q_lora_rank": None,
            "rope_scaling": {
                "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
                "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
            },
            "hidden_size": 2048, "intermediate_size": 10944, "kv_lora_rank": 512, "moe_intermediate_size": 1408,
            "n_shared_experts": 2, "num_attention_heads": 16, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "vocab_size": 102400,
        },
        experts=64, top_k=6, layers=range(1, 27),
        published=15_700_000_000, built=15_706_484_224,
        figure="DeepSeek-V2 paper, appendix B",
        source="AMD-AGI/Primus primus/configs/models/megatron/deepseek_v2_lite.yaml",
    ),
    "DeepSeek-V2": Public(
        {
            "model_type": "deepseek_v2", "num_hidden_layers": 60, "n_routed_experts": 160,
            "routed_scaling_factor": 16.0, "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3,
            "num_experts_per_tok": 6, "moe_layer_freq": 1, "first_k_dense_replace": 1,
            "rope_scaling": {
                "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
                "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
            },
            "hidden_size": 5120, "intermediate_size": 12288, "kv_lora_rank": 512, "moe_intermediate_size": 1536,
            "n_shared_experts": 2, "num_attention_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 102400,
        },
        experts=160, top_k=6, layers=range(1, 60),
        published=236_000_000_000, built=235_741_434_880,
        figure="DeepSeek-V2 paper",
        source="AMD-AIG-AIMA/Primus primus/configs/models/megatron/deepseek_v2.yaml",
    ),
    "DeepSeek-V3": Public(
        {
            "model_type": "deepseek_v3", "first_k_dense_replace": 3, "moe_layer_freq": 1, "n_group": 8,
            "n_routed_experts": 256, "norm_topk_prob": True, "num_experts_per_tok": 8, "num_hidden_layers": 61,
            "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 4, "topk_method": "noaux_tc",
            "attention_bias": False, "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
            "moe_intermediate_size": 2048, "n_shared_experts": 1, "num_attention_heads": 128, "q_lora_rank": 1536,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
        },
        experts=256, top_k=8, layers=range(3, 61),
        published=671_000_000_000, built=671_026_419_200,
        figure="DeepSeek-V3 paper; the 14B of the prediction layer, which mlx-lm drops, left out",
        source="ai-dynamo/aiconfigurator model_configs/deepseek-ai--DeepSeek-V3_config.json",
    ),
    "DeepSeek-V3.2": Public(
        {
            "model_type": "deepseek_v32", "first_k_dense_replace": 3, "moe_layer_freq": 1, "n_group": 8,
            "n_routed_experts": 256, "norm_topk_prob": True, "num_experts_per_tok": 8, "num_hidden_layers": 61,
            "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 4, "topk_method": "noaux_tc",
            "attention_bias": False, "hidden_size": 7168, "index_head_dim": 128, "index_n_heads": 64,
            "intermediate_size": 18432, "kv_lora_rank": 512, "moe_intermediate_size": 2048, "n_shared_experts": 1,
            "num_attention_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "vocab_size": 129280,
        },
        experts=256, top_k=8, layers=range(3, 61),
        published=671_000_000_000, built=671_877_944_064,
        figure="that of DeepSeek-V3, to which it adds the indexers; prediction layers, which mlx-lm drops, left out",
        source="ai-dynamo/aiconfigurator model_configs/deepseek-ai--DeepSeek-V3.2_config.json",
    ),
    "Moonlight-16B-A3B": Public(
        {
            "model_type": "deepseek_v3", "num_hidden_layers": 27, "n_routed_experts": 64, "num_experts_per_tok": 6,
            "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446, "first_k_dense_replace": 1,
            "moe_layer_freq": 1, "q_lora_rank": None, "hidden_size": 2048, "intermediate_size": 11264,
            "kv_lora_rank": 512, "moe_intermediate_size": 1408, "n_shared_experts": 2, "num_attention_heads": 16,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 163840,
        },
        experts=64, top_k=6, layers=range(1, 27),
        published=16_000_000_000, built=15_960_110_208,
        figure="Moonlight paper",
        source="zyzshishui/slime scripts/models/moonlight.sh",
    ),
    "Kimi-K2": Public(
        {
            "model_type": "kimi_k2", "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1,
            "n_routed_experts": 384, "norm_topk_prob": True, "num_experts_per_tok": 8, "num_hidden_layers": 61,
            "routed_scaling_factor": 2.827, "scoring_func": "sigmoid", "topk_group": 1, "topk_method": "noaux_tc",
            "attention_bias": False, "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
            "moe_intermediate_size": 2048, "n_shared_experts": 1, "num_attention_heads": 64, "q_lora_rank": 1536,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 163840,
        },
        experts=384, top_k=8, layers=range(1, 61),
        published=1_026_410_000_000, built=1_026_408_232_448,
        figure="the count that llama-bench prints; the Kimi K2 paper says 1.04T",
        source="ai-dynamo/aiconfigurator model_configs/moonshotai--Kimi-K2-Instruct_config.json",
    ),
    "Kimi-K2.5": Public(
        {
            "model_type": "kimi_k25",
            "text_config": {
                "first_k_dense_replace": 1, "model_type": "kimi_k2", "moe_layer_freq": 1, "n_group": 1,
                "n_routed_experts": 384, "norm_topk_prob": True, "num_experts_per_tok": 8, "num_hidden_layers": 61,
                "routed_scaling_factor": 2.827, "scoring_func": "sigmoid", "topk_group": 1, "topk_method": "noaux_tc",
                "attention_bias": False, "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
                "moe_intermediate_size": 2048, "n_shared_experts": 1, "num_attention_heads": 64, "q_lora_rank": 1536,
                "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 163840,
            },
        },
        experts=384, top_k=8, layers=range(1, 61),
        published=1_026_410_000_000, built=1_026_408_232_448,
        figure="the count that llama-bench prints; text part only",
        source="ai-dynamo/aiconfigurator model_configs/moonshotai--Kimi-K2.5_config.json",
    ),
    "Kimi-K3": Public(
        {
            "model_type": "kimi_k3",
            "text_config": {
                "first_k_dense_replace": 1, "model_type": "kimi_linear", "moe_layer_freq": 1, "moe_renormalize": True,
                "moe_router_activation_func": "sigmoid", "num_expert_group": 1, "num_experts": 896,
                "num_experts_per_token": 16, "num_hidden_layers": 93, "routed_scaling_factor": 1.0, "topk_group": 1,
                "topk_method": "noaux_tc", "use_grouped_topk": True,
                "linear_attn_config": {
                    "full_attn_layers": [
                        4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76, 80, 84, 88, 92, 93
                    ],
                    "gate_lower_bound": -5.0, "head_dim": 128,
                    "kda_layers": [
                        1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26, 27, 29, 30, 31, 33,
                        34, 35, 37, 38, 39, 41, 42, 43, 45, 46, 47, 49, 50, 51, 53, 54, 55, 57, 58, 59, 61, 62, 63,
                        65, 66, 67, 69, 70, 71, 73, 74, 75, 77, 78, 79, 81, 82, 83, 85, 86, 87, 89, 90, 91
                    ],
                    "num_heads": 96, "short_conv_kernel_size": 4, "use_full_rank_gate": True,
                },
                "attn_res_block_size": 12, "hidden_size": 7168, "intermediate_size": 33792, "kv_lora_rank": 512,
                "latent_moe_use_norm": True, "mla_use_nope": True, "mla_use_output_gate": True,
                "moe_intermediate_size": 3072, "num_attention_heads": 96, "num_shared_experts": 2,
                "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
                "routed_expert_hidden_size": 3584, "tie_word_embeddings": False, "v_head_dim": 128,
                "vocab_size": 163840,
            },
        },
        experts=896, top_k=16, layers=range(1, 93),
        published=2_780_000_000_000, built=2_779_484_476_000,
        figure="2.78T in lists of models; text part only",
        source="ai-dynamo/aiconfigurator model_configs/moonshotai--Kimi-K3_config.json",
    ),
    "Kimi-Linear-48B-A3B": Public(
        {
            "model_type": "kimi_linear", "num_hidden_layers": 27, "routed_scaling_factor": 2.446,
            "num_expert_group": 1, "topk_group": 1, "num_experts_per_token": 8, "moe_renormalize": True,
            "num_experts": 256, "first_k_dense_replace": 1, "moe_layer_freq": 1,
            "moe_router_activation_func": "sigmoid",
            "linear_attn_config": {
                "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
                "kda_layers": [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26],
                "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4,
            },
            "head_dim": 72, "hidden_size": 2304, "intermediate_size": 9216, "kv_lora_rank": 512,
            "moe_intermediate_size": 1024, "num_attention_heads": 32, "num_key_value_heads": 32,
            "num_shared_experts": 1, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "tie_word_embeddings": False,
            "v_head_dim": 128, "vocab_size": 163840,
        },
        experts=256, top_k=8, layers=range(1, 27),
        published=49_120_000_000, built=49_122_681_728,
        figure="catalogues that count the checkpoint: 49.12B; the name says 48B",
        source=(
            "transformers' KimiLinearConfig without arguments; linear_attn_config as in tests of the released "
            "config"
        ),
    ),
    "LongCat-Flash": Public(
        {
            "model_type": "longcat_flash", "num_layers": 28, "moe_topk": 12, "n_routed_experts": 512,
            "zero_expert_num": 256, "routed_scaling_factor": 6.0, "zero_expert_type": "identity",
            "attention_method": "MLA", "attention_bias": False, "expert_ffn_hidden_size": 2048,
            "ffn_hidden_size": 12288, "hidden_size": 6144, "kv_lora_rank": 512, "mla_scale_kv_lora": True,
            "mla_scale_q_lora": True, "num_attention_heads": 64, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 131072,
        },
        experts=512, top_k=12, layers=range(28),
        published=560_000_000_000, built=560_664_980_480,
        figure="model card; prediction layers, which mlx-lm drops, left out",
        source="transformers' LongcatFlashConfig without arguments",
    ),
    "MiniMax-M2.5": Public(
        {
            "model_type": "minimax_m2", "num_hidden_layers": 62, "num_experts_per_tok": 8, "num_local_experts": 256,
            "scoring_func": "sigmoid", "head_dim": 128, "hidden_size": 3072, "intermediate_size": 1536,
            "num_attention_heads": 48, "num_key_value_heads": 8, "rotary_dim": 64, "shared_intermediate_size": 0,
            "tie_word_embeddings": False, "use_qk_norm": True, "vocab_size": 200064,
        },
        experts=256, top_k=8, layers=range(62),
        published=230_000_000_000, built=228_689_764_864,
        figure="model card; dimensions are those of MiniMax-M2; prediction layers, which mlx-lm drops, left out",
        source="ai-dynamo/aiconfigurator model_configs/MiniMaxAI--MiniMax-M2.5_config.json",
    ),
    "MiniMax-M3": Public(
        {
            "model_type": "minimax_m3_vl",
            "text_config": {
                "first_k_dense_replace": 3, "model_type": "minimax_m3", "moe_layer_freq": [0] * 3 + [1] * 57,
                "num_experts_per_tok": 4, "num_hidden_layers": 60, "num_local_experts": 128,
                "routed_scaling_factor": 2.0, "scoring_func": "sigmoid",
                "sparse_attention_config": {
                    "sparse_attention_freq": [0] * 3 + [1] * 57, "sparse_block_size": 128, "sparse_index_dim": 128,
                    "sparse_local_block": 1, "sparse_num_index_heads": 4, "sparse_topk_blocks": 16,
                },
                "dense_intermediate_size": 12288, "head_dim": 128, "hidden_size": 6144, "intermediate_size": 3072,
                "num_attention_heads": 64, "num_key_value_heads": 4, "shared_intermediate_size": 3072,
                "tie_word_embeddings": False, "use_qk_norm": True, "vocab_size": 200064,
            },
        },
        experts=128, top_k=4, layers=range(3, 60),
        published=428_000_000_000, built=426_174_572_928,
        figure="model card; text part only",
        source="ai-dynamo/aiconfigurator model_configs/MiniMaxAI--MiniMax-M3_config.json",
    ),
    "MiMo-V2-Flash": Public(
        {
            "model_type": "mimo_v2_flash", "num_hidden_layers": 48, "moe_layer_freq": [0] + [1] * 47,
            "n_routed_experts": 256, "num_experts_per_tok": 8, "norm_topk_prob": True, "scoring_func": "sigmoid",
            "n_group": 1, "topk_group": 1, "topk_method": "noaux_tc",
            "hybrid_layer_pattern": (
                [0] + [1] * 4 + [0] + [1] * 5 + [0] + [1] * 5 + [0] + [1] * 5 + [0] + [1] * 5 + [0] + [1] * 5 + [0] +
                [1] * 5 + [0] + [1] * 5 + [0]
            ),
            "n_shared_experts": None, "partial_rotary_factor": 0.334, "routed_scaling_factor": None,
            "add_full_attention_sink_bias": False, "add_swa_attention_sink_bias": True, "head_dim": 192,
            "hidden_size": 4096, "intermediate_size": 16384, "moe_intermediate_size": 2048, "num_attention_heads": 64,
            "num_key_value_heads": 4, "sliding_window_size": 128, "swa_head_dim": 192, "swa_num_attention_heads": 64,
            "swa_num_key_value_heads": 8, "swa_v_head_dim": 128, "v_head_dim": 128, "vocab_size": 152576,
        },
        experts=256, top_k=8, layers=range(1, 48),
        published=309_000_000_000, built=308_778_780_864,
        figure="model card; prediction layers, which mlx-lm drops, left out",
        source="ai-dynamo/aiconfigurator model_configs/XiaomiMiMo--MiMo-V2-Flash_config.json",
    ),
    "Step-3.5-Flash": Public(
        {
            "model_type": "step3p5", "num_hidden_layers": 45, "moe_num_experts": 288, "moe_top_k": 8,
            "moe_layers_enum": ",".join(map(str, range(3, 45))),
            "attention_other_setting": {"num_attention_heads": 96, "num_attention_groups": 8},
            "layer_types": (["full_attention"] + ["sliding_attention"] * 3) * 11 + ["full_attention"],
            "head_dim": 128, "hidden_size": 4096, "intermediate_size": 11264, "moe_intermediate_size": 1280,
            "num_attention_groups": 8, "num_attention_heads": 64, "share_expert_dim": 1280,
            "use_head_wise_attn_gate": True, "vocab_size": 128896,
        },
        experts=288, top_k=8, layers=range(3, 45),
        published=196_810_000_000, built=196_956_130_368,
        figure="the same; prediction layers, which mlx-lm drops, left out",
        source="Megatron-Bridge, description of its Step-3.5-Flash support",
    ),
    "Llama-4-Scout": Public(
        {
            "model_type": "llama4",
            "text_config": {
                "interleave_moe_layer_step": 1, "model_type": "llama4_text", "num_experts_per_tok": 1,
                "num_hidden_layers": 48, "num_local_experts": 16, "attention_bias": False, "head_dim": 128,
                "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
                "num_attention_heads": 40, "num_key_value_heads": 8, "use_qk_norm": True, "vocab_size": 202048,
            },
        },
        experts=16, top_k=1, layers=range(48),
        published=107_770_000_000, built=107_769_861_120,
        figure="the count that llama-bench prints; text part only (109B with the vision part)",
        source="ai-dynamo/aiconfigurator model_configs/meta-llama--Llama-4-Scout-17B-16E-Instruct_config.json",
    ),
    "Llama-4-Maverick": Public(
        {
            "model_type": "llama4",
            "text_config": {
                "interleave_moe_layer_step": 2, "model_type": "llama4_text", "num_experts_per_tok": 1,
                "num_hidden_layers": 48, "num_local_experts": 128, "attention_bias": False, "head_dim": 128,
                "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
                "num_attention_heads": 40, "num_key_value_heads": 8, "use_qk_norm": False, "vocab_size": 202048,
            },
        },
        experts=128, top_k=1, layers=range(1, 48, 2),
        published=400_000_000_000, built=400_711_848_960,
        figure="model card; text part only",
        source="ai-dynamo/aiconfigurator model_configs/meta-llama--Llama-4-Maverick-17B-128E-Instruct_config.json",
    ),
    "Granite-3.1-1B-A400M": Public(
        {
            "model_type": "granitemoe", "num_experts_per_tok": 8, "num_hidden_layers": 24, "num_local_experts": 32,
            "attention_bias": False, "hidden_size": 1024, "intermediate_size": 512, "num_attention_heads": 16,
            "num_key_value_heads": 8, "tie_word_embeddings": True, "vocab_size": 49155,
        },
        experts=32, top_k=8, layers=range(24),
        published=1_334_628_352, built=1_334_628_352,
        figure="a quarter of the total_size of its float32 index",
        source="config.json of ibm-granite/granite-3.1-1b-a400m",
    ),
    "Granite-4.0-H-Tiny": Public(
        {
            "model_type": "granitemoehybrid", "num_hidden_layers": 40, "num_local_experts": 64,
            "num_experts_per_tok": 6, "layer_types": (["mamba"] * 5 + ["attention"] + ["mamba"] * 4) * 4,
            "attention_bias": False, "hidden_size": 1536, "intermediate_size": 512, "mamba_conv_bias": True,
            "mamba_d_conv": 4, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_n_heads": 48,
            "mamba_proj_bias": False, "num_attention_heads": 12, "num_key_value_heads": 4,
            "shared_intermediate_size": 1024, "tie_word_embeddings": True, "vocab_size": 100352,
        },
        experts=64, top_k=6, layers=range(40),
        published=6_940_000_000, built=6_939_037_248,
        figure="the count that llama-bench prints",
        source="DocDBrown/IBMGranite4Tiny README.md, a copy of the model card",
    ),
    "Granite-4.0-H-Small": Public(
        {
            "model_type": "granitemoehybrid", "num_hidden_layers": 40, "num_local_experts": 72,
            "num_experts_per_tok": 10, "layer_types": (["mamba"] * 5 + ["attention"] + ["mamba"] * 4) * 4,
            "attention_bias": False, "hidden_size": 4096, "intermediate_size": 768, "mamba_conv_bias": True,
            "mamba_d_conv": 4, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_n_heads": 128,
            "mamba_proj_bias": False, "num_attention_heads": 32, "num_key_value_heads": 8,
            "shared_intermediate_size": 1536, "tie_word_embeddings": True, "vocab_size": 100352,
        },
        experts=72, top_k=10, layers=range(40),
        published=32_000_000_000, built=32_207_337_984,
        figure="model card",
        source="DocDBrown/IBMGranite4Tiny README.md, a copy of the model card",
    ),
    "LFM2-8B-A1B": Public(
        {
            "model_type": "lfm2_moe", "num_hidden_layers": 24, "num_dense_layers": 2, "num_experts": 32,
            "num_experts_per_tok": 4, "norm_topk_prob": True, "use_expert_bias": True, "routed_scaling_factor": 1.0,
            "full_attn_idxs": [2, 6, 10, 14, 18, 21], "conv_L_cache": 3, "conv_bias": False, "hidden_size": 2048,
            "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 65536,
        },
        experts=32, top_k=4, layers=range(2, 24),
        published=8_300_000_000, built=8_339_930_560,
        figure="model card",
        source="lablup/mlxcel src/models/lfm2_tests.rs",
    ),
    "ERNIE-4.5-21B-A3B": Public(
        {
            "model_type": "ernie4_5_moe", "num_hidden_layers": 28, "moe_k": 6, "moe_num_experts": 64,
            "moe_layer_start_index": 1, "moe_layer_end_index": 27, "moe_layer_interval": 1, "hidden_size": 2560,
            "intermediate_size": 12288, "moe_intermediate_size": 1536, "moe_num_shared_experts": 2,
            "num_attention_heads": 20, "num_key_value_heads": 4, "tie_word_embeddings": True, "use_bias": False,
            "vocab_size": 103424,
        },
        experts=64, top_k=6, layers=range(1, 28),
        published=21_830_000_000, built=21_825_436_160,
        figure="the count that llama-bench prints; the name says 21B",
        source="transformers' Ernie4_5_MoeConfig without arguments",
    ),
    "Jamba-v0.1": Public(
        {
            "model_type": "jamba", "num_hidden_layers": 32, "num_experts_per_tok": 2, "num_experts": 16,
            "expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 8, "attn_layer_offset": 4,
            "hidden_size": 4096, "intermediate_size": 14336, "mamba_conv_bias": True, "mamba_d_conv": 4,
            "mamba_d_state": 16, "mamba_dt_rank": 256, "mamba_expand": 2, "mamba_proj_bias": False,
            "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "vocab_size": 65536,
        },
        experts=16, top_k=2, layers=range(1, 32, 2),
        published=52_000_000_000, built=51_570_323_328,
        figure="Jamba paper",
        source="transformers' JambaConfig without arguments; Jamba-1.5-Mini has the same",
    ),
    "dots.llm1": Public(
        {
            "model_type": "dots1", "num_hidden_layers": 62, "first_k_dense_replace": 1, "n_routed_experts": 128,
            "num_experts_per_tok": 6, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
            "hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_shared_experts": 2,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 152064,
        },
        experts=128, top_k=6, layers=range(1, 62),
        published=142_000_000_000, built=142_774_381_696,
        figure="dots.llm1 paper",
        source="lablup/mlxcel src/models/dots1_tests.rs",
    ),
    "Hunyuan-A13B": Public(
        {
            "model_type": "hunyuan", "num_hidden_layers": 32, "moe_topk": [8] * 32, "num_experts": 64,
            "num_shared_expert": [1] * 32, "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
            "attention_bias": False, "cla_share_factor": 2, "hidden_size": 4096, "intermediate_size": 3072,
            "num_attention_heads": 32, "num_key_value_heads": 8, "use_cla": False, "use_mixed_mlp_moe": True,
            "use_qk_norm": True, "vocab_size": 128167,
        },
        experts=64, top_k=8, layers=range(32),
        published=80_000_000_000, built=80_393_183_232,
        figure="README of the same",
        source="tianyu1412/Hunyuan-A13B models/config.json",
    ),
    "Ling-lite-1.5": Public(
        {
            "model_type": "bailing_moe", "first_k_dense_replace": 0, "num_experts": 64, "norm_topk_prob": True,
            "num_experts_per_tok": 6, "num_hidden_layers": 28, "hidden_size": 2048, "intermediate_size": 1408,
            "moe_intermediate_size": 1408, "num_attention_heads": 16, "num_key_value_heads": 4,
            "num_shared_experts": 2, "tie_word_embeddings": False, "use_bias": False, "use_qkv_bias": False,
            "vocab_size": 126464,
        },
        experts=64, top_k=6, layers=range(28),
        published=16_800_000_000, built=16_801_974_272,
        figure="model card",
        source="lablup/mlxcel src/models/bailing_moe_tests.rs",
    ),
    "Ling-mini-2.0": Public(
        {
            "model_type": "bailing_moe", "num_hidden_layers": 20, "first_k_dense_replace": 1, "num_experts": 256,
            "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "norm_topk_prob": True,
            "routed_scaling_factor": 2.5, "score_function": "sigmoid", "moe_router_enable_expert_bias": True,
            "hidden_size": 2048, "intermediate_size": 5120, "moe_intermediate_size": 512,
            "moe_shared_expert_intermediate_size": 512, "num_attention_heads": 16, "num_key_value_heads": 4,
            "num_shared_experts": 1, "tie_word_embeddings": False, "use_qk_norm": True, "vocab_size": 157184,
        },
        experts=256, top_k=8, layers=range(1, 20),
        published=16_260_000_000, built=16_255_643_392,
        figure="inclusionAI/Ling-V2 README.md; prediction layers, which mlx-lm drops, left out",
        source="config.json of inclusionAI/Ling-mini-2.0, as fixtures of Swift and Rust loaders quote it",
    ),
    "Ring-mini-linear-2.0": Public(
        {
            "model_type": "bailing_moe_linear", "first_k_dense_replace": 1, "moe_router_enable_expert_bias": True,
            "n_group": 8, "norm_topk_prob": True, "num_experts": 256, "num_experts_per_tok": 8,
            "num_hidden_layers": 20, "topk_group": 4, "routed_scaling_factor": 2.5, "score_function": "sigmoid",
            "group_norm_size": 4, "head_dim": 128, "hidden_size": 2048, "intermediate_size": 5120,
            "layer_group_size": 5, "moe_intermediate_size": 512, "moe_shared_expert_intermediate_size": 512,
            "num_attention_heads": 16, "num_key_value_heads": 4, "num_shared_experts": 1,
            "tie_word_embeddings": False, "use_bias": False, "use_qk_norm": True, "use_qkv_bias": False,
            "vocab_size": 157184,
        },
        experts=256, top_k=8, layers=range(1, 20),
        published=16_400_000_000, built=16_423_448_320,
        figure="model card",
        source="lablup/mlxcel src/models/bailing_moe_linear_tests.rs",
    ),
    "Ling-3.0-Flash": Public(
        {
            "model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"], "num_hidden_layers": 42,
            "num_experts": 512, "num_experts_per_tok": 8, "first_k_dense_replace": 2, "n_group": 8, "topk_group": 4,
            "routed_scaling_factor": 2.5, "q_lora_rank": None, "head_dim": 128, "hidden_size": 2560,
            "intermediate_size": 6144, "kv_lora_rank": 512, "layer_group_size": 6, "moe_intermediate_size": 768,
            "moe_shared_expert_intermediate_size": 768, "num_attention_heads": 32, "num_shared_experts": 1,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "short_conv_kernel_size": 4, "v_head_dim": 128,
            "vocab_size": 157184,
        },
        experts=512, top_k=8, layers=range(2, 42),
        published=124_000_000_000, built=124_414_211_552,
        figure="model card; prediction layers, which mlx-lm drops, left out",
        source="transformers' BailingHybridConfig without arguments, under the names that mlx-lm reads",
    ),
    "Nemotron-3-Nano": Public(
        {
            "model_type": "nemotron_h",
            "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "n_group": 1,
            "n_routed_experts": 128, "norm_topk_prob": True, "num_experts_per_tok": 6, "num_hidden_layers": 52,
            "routed_scaling_factor": 2.5, "topk_group": 1, "attention_bias": False, "conv_kernel": 4, "head_dim": 128,
            "hidden_size": 2688, "intermediate_size": 1856, "mamba_head_dim": 64, "mamba_num_heads": 64,
            "mamba_proj_bias": False, "mlp_bias": False, "moe_intermediate_size": 1856,
            "moe_shared_expert_intermediate_size": 3712, "n_groups": 8, "n_shared_experts": 1,
            "num_attention_heads": 32, "num_key_value_heads": 2, "ssm_state_size": 128, "use_bias": False,
            "use_conv_bias": True, "vocab_size": 131072,
        },
        experts=128, top_k=6, layers=_blocks("MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "E"),
        published=31_600_000_000, built=31_577_940_288,
        figure="technical report",
        source="ai-dynamo/aiconfigurator model_configs/nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16_config.json",
    ),
    "Nemotron-3-Super": Public(
        {
            "model_type": "nemotron_h",
            "hybrid_override_pattern": (
                "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"
            ),
            "moe_latent_size": 1024, "n_group": 1, "n_routed_experts": 512, "norm_topk_prob": True,
            "num_experts_per_tok": 22, "num_hidden_layers": 88, "routed_scaling_factor": 5.0, "topk_group": 1,
            "attention_bias": False, "conv_kernel": 4, "head_dim": 128, "hidden_size": 4096,
            "intermediate_size": 2688, "mamba_head_dim": 64, "mamba_num_heads": 128, "mamba_proj_bias": False,
            "mlp_bias": False, "moe_intermediate_size": 2688, "moe_shared_expert_intermediate_size": 5376,
            "n_groups": 8, "n_shared_experts": 1, "num_attention_heads": 32, "num_key_value_heads": 2,
            "ssm_state_size": 128, "use_bias": False, "use_conv_bias": True, "vocab_size": 131072,
        },
        experts=512, top_k=22,
        layers=_blocks(
            "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME", "E"
        ),
        published=120_600_000_000, built=120_668_707_840,
        figure="technical report; prediction layers, which mlx-lm drops, left out",
        source="ai-dynamo/aiconfigurator model_configs/nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8_config.json",
    ),
    "Nemotron-3-Ultra": Public(
        {
            "model_type": "nemotron_h", "moe_latent_size": 2048, "n_group": 1, "n_routed_experts": 512,
            "norm_topk_prob": True, "num_experts_per_tok": 22, "routed_scaling_factor": 5.0, "topk_group": 1,
            "layers_block_type": [
                "mamba", "moe", "mamba", "moe", "mamba", "moe", "mamba", "attention", "moe", "mamba", "moe", "mamba",
                "moe", "mamba", "attention", "moe", "mamba", "moe", "mamba", "moe", "mamba", "moe", "mamba",
                "attention", "moe", "mamba", "moe", "mamba", "moe", "mamba", "moe", "mamba", "attention", "moe",
                "mamba", "moe", "mamba", "moe", "mamba", "attention", "moe", "mamba", "moe", "mamba", "moe", "mamba",
                "moe", "mamba", "attention", "moe", "mamba", "moe", "mamba", "moe", "mamba", "moe", "mamba",
                "attention", "moe", "mamba", "moe", "mamba", "moe", "mamba", "attention", "moe", "mamba", "moe",
                "mamba", "moe", "mamba", "moe", "mamba", "attention", "moe", "mamba", "moe", "mamba", "moe", "mamba",
                "moe", "mamba", "attention", "moe", "mamba", "moe", "mamba", "moe", "mamba", "attention", "moe",
                "mamba", "moe", "mamba", "moe", "mamba", "moe", "mamba", "attention", "moe", "mamba", "moe", "mamba",
                "moe", "mamba", "moe", "mamba", "moe"
            ],
            "attention_bias": False, "conv_kernel": 4, "head_dim": 128, "hidden_size": 8192,
            "intermediate_size": 5120, "mamba_head_dim": 64, "mamba_num_heads": 256, "mamba_proj_bias": False,
            "mlp_bias": False, "moe_intermediate_size": 5120, "moe_shared_expert_intermediate_size": 10240,
            "n_groups": 8, "n_shared_experts": 1, "num_attention_heads": 64, "num_key_value_heads": 2,
            "ssm_state_size": 128, "use_bias": False, "use_conv_bias": True, "vocab_size": 131072,
        },
        experts=512, top_k=22,
        layers=[
            1, 3, 5, 8, 10, 12, 15, 17, 19, 21, 24, 26, 28, 30, 33, 35, 37, 40, 42, 44, 46, 49, 51, 53, 55, 58, 60,
            62, 65, 67, 69, 71, 74, 76, 78, 80, 83, 85, 87, 90, 92, 94, 96, 99, 101, 103, 105, 107
        ],
        published=550_000_000_000, built=549_308_993_536,
        figure="name of the model; prediction layers, which mlx-lm drops, left out",
        source="ai-dynamo/aiconfigurator model_configs/nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16_config.json",
    ),
    "Trinity-Mini": Public(
        {
            "model_type": "afmoe", "num_hidden_layers": 32, "num_experts": 128, "num_experts_per_tok": 8,
            "num_dense_layers": 2, "route_norm": True, "route_scale": 2.826, "score_func": "sigmoid", "n_group": 1,
            "topk_group": 1, "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 8, "head_dim": 128,
            "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 1024, "num_attention_heads": 32,
            "num_key_value_heads": 4, "num_shared_experts": 1, "vocab_size": 200192,
        },
        experts=128, top_k=8, layers=range(2, 32),
        published=26_000_000_000, built=26_123_974_400,
        figure="model card",
        source="whn09/neuronx-distributed-inference contrib/models/Trinity/test/unit/test_config.py",
    ),
    "Solar-Open-100B": Public(
        {
            "model_type": "solar_open", "num_hidden_layers": 48, "num_experts_per_tok": 8, "n_routed_experts": 128,
            "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
            "first_k_dense_replace": 0, "partial_rotary_factor": 1.0, "attention_bias": False, "head_dim": 128,
            "hidden_size": 4096, "intermediate_size": 10240, "moe_intermediate_size": 1280, "n_shared_experts": 1,
            "num_attention_heads": 64, "num_key_value_heads": 8, "tie_word_embeddings": False, "vocab_size": 196608,
        },
        experts=128, top_k=8, layers=range(48),
        published=102_000_000_000, built=102_651_799_552,
        figure="model card",
        source="transformers' SolarOpenConfig without arguments; lablup/mlxcel src/models/solar_open.rs",
    ),
    "Klear-46B-A2.5B": Public(
        {
            "model_type": "Klear", "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
            "num_experts": 256, "num_experts_per_tok": 8, "num_hidden_layers": 32, "attention_bias": False,
            "hidden_size": 2048, "intermediate_size": 8064, "moe_intermediate_size": 896, "n_shared_experts": 1,
            "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 151936,
        },
        experts=256, top_k=8, layers=range(32),
        published=46_000_000_000, built=46_214_690_880,
        figure="name of the model",
        source="lablup/mlxcel src/models/klear_tests.rs",
    ),
    "K-EXAONE-236B-A23B": Public(
        {
            "model_type": "exaone_moe", "num_hidden_layers": 48, "num_experts": 128, "num_experts_per_tok": 8,
            "is_moe_layer": [False] + [True] * 47, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.5,
            "norm_topk_prob": True, "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 12,
            "head_dim": 128, "hidden_size": 6144, "intermediate_size": 18432, "moe_intermediate_size": 2048,
            "num_attention_heads": 64, "num_key_value_heads": 8, "num_shared_experts": 1, "sliding_window": 128,
            "vocab_size": 153600,
        },
        experts=128, top_k=8, layers=range(1, 48),
        published=236_000_000_000, built=236_571_156_352,
        figure="LG-AI-EXAONE/K-EXAONE README.md; prediction layers, which mlx-lm drops, left out",
        source=(
            "NVIDIA/TensorRT-LLM tests/unittest/_torch/modeling/test_modeling_exaone_moe.py, cut to 4 layers "
            "there; 48 of them give the published count"
        ),
    ),
    "Mistral-Small-4": Public(
        {
            "model_type": "mistral4", "num_hidden_layers": 36, "n_routed_experts": 128, "routed_scaling_factor": 1.0,
            "n_group": 1, "topk_group": 1, "num_experts_per_tok": 4, "first_k_dense_replace": 0,
            "norm_topk_prob": True, "attention_bias": False, "hidden_size": 4096, "intermediate_size": 12288,
            "kv_lora_rank": 256, "moe_intermediate_size": 2048, "n_shared_experts": 1, "num_attention_heads": 32,
            "num_key_value_heads": 32, "q_lora_rank": 1024, "qk_nope_head_dim": 64, "qk_rope_head_dim": 64,
            "tie_word_embeddings": False, "v_head_dim": 128, "vocab_size": 131072,
        },
        experts=128, top_k=4, layers=range(36),
        published=119_000_000_000, built=118_972_826_624,
        figure="name of the model; text part only",
        source="transformers' Mistral4Config without arguments",
    ),
    "Gemma-4-26B-A4B": Public(
        {
            "model_type": "gemma4",
            "text_config": {
                "model_type": "gemma4_text", "num_experts": 128, "num_hidden_layers": 30, "top_k_experts": 8,
                "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5, "attention_k_eq_v": True,
                "enable_moe_block": True, "global_head_dim": 512, "head_dim": 256, "hidden_size": 2816,
                "hidden_size_per_layer_input": 0, "intermediate_size": 2112, "moe_intermediate_size": 704,
                "num_attention_heads": 16, "num_global_key_value_heads": 2, "num_key_value_heads": 8,
                "num_kv_shared_layers": 0, "tie_word_embeddings": True,
            },
        },
        experts=128, top_k=8, layers=range(30),
        published=25_200_000_000, built=25_233_141_790,
        figure="model card; text part only",
        source="ai-dynamo/aiconfigurator model_configs/google--gemma-4-26B-A4B_config.json",
    ),
    "Mellum2-12B-A2.5B": Public(
        {
            "model_type": "mellum", "num_hidden_layers": 28, "num_experts_per_tok": 8, "norm_topk_prob": True,
            "num_experts": 64, "layer_types": ["full_attention"] * 28,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            "head_dim": 128, "hidden_size": 2304, "intermediate_size": 7168, "moe_intermediate_size": 896,
            "num_attention_heads": 32, "num_key_value_heads": 4, "sliding_window": 1024, "tie_word_embeddings": False,
            "vocab_size": 98304,
        },
        experts=64, top_k=8, layers=range(28),
        published=12_000_000_000, built=12_149_923_072, rounded_to=1_000_000_000,
        figure="arXiv 2605.31268, a figure rounded to a billion; prediction layers, which mlx-lm drops, left out",
        source="transformers' MellumConfig without arguments",
    ),
    "Laguna-XS.2": Public(
        {
            "model_type": "laguna", "num_hidden_layers": 40, "num_experts_per_tok": 8, "num_experts": 256,
            "mlp_layer_types": ["dense"] + ["sparse"] * 39, "moe_routed_scaling_factor": 1.0,
            "moe_router_logit_softcapping": 0.0, "attention_bias": False, "gating": True, "head_dim": 128,
            "hidden_size": 2048, "intermediate_size": 8192, "moe_intermediate_size": 512, "num_attention_heads": 48,
            "num_key_value_heads": 8, "shared_expert_intermediate_size": 512, "tie_word_embeddings": False,
            "vocab_size": 100352,
        },
        experts=256, top_k=8, layers=range(1, 40),
        published=33_000_000_000, built=33_189_975_808,
        figure="model card",
        source="transformers' LagunaConfig without arguments",
    ),
    "DBRX": Public(
        {
            "model_type": "dbrx", "attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "rope_theta": 500000},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}, "d_model": 6144,
            "n_heads": 48, "n_layers": 40, "vocab_size": 100352,
        },
        experts=16, top_k=4, layers=range(40),
        published=132_000_000_000, built=131_596_523_520,
        figure="DBRX release note",
        source="erfanzar/EasyDeL easydel/modules/dbrx/dbrx_configuration.py",
    ),
}
# fmt: on
