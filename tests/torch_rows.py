"""A tiny config of every mixture of experts that transformers 5.24 has, with values that are no one's default."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

E, K, HIDDEN, VOCABULARY = 12, 3, 64, 320
DROP = object()

# Whatever of these a model's config knows, it gets.
SIZES: Mapping[str, Any] = MappingProxyType(
    dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), E)
    | dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts"), K)
    | dict.fromkeys(("n_group", "num_expert_group"), 3)
    | dict.fromkeys(
        (
            "routed_scaling_factor",
            "route_scale",
            "router_scaling_factor",
            "moe_routed_scaling_factor",
            "moe_router_scaling_factor",
        ),
        1.7,
    )
    | dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "first_k_dense_replace"), 1)
    | dict.fromkeys(
        (
            "moe_shared_expert_intermediate_size",
            "shared_expert_intermediate_size",
            "shared_intermediate_size",
            "shared_experts_intermediate_size",
        ),
        24,
    )
    | {
        "vocab_size": VOCABULARY,
        "unpadded_vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "moe_intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "topk_group": 2,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "num_dense_layers": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "index_topk": 64,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
        "sliding_window": 7,
        "sliding_window_size": 7,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 16,
    }
)
# The same of the parts that see and hear, which no test runs.
SEEING: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "depth": 2,
        "num_attention_heads": 4,
        "num_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "image_size": 28,
        "patch_size": 14,
        "out_hidden_size": HIDDEN,
        "text_hidden_size": HIDDEN,
        "n_layers": 2,
        "vocab_size": VOCABULARY,
        "unpadded_vocab_size": VOCABULARY,
        "num_position_embeddings": 64,
        "encoder_layers": 2,
        "d_model": 32,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "output_dim": HIDDEN,
        "deepstack_visual_indexes": [0, 1],
    }
)


class TorchRow(NamedTuple):
    """One model type of transformers.

    config: what it has beyond `SIZES`, DROP for what it should not have. layers: its sparse blocks. variants: changes,
    inside the language model. text: the type of the language model inside ``model_type``. parts: types of the other
    parts of a multimodal model by their keys, or all that they have instead of `SEEING`. outer: settings beside them.
    on_both: changes without which mlx-lm computes something else, or cannot.
    """

    model_type: str
    config: Mapping[str, Any] = MappingProxyType({})
    layers: tuple[int, ...] = (0, 1, 2)
    variants: tuple[Mapping[str, Any], ...] = ()
    text: str = ""
    parts: Mapping[str, str | Mapping[str, Any]] = MappingProxyType({})
    outer: Mapping[str, Any] = MappingProxyType({})
    on_both: Mapping[str, Any] = MappingProxyType({})


TYPES = (1, 2)  # the default of SIZES: one dense block first
FLAGS = ({"norm_topk_prob": True}, {"norm_topk_prob": False})
RENORMALISE = ({"moe_renormalize": True}, {"moe_renormalize": False})
HYBRID = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
SECOND_IS_DENSE = {"mlp_only_layers": [1]}
FIRST_LINEAR = {"layer_types": ["linear_attention", "full_attention", "full_attention"]}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_SAM = {
    "hidden_size": 32,
    "output_channels": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 64,
    "mlp_dim": 48,
    "downsample_channels": [24, 32],
    "global_attn_indexes": [0],
}
_ENCODER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
_GROUPED_V2 = {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2}
_V2 = ({"topk_method": "greedy"}, _GROUPED_V2)


def _dbrx(p: float | None) -> dict[str, Any]:
    sizes = {"ffn_hidden_size": 48, "moe_num_experts": E, "moe_top_k": K, "moe_normalize_expert_weights": p}
    return {"ffn_config": sizes}


ROWS = [
    # Softmax over all, then top-K.
    TorchRow("olmoe", variants=FLAGS),
    TorchRow("flex_olmo", variants=FLAGS),
    TorchRow("mellum", layers=TYPES, variants=FLAGS, on_both={"mlp_layer_types": ["sparse"] * 3}),
    TorchRow("qwen2_moe", SECOND_IS_DENSE, (0, 2), FLAGS, on_both={"mlp_only_layers": []}),
    TorchRow("qwen3_moe", SECOND_IS_DENSE, (0, 2), FLAGS),
    TorchRow("qwen3_next", {**SECOND_IS_DENSE, **HYBRID}, (0, 2), FLAGS),
    TorchRow("qwen3_5_moe_text", HYBRID),
    TorchRow("qwen3_5_moe", HYBRID, text="qwen3_5_moe_text", parts={"vision_config": "qwen3_5_moe_vision"}),
    TorchRow(
        "qwen4_exp_text",
        {
            "layer_types": ["linear_attention", "indexed_attention", "linear_attention"],
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 16,
            "indexer_compress_ratio": 2,
            "hc_lowrank": 8,
            "ple_embed_dim": 16,
        },
        variants=FLAGS,
    ),
    TorchRow(
        "qwen3_vl_moe",
        {**SECOND_IS_DENSE, "sliding_window": DROP},
        (0, 2),
        text="qwen3_vl_moe_text",
        parts={"vision_config": "qwen3_vl_moe_vision"},
    ),
    TorchRow(
        "qwen3_omni_moe_thinker",
        {**SECOND_IS_DENSE, "sliding_window": DROP},
        (0, 2),
        FLAGS,
        "qwen3_omni_moe_text",
        {"vision_config": "qwen3_omni_moe_vision_encoder", "audio_config": "qwen3_omni_moe_audio_encoder"},
    ),
    TorchRow("minimax", {"sliding_window": DROP}),
    TorchRow("lara_mini", variants=FLAGS),
    TorchRow("hunyuan_v1_moe", variants=({"moe_topk": [2, 3, 4]},)),
    TorchRow(
        "ernie4_5_moe",
        {"moe_layer_start_index": 1, "moe_layer_end_index": 2, "moe_layer_interval": 1},
        TYPES,
        ({}, {"moe_norm_min": 0.6}),
    ),
    TorchRow(
        "ernie4_5_vl_moe",
        {"moe_intermediate_size": [40, 24], "rope_parameters": {**ROPE, "mrope_section": [2, 2, 4]}},
        TYPES,
        text="ernie4_5_vl_moe_text",
        parts={"vision_config": "ernie4_5_vl_moe_vision"},
    ),
    TorchRow(
        "dbrx",
        {
            "d_model": HIDDEN,
            "n_heads": 4,
            "n_layers": 3,
            "max_seq_len": 64,
            "num_key_value_heads": DROP,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 700.0},
            **_dbrx(1.0),
        },
        variants=(_dbrx(1.0), _dbrx(2.0), _dbrx(None)),
    ),
    TorchRow("deepseek_v2", {"rope_parameters": YARN}, TYPES, variants=_V2),
    TorchRow(
        "deepseek_ocr2",
        _GROUPED_V2,
        TYPES,
        text="deepseek_ocr2_text",
        outer={
            "vision_config": {
                "model_type": "deepseek_ocr2_vision",
                "sam_config": _SAM,
                "encoder_config": {**_ENCODER, "num_key_value_heads": 4, "vocab_size": VOCABULARY},
            }
        },
    ),
    TorchRow(
        "unlimited_ocr",
        {**_GROUPED_V2, "num_key_value_heads": 4},
        TYPES,
        text="unlimited_ocr_text",
        outer={
            "vision_config": {
                "model_type": "unlimited_ocr_vision",
                "sam_config": _SAM,
                "encoder_config": {**_ENCODER, "image_size": 28},
            }
        },
    ),
    TorchRow("mistral4", layers=TYPES, variants=FLAGS),
    TorchRow("mistral_large4", layers=TYPES, text="mistral_large4_text", parts={"vision_config": "pixtral"}),
    TorchRow(
        "longcat_flash",
        {"num_layers": 3, "head_dim": 8, "zero_expert_num": 4, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 40},
    ),
    TorchRow(
        "jamba",
        {
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
        (1,),
    ),
    # Top-K, then softmax.
    TorchRow("mixtral", {"sliding_window": DROP}),
    TorchRow("gpt_oss", on_both={"rope_parameters": {**ROPE, "rope_theta": 700.0}}),
    TorchRow("granitemoe"),
    TorchRow("granitemoeshared"),
    TorchRow("granitemoe_swa"),
    TorchRow("granitemoehybrid", {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, **HYBRID}),
    TorchRow("aria_text"),
    TorchRow(
        "cohere2_moe",
        layers=TYPES,
        variants=(
            {"expert_selection_fn": "softmax", "norm_topk_prob": False},
            *({"expert_selection_fn": "sigmoid", **flag} for flag in FLAGS),
        ),
    ),
    TorchRow("jetmoe", {"kv_channels": 16}),
    TorchRow(
        "gemma4_text",
        {
            "enable_moe_block": True,
            "hidden_size_per_layer_input": 0,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "per_layer_config": DROP,
        },
    ),
    TorchRow(
        "gemma4",
        {
            "enable_moe_block": True,
            "hidden_size_per_layer_input": 0,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "per_layer_config": DROP,
        },
        text="gemma4_text",
        parts={"vision_config": "gemma4_vision"},
        outer={"vocab_size": VOCABULARY},
    ),
    TorchRow(
        "mistral3",
        {},
        TYPES,
        text="mistral4",
        parts={"vision_config": "pixtral"},
    ),
    TorchRow(
        "phimoe",
        {"num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True, "sliding_window": DROP},
        variants=({"router_jitter_noise": 0.01}, {"router_jitter_noise": 0.13}),
    ),
    # Sigmoid.
    TorchRow(
        "llama4_text",
        {"intermediate_size_mlp": 48, "interleave_moe_layer_step": 2, "attention_chunk_size": 8},
        (1,),
        ({}, {"num_experts_per_tok": 1}),
    ),
    TorchRow(
        "llama4",
        {
            "intermediate_size_mlp": 48,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 8,
            "num_hidden_layers": 4,  # mlx-lm reads the mask of the fourth
            "num_experts_per_tok": 1,
        },
        (1, 3),
        text="llama4_text",
        parts={"vision_config": "llama4_vision_model"},
        on_both={"rms_norm_eps": 1e-6},
    ),
    TorchRow("afmoe", {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}, TYPES),
    TorchRow("flint", SECOND_IS_DENSE, (0, 2), FLAGS),
    TorchRow("kolibri1", variants=FLAGS),
    TorchRow("lfm2_moe", {"layer_types": ["conv", "full_attention", "conv"]}, TYPES, FLAGS),
    TorchRow(
        "laguna",
        {
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "num_attention_heads_per_layer": DROP,
        },
        TYPES,
        ({"moe_router_logit_softcapping": 0.0}, {"moe_router_logit_softcapping": 1.3}),
    ),
    TorchRow("minimax_m2"),
    TorchRow(
        "minimax_m3_vl",
        {
            "layer_types": ["full_attention"] * 3,
            "dense_intermediate_size": 48,
            "rotary_dim": 8,
            "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5},
        },
        TYPES,
        text="minimax_m3_vl_text",
        parts={"vision_config": "minimax_m3_vl_vision"},
    ),
    TorchRow(
        "minimax_m3_vl_text",
        {
            "layer_types": ["full_attention"] * 3,
            "dense_intermediate_size": 48,
            "rotary_dim": 8,
            "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5},
        },
        TYPES,
    ),
    TorchRow("step3p7", {}, TYPES, text="step3p5", parts={"vision_config": "step3p5_vision"}),
    TorchRow("hy_v3", layers=TYPES),
    TorchRow(
        "muse_spark",
        {
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "moe_hidden_size": 32,
            "layer_rope_theta": DROP,
        },
        TYPES,
        text="muse_spark_text",
        parts={
            "vision_config": {
                "model_type": "muse_spark_vision",
                "layer_types": ["window_attention", "full_attention"],
                "pos_emb_height": 4,
                "pos_emb_width": 4,
            },
            "audio_config": {
                "model_type": "muse_spark_audio",
                "num_hidden_layers": DROP,
                "depths": [1, 1, 1, 1],
                "hidden_sizes": [8, 16, 24, 32],
                "out_hidden_size": HIDDEN,
            },
        },
    ),
    # By a setting.
    TorchRow("deepseek_v4", {"mlp_layer_types": ["hash_moe", "moe", "moe"]}, TYPES),
    TorchRow("inkling2_text", variants=({"scoring_func": "sigmoid"}, {"scoring_func": "sqrtsoftplus"})),
    TorchRow("inkling2_loop_text"),
    # DeepSeek-V3's form.
    *(
        TorchRow(name, layers=TYPES, variants=FLAGS)
        for name in (
            "deepseek_v3",
            "deepseek_v32",
            "axk1",
            "glm4_moe",
            "glm_moe_dsa",
            "dots1",
            "hy_v4",
            "exaone_moe",
            "beam",
            "sarvam_moe",
            "sarvam_mla",
        )
    ),
    TorchRow("glm4_moe_lite", layers=TYPES, variants=FLAGS, on_both={"rms_norm_eps": 1e-6}),
    TorchRow(
        "mimo_v2_flash",
        {
            "rope_parameters": {
                kind: {**ROPE, "partial_rotary_factor": 0.5} for kind in ("full_attention", "sliding_attention")
            }
        },
        TYPES,
        FLAGS,
    ),
    TorchRow("solar_open", {"first_k_dense_replace": DROP}, variants=FLAGS),
    TorchRow("axk2", {"n_group": 3, "topk_group": 2}, TYPES, ({}, {"n_group": None, "topk_group": None})),
    TorchRow("dots3_note_text", {"per_layer_config": DROP}, TYPES, FLAGS),
    TorchRow(
        "bailing_hybrid",
        {"num_expert_group": 3, **FIRST_LINEAR, "layer_group_size": 2, "linear_head_dim": 8},
        TYPES,
        RENORMALISE,
    ),
    TorchRow("kimi_linear", {**HYBRID, "q_lora_rank": None}, TYPES, RENORMALISE, on_both={"rms_norm_eps": 1e-6}),
    TorchRow(
        "nemotron_h",
        {
            "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
            "num_hidden_layers": DROP,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 2,
            "chunk_size": 8,
            "use_mamba_kernels": False,
        },
        (1, 3),
        (*FLAGS, {"moe_latent_size": 32}),
    ),
    TorchRow(
        "glm4v_moe",
        {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}},
        TYPES,
        FLAGS,
        "glm4v_moe_text",
        {"vision_config": "glm4v_moe_vision"},
    ),
    TorchRow(
        "glm5_next",
        {"qk_rope_head_dim": 0, "layer_types": ["linear_attention", "indexed_attention", "linear_attention"]},
        TYPES,
        FLAGS,
        "glm5_next_text",
        {"vision_config": "glm5_next_vision"},
    ),
    TorchRow(
        "hy_v4_vl",
        {"rope_parameters": {**ROPE, "mrope_section": [2, 1, 1]}},
        TYPES,
        FLAGS,
        "hy_v4_vl_text",
        {"vision_config": "hy_v4_vl_vision"},
    ),
    TorchRow(
        "kimi_k25",
        {},
        TYPES,
        FLAGS,
        "deepseek_v3",
        {"vision_config": "kimi_k25_vision"},
        {"tie_word_embeddings": False},
    ),
]
BY_TYPE = {row.model_type: row for row in ROWS}
CASES = [(row, variant) for row in ROWS for variant in row.variants or ({},)]


def config_of(row: TorchRow, variant: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """transformers' config of a row."""
    from transformers import CONFIG_MAPPING

    text = _tiny(row.text or row.model_type, {**row.config, **variant}, SIZES)
    if not row.text:
        return CONFIG_MAPPING[row.model_type](**text)
    parts: dict[str, Any] = {"text_config": {"model_type": row.text, **text}, **row.outer}
    for key, part in row.parts.items():
        changes = {"model_type": part} if isinstance(part, str) else part
        parts[key] = _tiny(changes["model_type"], changes, SEEING)
    return CONFIG_MAPPING[row.model_type](**parts)


def settings_of(row: TorchRow) -> dict[str, Any]:
    """The settings of the language model of a row."""
    return dict(config_of(row).get_text_config().to_dict())


def _tiny(model_type: str, changes: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a config of this type has among ``sizes``, and changes."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    known = kind().to_dict()
    names = {value: key for key, value in kind.attribute_map.items()}
    settings = {
        key: sizes.get(key, sizes.get(names.get(key))) for key in known if key in sizes or names.get(key) in sizes
    }
    if "kv_lora_rank" in known:  # latent attention has as many keys as queries, and sizes of its own
        settings.pop("head_dim", None)
        if "num_key_value_heads" in settings:
            settings["num_key_value_heads"] = settings["num_attention_heads"]
    settings |= changes
    return {key: value for key, value in settings.items() if value is not DROP}
