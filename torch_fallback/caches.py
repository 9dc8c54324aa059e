"""KV caches of transformers, known by what they are: version 5.24 renamed ``past_key_values`` to ``cache``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

import torch
from torch import nn
from transformers import Cache

from mlx_moebench.errors import RenamedError

NAMES = ("cache", "past_key_values")
"""What forwards call it, the newest name first."""


def parameters(module: nn.Module) -> list[str]:
    """The names of what ``module`` is called with, in their order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def cache_argument(model: nn.Module) -> str:
    """The name under which the forward of ``model`` takes a KV cache; raises RenamedError where it is another one."""
    known = parameters(model)
    name = next((name for name in NAMES if name in known), None)
    if name is None:
        what = f"KV cache among the arguments of {type(model).__name__}.forward ({' or '.join(NAMES)})"
        raise RenamedError("transformers", what, "generation needs")
    return name


def cache_among(values: Mapping[str, object]) -> Cache | None:
    """The KV cache among arguments or outputs, by whatever name; None without one."""
    return next((value for value in values.values() if isinstance(value, Cache)), None)


def returned_cache(output: object) -> Cache:
    """The KV cache in the output of a forward with ``use_cache=True``; raises RenamedError where there is none."""
    cache = cache_among(output) if isinstance(output, Mapping) else None
    if cache is None:
        raise RenamedError("transformers", f"KV cache in {type(output).__name__}", "generation needs")
    return cache


def unknown_cache(values: Mapping[str, object]) -> str | None:
    """The name of an argument that seems to be a KV cache of another kind: a model's own, or tuples as long ago."""
    return next((name for name, value in values.items() if _resembles_cache(name, value)), None)


def _resembles_cache(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool | int | float | str | torch.Tensor | Cache):
        return False
    layers = value if isinstance(value, tuple | list) else ()
    tuples = len(layers) > 0 and all(isinstance(layer, tuple | list) for layer in layers)
    return tuples or hasattr(value, "get_seq_length") or re.search("cache|past", name) is not None
