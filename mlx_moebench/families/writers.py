"""Settings that MLX's models read, made of what other writers of a config.json say. None where they say nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .settings import Config

Reading = Callable[[Config], Any]

NULL = object()
"""For settings that MLX's model must be given, and given as null."""

SLIDING, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"


def fixed(value: object) -> Reading:
    """What other writers leave out, for the model has no other."""
    return lambda config: value


def same_as(key: str) -> Reading:
    """What others call ``key``."""
    return lambda config: config.get(key)


def head_dim(config: Config) -> int | None:
    """The width of an attention head, where it follows from the others."""
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return width // heads if width and heads else None


def rotary_dim(config: Config) -> int | None:
    """How many of a head's dimensions are rotated; None where no share of them is written."""
    if (rope := config.get("rope_parameters")) is None:
        return None
    return int(rope.get("partial_rotary_factor", 1.0) * (config.get("head_dim") or head_dim(config)))


def rope_of(kind: str, key: str) -> Reading:
    """A rotary setting of one kind of layer, where each has its own."""
    return lambda config: ((config.get("rope_parameters") or {}).get(kind) or {}).get(key)


def interval_of_full(config: Config) -> int | None:
    """Every how many blocks one has full attention; None where ``layer_types`` says otherwise than regularly."""
    types = config.get("layer_types") or []
    interval = types.index(FULL) + 1 if FULL in types else len(types) + 1
    regular = all((kind == FULL) == (layer % interval == 0) for layer, kind in enumerate(types, start=1))
    return interval if types and regular else None


def flags_of(kind: str) -> Reading:
    """1 for each block of ``layer_types`` that is of a kind, 0 for the others."""
    return lambda config: None if (types := config.get("layer_types")) is None else [int(one == kind) for one in types]


def kimi_delta_attention(config: Config) -> dict[str, Any] | None:
    """``linear_attn_config``, which counts layers from 1."""
    if (types := config.get("layer_types")) is None:
        return None
    numbered = list(enumerate(types, start=1))
    return {
        "kda_layers": [layer for layer, kind in numbered if kind == LINEAR],
        "full_attn_layers": [layer for layer, kind in numbered if kind == FULL],
        "head_dim": config["linear_head_dim"],
        "num_heads": config["linear_num_heads"],
        "short_conv_kernel_size": config["linear_conv_kernel_dim"],
    }


def _sparse(config: Config) -> list[bool] | None:
    """A flag for each block of ``mlp_layer_types``, as transformers 5 writes it; None without it."""
    types = config.get("mlp_layer_types")
    return None if types is None else [kind == "sparse" for kind in types]


def flags_of_types(config: Config) -> list[int] | None:
    """1 for each sparse block and 0 for the others."""
    return None if (sparse := _sparse(config)) is None else list(map(int, sparse))


def first_of_types(config: Config) -> int | None:
    """How many blocks are dense before the first sparse one; None where dense ones follow it."""
    if (sparse := _sparse(config)) is None:
        return None
    first = sparse.index(True) if True in sparse else len(sparse)
    return first if all(sparse[first:]) else None


def list_of_types(config: Config) -> str | None:
    """The sparse blocks as ``1,2,5``."""
    if (sparse := _sparse(config)) is None:
        return None
    return ",".join(str(layer) for layer, one in enumerate(sparse) if one)
