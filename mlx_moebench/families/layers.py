"""Which blocks of a model have routers, by the settings that say so. Each returns the absolute indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .settings import Config, Key, count, setting, value_of

Layers = Callable[[Config], Sequence[int]]


BLOCKS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
"""What the number of blocks is called."""


def n_layers(config: Config) -> int:
    """The number of blocks."""
    return count(config, BLOCKS)


def all_layers(config: Config) -> Sequence[int]:
    """Every block."""
    return range(n_layers(config))


def every_nth_layer(config: Config) -> Sequence[int]:
    """Every ``decoder_sparse_step``-th block, the first after step - 1 dense ones, without ``mlp_only_layers``."""
    step = value_of(config, Key("decoder_sparse_step", 1)) or 1
    dense = value_of(config, Key("mlp_only_layers", ()))
    return [layer for layer in all_layers(config) if (layer + 1) % step == 0 and layer not in dense]


def after_first(dense: int) -> Layers:
    """From ``first_k_dense_replace`` on, where a config without it means ``dense``."""

    def layers(config: Config) -> Sequence[int]:
        first = value_of(config, Key("first_k_dense_replace", dense))
        every = value_of(config, Key("moe_layer_freq", 1))
        return [layer for layer in all_layers(config) if layer >= first and layer % every == 0]

    layers.__doc__ = f"Those from ``first_k_dense_replace`` (or {dense}) on whose index ``moe_layer_freq`` divides."
    return layers


after_first_dense = after_first(0)


def after_dense(config: Config) -> Sequence[int]:
    """Those after the first ``num_dense_layers``."""
    return range(value_of(config, Key(("num_dense_layers", "first_k_dense_replace"), 0)), n_layers(config))


def listed_types(config: Config) -> Sequence[int]:
    """Those that ``mlp_layer_types`` calls sparse; without it all but the first."""
    types = value_of(config, Key("mlp_layer_types", None))
    if types is None:
        return range(1, n_layers(config))
    return [layer for layer, kind in enumerate(types[: n_layers(config)]) if kind == "sparse"]


def listed_types_or_flags(config: Config) -> Sequence[int]:
    """Those that ``mlp_layer_types`` calls sparse, or else ``moe_layer_freq`` marks with 1; without both every one."""
    if value_of(config, Key("mlp_layer_types", None)) is not None:
        return listed_types(config)
    flags = value_of(config, Key("moe_layer_freq", None))
    return all_layers(config) if flags is None else [layer for layer in all_layers(config) if flags[layer]]


def counted_by(key: str) -> Layers:
    """Every block, of as many as a setting says."""

    def layers(config: Config) -> Sequence[int]:
        return range(setting(config, key))

    layers.__doc__ = f"Every one of ``{key}`` blocks."
    return layers


def flagged(key: str) -> Layers:
    """Those whose entry in a list of flags is true."""

    def layers(config: Config) -> Sequence[int]:
        flags = setting(config, key)
        return [layer for layer in all_layers(config) if flags[layer]]

    layers.__doc__ = f"Those whose entry in ``{key}`` is true."
    return layers


def between(config: Config) -> Sequence[int]:
    """Every ``moe_layer_interval``-th from ``moe_layer_start_index`` to ``moe_layer_end_index``."""
    first = value_of(config, Key("moe_layer_start_index", 0))
    last = value_of(config, Key("moe_layer_end_index", -1))
    first = min(first) if isinstance(first, list | tuple) else first
    last = max(last) if isinstance(last, list | tuple) else last
    last = n_layers(config) - 1 if last == -1 else last
    every = value_of(config, Key("moe_layer_interval", 1))
    return [layer for layer in all_layers(config) if (layer + 1) % every == 0 and first <= layer <= last]


def periodic(config: Config) -> Sequence[int]:
    """Those whose index plus ``expert_layer_offset`` is divided by ``expert_layer_period``, as mlx-lm reads it."""
    period, offset = setting(config, "expert_layer_period"), setting(config, "expert_layer_offset")
    return [layer for layer in all_layers(config) if (layer + offset) % period == 0]


def periodic_in_transformers(config: Config) -> Sequence[int]:
    """Every ``expert_layer_period``-th from ``expert_layer_offset`` on."""
    period, offset = setting(config, "expert_layer_period"), setting(config, "expert_layer_offset")
    return [layer for layer in all_layers(config) if (layer - offset) % period == 0]


def interleaved(config: Config) -> Sequence[int]:
    """The last of every ``interleave_moe_layer_step`` blocks."""
    step = value_of(config, Key("interleave_moe_layer_step", 1))
    return [layer for layer in all_layers(config) if layer % step == step - 1]


def listed(config: Config) -> Sequence[int]:
    """Those in ``moe_layers``."""
    return sorted(setting(config, "moe_layers"))


def listed_or_interleaved(config: Config) -> Sequence[int]:
    """Those in ``moe_layers``; without it the last of every ``interleave_moe_layer_step`` blocks."""
    listed = value_of(config, Key("moe_layers", None))
    return interleaved(config) if listed is None else sorted(listed)


def learned(config: Config) -> Sequence[int]:
    """Those that ``mlp_layer_types`` calls moe, or after ``num_hash_layers``, where a table of token ids chooses."""
    types = value_of(config, Key("mlp_layer_types", None))
    if types is None:
        return all_layers(config)[value_of(config, Key("num_hash_layers", 3)) :]
    return [layer for layer, kind in enumerate(types[: n_layers(config)]) if kind == "moe"]


def in_pattern(config: Config) -> Sequence[int]:
    """Those with an E in ``hybrid_override_pattern``, or ``moe`` in ``layers_block_type`` or ``layer_types``."""
    kinds = setting(config, ("hybrid_override_pattern", "layers_block_type", "layer_types"))
    return [layer for layer, kind in enumerate(kinds) if kind in ("E", "moe")]


def enumerated(config: Config) -> Sequence[int]:
    """Those in ``moe_layers_enum``; without it all but the first."""
    listed = value_of(config, Key("moe_layers_enum", None))
    if listed is None or listed == "":
        return range(1, n_layers(config))
    numbers = listed.split(",") if isinstance(listed, str) else listed
    return sorted(layer for layer in map(int, numbers) if layer < n_layers(config))


def where_enabled(config: Config) -> Sequence[int]:
    """Every block where ``enable_moe_block`` is true, else none."""
    return all_layers(config) if value_of(config, Key("enable_moe_block", False)) else ()
