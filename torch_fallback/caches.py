"""KV caches of transformers, known by what they are: version 5.24 renamed ``past_key_values`` to ``cache``."""

from __future__ import annotations

import copy
import inspect
import re
import weakref
from collections.abc import Mapping

import torch
from torch import nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from mlx_moebench.errors import RenamedError
from mlx_moebench.routing.forwards import Cached

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


def empty_cache(model: nn.Module) -> Cache | None:
    """One that keeps every token, for ``model``; None where a layer keeps something else, such as a window."""
    cache = DynamicCache(config=model.config)
    return cache if cache.layers and all(type(layer) is DynamicLayer for layer in cache.layers) else None


def same_object(cache: Cache) -> Cached:
    """What a recorder needs to know of it: whether a later forward was given the same one."""
    return Cached(_Same(cache).continues)


class _Same:
    def __init__(self, cache: Cache) -> None:
        self.reference = weakref.ref(cache)

    def continues(self, earlier: Cached, position: int) -> bool:
        other, mine = getattr(earlier.continues, "__self__", None), self.reference()
        return isinstance(other, _Same) and mine is not None and other.reference() is mine


def copies(cache: Cache, rows: int) -> Cache:
    """What the cache of one row holds, for each of ``rows`` rows."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied


def bytes_per_token(cache: Cache) -> float:
    """Of a cache that `empty_cache` made and a row filled."""
    return float(sum(part.nbytes / part.shape[-2] for layer in cache.layers for part in (layer.keys, layer.values)))


def unknown_cache(values: Mapping[str, object]) -> str | None:
    """The name of an argument that seems to be a KV cache of another kind: a model's own, or tuples as long ago."""
    return next((name for name, value in values.items() if _resembles_cache(name, value)), None)


def _resembles_cache(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool | int | float | str | torch.Tensor | Cache):
        return False
    layers = value if isinstance(value, tuple | list) else ()
    tuples = len(layers) > 0 and all(isinstance(layer, tuple | list) for layer in layers)
    return tuples or hasattr(value, "get_seq_length") or re.search("cache|past", name) is not None
