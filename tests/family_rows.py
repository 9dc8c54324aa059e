"""The table of families: one row each, from which the tests build a tiny random model of it, and its real ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Real(NamedTuple):
    """A public model. config: the numbers that shape it. routers: as in `Row`. parameters: of the whole model."""

    config: dict[str, Any]
    routers: list[tuple[str, int, int]]
    parameters: int


class Row(NamedTuple):
    """config: of a tiny model with three blocks. routers: (router, E, K) of one sparse block, in running order.

    layers: which of the blocks are sparse. variants: changes of the config under which mlx-lm and transformers still
    agree. refused: for every setting that the family calls built in, another value. real: public models by name.
    """

    model_type: str
    config: dict[str, Any]
    routers: list[tuple[str, int, int]]
    layers: tuple[int, ...] = (0, 1, 2)
    variants: tuple[dict[str, Any], ...] = ()
    refused: Mapping[str, Any] = _NOTHING
    real: Mapping[str, Real] = _NOTHING

    @property
    def specs(self) -> list[tuple[int, int, str, int, int]]:
        """(layer, moe_layer, router, E, K) of every router, in running order."""
        return [(layer, n, *router) for n, layer in enumerate(self.layers) for router in self.routers]


_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-5,
    "vocab_size": 320,
    "eos_token_id": 0,
}
_LINEAR_ROPE = {"rope_type": "linear", "factor": 2.0}

ROWS = [
    Row(
        "olmoe",
        _SIZES
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
    ),
    Row(
        "mixtral",
        _SIZES
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
        refused={"hidden_act": "gelu", "rope_scaling": _LINEAR_ROPE, "sliding_window": 8},
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
    ),
    Row(
        "qwen2_moe",
        _SIZES
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
            "rope_scaling": _LINEAR_ROPE,
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
    ),
    Row(
        "jetmoe",
        _SIZES
        | {
            "architectures": ["JetMoeForCausalLM"],
            "model_type": "jetmoe",
            "num_key_value_heads": 2,
            "kv_channels": 16,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
        },
        [("attention", 8, 3), ("mlp", 8, 3)],
        variants=({"num_experts_per_tok": 1},),
        real={
            # JetMoeConfig of transformers with num_hidden_layers=24; its docstring names jetmoe/jetmoe-8b
            "JetMoE-8B": Real(
                {
                    "model_type": "jetmoe",
                    "hidden_size": 2048,
                    "intermediate_size": 5632,
                    "num_hidden_layers": 24,
                    "num_key_value_heads": 16,
                    "kv_channels": 128,
                    "num_local_experts": 8,
                    "num_experts_per_tok": 2,
                    "vocab_size": 32000,
                },
                [("attention", 8, 2), ("mlp", 8, 2)],
                8_522_237_952,
            ),
        },
    ),
]

CONFIGS = {row.model_type: row.config for row in ROWS}
BY_TYPE = {row.model_type: row for row in ROWS}
