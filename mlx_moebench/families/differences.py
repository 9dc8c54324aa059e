"""What mlx-lm 0.32.2 and transformers 5.24 compute differently from one checkpoint, and what of it mlx-lm cannot read.

tests/test_parity.py holds both lists to the installed libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_ALWAYS: Mapping[str, Any] = MappingProxyType({})


class Difference(NamedTuple):
    """One thing that both compute, each in its own way.

    what: in a few words. mlx_lm, transformers: what each does. right: which of them does what the model's authors
    published, and by which source; "" where that is not known. shown_by: settings under which it shows; none for every
    checkpoint. bias: it may show from here on down, where selection biases are about this. refused: MLX's backend
    refuses such a checkpoint, so that no report holds it.
    """

    model_types: tuple[str, ...]
    what: str
    mlx_lm: str
    transformers: str
    right: str = ""
    shown_by: Mapping[str, Any] = _ALWAYS
    bias: float | None = None
    refused: bool = False


class Unreadable(NamedTuple):
    """Weights that transformers writes, by default, under names or in a layout that mlx-lm does not know."""

    model_type: str
    why: str


_V3 = (
    "deepseek_v3",
    "deepseek_v32",
    "glm_moe_dsa",
    "kimi_k25",
    "glm4_moe",
    "solar_open",
    "glm4_moe_lite",
    "mimo_v2_flash",
    "exaone_moe",
    "dots1",
    "nemotron_h",
)

DIFFERENCES = (
    Difference(
        (*_V3, "kimi_linear"),
        "experts of dropped groups",
        "count 0, so that they win over experts of kept groups whose biased score is negative",
        "count -inf, and are never chosen",
        "transformers: DeepSeek-V3's own inference code masks dropped groups with -inf",
        bias=-0.5,
    ),
    Difference(
        _V3,
        "a single chosen expert",
        "keeps its score, times the scale",
        "has its score divided by itself: its weight is the scale",
        shown_by={"num_experts_per_tok": 1, "norm_topk_prob": True},
    ),
    Difference(
        ("kimi_linear",),
        "a single chosen expert",
        "keeps its score, times the scale",
        "has its score divided by itself: its weight is the scale",
        shown_by={"num_experts_per_token": 1, "moe_renormalize": True},
    ),
    Difference(
        ("qwen2_moe",),
        "norm_topk_prob",
        "ignores it and never renormalises",
        "renormalises where it is true",
        "transformers: Qwen's own code reads it; Qwen1.5-MoE-A2.7B sets it to false, where both agree",
        {"norm_topk_prob": True},
        refused=True,
    ),
    Difference(
        ("ernie4_5_moe",),
        "selection bias",
        "drops it when weights are read",
        "adds it to the scores for the choice",
        "transformers: Baidu's checkpoints hold it",
    ),
    Difference(
        ("jamba",),
        "gate weights",
        "softmax over the chosen",
        "softmax over all, not renormalised",
        "transformers: AI21's own code",
    ),
    Difference(
        ("jamba",),
        "sparse blocks",
        "index plus expert_layer_offset is divided by expert_layer_period",
        "index minus expert_layer_offset is; they agree for a period of 2",
        "transformers: AI21's own code",
        {"expert_layer_period": 3},
        refused=True,
    ),
    Difference(
        ("mellum",),
        "dense blocks",
        "builds none",
        "follows mlp_layer_types",
        shown_by={"mlp_layer_types": ["dense", "sparse", "sparse"]},
        refused=True,
    ),
    Difference(
        ("qwen2_moe",),
        "dense blocks",
        "builds none",
        "follows decoder_sparse_step and mlp_only_layers",
        "transformers: Qwen's own code",
        {"mlp_only_layers": [1]},
        refused=True,
    ),
    Difference(
        ("solar_open",),
        "dense blocks",
        "the first first_k_dense_replace",
        "builds none",
        shown_by={"first_k_dense_replace": 1},
        refused=True,
    ),
    Difference(
        ("dbrx",),
        "norm of the weights",
        "divides by the sum",
        "divides by the p-norm that ffn_config.moe_normalize_expert_weights gives",
        "transformers: Databricks' own code",
        {"ffn_config": {"moe_normalize_expert_weights": 2.0}},
        refused=True,
    ),
    Difference(
        ("dbrx",),
        "weights without a norm",
        "divides by the sum",
        "leaves the chosen probabilities as they are, where ffn_config.moe_normalize_expert_weights is null",
        "transformers: Databricks' own code",
        {"ffn_config": {"moe_normalize_expert_weights": None}},
        refused=True,
    ),
    Difference(
        ("dbrx",),
        "rotary base",
        "attn_config.rope_theta",
        "rope_parameters.rope_theta, 10,000 without it",
        "mlx-lm: Databricks' own code reads attn_config.rope_theta, 500,000",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    ),
    Difference(
        ("ernie4_5_moe",),
        "smallest divisor of the weights",
        "1e-12",
        "moe_norm_min, 1e-12 by default",
        "transformers: Baidu's own code",
        {"moe_norm_min": 0.6},
    ),
    Difference(
        ("afmoe",),
        "a single chosen expert",
        "keeps its score, times the scale",
        "has its score divided by itself: its weight is the scale",
        shown_by={"num_experts_per_tok": 1},
    ),
    Difference(
        ("afmoe",),
        "groups",
        "limits the choice by n_group and topk_group",
        "reads neither",
        shown_by={"n_group": 3, "topk_group": 1},
    ),
    Difference(
        ("afmoe",),
        "route_norm",
        "renormalises where it is true",
        "renormalises always",
        shown_by={"route_norm": False},
    ),
    Difference(
        ("longcat_flash",),
        "norm_topk_prob",
        "renormalises where it is true",
        "never renormalises",
        shown_by={"norm_topk_prob": True},
    ),
    Difference(
        ("qwen3_vl_moe", "qwen3_5_moe"),
        "norm_topk_prob",
        "renormalises where it is true",
        "renormalises always",
        shown_by={"norm_topk_prob": False},
    ),
    Difference(
        ("bailing_hybrid",),
        "moe_renormalize",
        "renormalises always",
        "renormalises where it is true",
        shown_by={"moe_renormalize": False},
    ),
    Difference(
        ("llama4",),
        "epsilon of the norms of queries and keys",
        "1e-6",
        "rms_norm_eps",
        shown_by={"rms_norm_eps": 1e-5},
    ),
    Difference(
        ("longcat_flash",),
        "epsilon of the norms inside latent attention",
        "1e-5",
        "1e-6",
    ),
    Difference(
        ("gpt_oss",),
        "bounds of YaRN's ramp",
        "rounds them to whole dimensions",
        "rounds them unless rope_parameters.truncate is false, as in OpenAI's checkpoints",
        "transformers: OpenAI's own code does not round",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 700.0,
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    Difference(
        ("glm4_moe_lite", "kimi_linear"),
        "epsilon of the norms inside latent attention",
        "rms_norm_eps",
        "1e-6",
        shown_by={"rms_norm_eps": 1e-5},
    ),
)

UNREADABLE = (
    Unreadable("gpt_oss", "whole weights: mlx-lm reads the packed ones (MXFP4) of OpenAI's checkpoints"),
    Unreadable("longcat_flash", "weights for zero experts, which have none"),
    Unreadable("qwen3_vl_moe", "fused experts [E, 2 I, H], which Qwen's checkpoints hold as [E, H, 2 I]"),
    Unreadable("kimi_k25", "model.blocks in the place of model.layers, a name of the vision tower's"),
    Unreadable("kimi_linear", "the MLP of dense blocks under the name of sparse ones"),
    Unreadable("bailing_hybrid", "the output of linear attention under the name of full attention's"),
)
