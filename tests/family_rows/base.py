"""What a row says, and the sizes that most rows share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_NOTHING: Mapping[str, Any] = MappingProxyType({})

Paths = str | tuple[str, ...]
"""A dotted path inside a layer, or where a layer has several routers one for each of them."""


class Real(NamedTuple):
    """A public model. config: the numbers that shape it. routers: as in `Row`. parameters: of the whole model."""

    config: dict[str, Any]
    routers: list[tuple[str, int, int]]
    parameters: int


class Place(NamedTuple):
    """The paths of one router: `Row.block`, `gate`, `experts` and `bias`."""

    block: str
    gate: str
    experts: str
    bias: str


class Row(NamedTuple):
    """One model type.

    config: of a tiny model, as mlx-lm reads it. routers: (router, E, K) of one sparse block, in running order.
    layers: which of the blocks are sparse. variants: changes of the config under which mlx-lm and transformers still
    agree. refused: for every setting that the family calls built in, another value. real: public models by name.
    aliases: further values of ``model_type`` that mlx-lm loads as this one.

    Dotted paths inside a sparse layer. block: the module whose output is the sparse block's. gate: the module that
    holds the router's weight. experts: the module that is called with ``(x, indices)``. bias: the parameter that is
    added for the selection only, or "". random: parameters that are built as all zeros or all ones, and decide, too.

    fill: what mlx-lm puts in the place of the scores of dropped groups; None where there are no groups.
    zero_experts: rows of the gate's weight beyond the E experts, which return their input.
    scales_input: whether experts are given g x and their outputs are summed as they are.
    note: what is not obvious. unrunnable: why it cannot run on a CPU. uncompilable: what MLX says where its forward
    cannot be compiled, as it reads numbers of arrays; no_gradient: what it says where there is no gradient.
    """

    model_type: str
    config: dict[str, Any]
    routers: list[tuple[str, int, int]]
    layers: tuple[int, ...] = (0, 1, 2)
    variants: tuple[dict[str, Any], ...] = ()
    refused: Mapping[str, Any] = _NOTHING
    real: Mapping[str, Real] = _NOTHING
    aliases: tuple[str, ...] = ()
    block: Paths = "mlp"
    gate: Paths = "mlp.gate"
    experts: Paths = "mlp.switch_mlp"
    bias: Paths = ""
    random: tuple[str, ...] = ()
    fill: float | None = None
    zero_experts: int = 0
    scales_input: bool = False
    note: str = ""
    unrunnable: str = ""
    uncompilable: str = ""
    no_gradient: str = ""

    @property
    def specs(self) -> list[tuple[int, int, str, int, int]]:
        """(layer, moe_layer, router, E, K) of every router, in running order."""
        return [(layer, n, *router) for n, layer in enumerate(self.layers) for router in self.routers]

    @property
    def places(self) -> list[Place]:
        """The paths of every router of a sparse layer, in running order."""
        n = len(self.routers)
        paths = (
            (path,) * n if isinstance(path, str) else path for path in (self.block, self.gate, self.experts, self.bias)
        )
        return [Place(*four) for four in zip(*paths, strict=True)]


SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-5,
    "vocab_size": 320,
    "eos_token_id": 0,
}
LINEAR_ROPE = {"rope_type": "linear", "factor": 2.0}

HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}

# Latent attention of DeepSeek's kind.
LATENT: dict[str, Any] = {
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}

# Three of sixteen experts in two of four groups, under the names of DeepSeek-V3; no value is anyone's default.
GROUPED: dict[str, Any] = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.7,
}


def in_text(row_config: dict[str, Any], *changes: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Variants of a config whose settings are inside ``text_config``."""
    return tuple({"text_config": row_config["text_config"] | change} for change in changes)


def vocab_size(config: Mapping[str, Any]) -> int:
    """The number of token ids, by whichever name the config has it."""
    text = config.get("text_config") or {}
    return next(scope[key] for scope in (config, text) for key in ("vocab_size", "num_vocab") if key in scope)
