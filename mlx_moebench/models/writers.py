"""Checkpoints as others write them: under other keys, in other sections, with other arrays than mlx-lm reads."""

from __future__ import annotations

import inspect
import re
from copy import deepcopy
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

import mlx.core as mx
from mlx_lm.utils import load_model

from ..checkpoints.foreign import FOREIGN
from ..families import Family
from ..families.settings import SECTION
from ..types import Array, Json

_FIRST_EXPERT = re.compile(r"(.*\.experts)\.0\.gate_proj\.weight")


def mlx_settings(family: Family, config: Json) -> Json:
    """What mlx-lm reads under keys that the config lacks: E, K, what else a family names, the rotary settings.

    transformers 5 writes the latter inside rope_parameters, where most of mlx-lm does not look and silently takes a
    default. A language model that mlx-lm knows only inside a multimodal one is put there.
    """
    settings = _section(family, config)
    if section := config.get(SECTION):
        inner = _section(family, section)
        if (tied := config.get("tie_word_embeddings")) is not None:  # transformers reads it outside of the section
            inner["tie_word_embeddings"] = tied
        settings[SECTION] = {**section, **inner}
    if (outer := family.wrapped.get(str(config.get("model_type")))) is not None:
        return {"model_type": outer, SECTION: {**config, **settings}}
    return settings


def _section(family: Family, config: Json) -> Json:
    return family.renamed(config) | rotary_settings(config)


def rotary_settings(config: Json) -> Json:
    """What transformers 5 writes inside rope_parameters, under the keys that mlx-lm reads."""
    rope, settings = config.get("rope_parameters") or {}, {}
    if "rope_theta" in rope:  # it counts before one beside it
        settings["rope_theta"] = rope["rope_theta"]
    if "partial_rotary_factor" in rope and config.get("partial_rotary_factor") is None:
        settings["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if rope.get("rope_type", "default") != "default" and config.get("rope_scaling") is None:
        settings["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return settings


def unlike_stock(family: Family, config: Json) -> Json:
    """What of `mlx_settings` stock mlx-lm lacks, and so computes something else without a word; {} for nothing.

    A checkpoint that it refuses is no such case.
    """
    settings = mlx_settings(family, config)
    if family.module or not settings:
        return {}
    try:
        stock = _arguments(config)
    except FOREIGN:
        return {}
    return {} if stock == _arguments({**config, **settings}) else settings


def _arguments(config: Json) -> list[Json]:
    """What the classes of stock mlx-lm take from a config; of a model inside another one, both. Reads no weight."""
    model, arguments = _stock_classes(config)
    outer = arguments.from_dict(deepcopy(config))
    # Only the inner model knows what it reads of its section.
    parts = [getattr(part, "args", None) for part in model(outer).modules()] if SECTION in config else []
    every = [vars(part) for part in (outer, *parts) if is_dataclass(part)]
    return [{key: value for key, value in one.items() if key != SECTION} for one in every]


def unlike_stock_sentence(name: str, settings: Json, config: Json) -> str:
    """What a user of the checkpoint ``name`` must know of the result of `unlike_stock`."""
    inner = {key: value for key, value in settings.get(SECTION, {}).items() if config[SECTION].get(key) != value}
    flat = {key: value for key, value in settings.items() if key != SECTION}
    named = [f"{key} = {value!r}" for key, value in flat.items()]
    named += [f"{SECTION}.{key} = {value!r}" for key, value in inner.items()]
    keys = "this key" if len(named) == 1 else "these keys"
    return (
        f"Stock mlx-lm does not find {' nor '.join(named)} in {name}, silently takes a default, and so computes "
        f"something else than mlx-moebench: write {keys} into config.json before the model, or an adapter of it, is "
        "used there."
    )


def model_classes(family: Family, config: Json) -> tuple[Any, Any]:
    """(Model, ModelArgs): mlx-lm's, or those of the family's own module."""
    if family.module:
        own = import_module(family.module)
        return own.Model, own.ModelArgs
    model, arguments = _stock_classes(config)
    return _taking_single_experts(model) if family.fuses_experts else model, arguments


def _stock_classes(config: Json) -> tuple[Any, Any]:
    """(Model, ModelArgs) by mlx-lm's own way, its tables of aliases included."""
    classes: tuple[Any, Any] = inspect.signature(load_model).parameters["get_model_classes"].default(config)
    return classes


def _taking_single_experts(model: Any) -> Any:
    """``model``, whose mlx-lm class reads fused experts only, also for checkpoints that store them one by one."""

    def sanitize(self: Any, weights: dict[str, Array]) -> dict[str, Array]:
        sanitized: dict[str, Array] = model.sanitize(self, fused(weights))
        return sanitized

    # Same name and module: where a model came from tells what it is.
    return type(model.__name__, (model,), {"sanitize": sanitize, "__module__": model.__module__})


def fused(weights: dict[str, Array]) -> dict[str, Array]:
    """``weights`` with ``experts.0.gate_proj.weight`` and its like of a block as ``experts.gate_up_proj`` and
    ``experts.down_proj``, the form of transformers 5; lazily."""
    weights = dict(weights)
    for block in [match[1] for name in weights if (match := _FIRST_EXPERT.fullmatch(name))]:
        count = sum(name.startswith(f"{block}.") and name.endswith(".gate_proj.weight") for name in weights)
        gate, up, down = (
            mx.stack([weights.pop(f"{block}.{expert}.{part}.weight") for expert in range(count)])
            for part in ("gate_proj", "up_proj", "down_proj")
        )
        weights[f"{block}.gate_up_proj"] = mx.concatenate([gate, up], axis=-2)
        weights[f"{block}.down_proj"] = down
    return weights
