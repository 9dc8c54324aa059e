"""KV caches of mlx-lm, recognised by what they are, not by what a layer calls them."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, BatchRotatingKVCache, _BaseCache


def cache_among(values: Mapping[str, object]) -> object:
    """The KV cache among what a layer is called with; None without one."""
    return next((value for value in values.values() if _is_cache(value)), None)


def unknown_cache(values: Mapping[str, object]) -> str | None:
    """The name of an argument that seems to be a cache, but is not one of mlx-lm's."""
    return next((name for name, value in values.items() if _resembles_cache(name, value)), None)


def is_batched(cache: object) -> bool:
    """Whether its rows are several prompts, padded and reordered as some of them end."""
    return isinstance(cache, BatchKVCache | BatchRotatingKVCache) or getattr(cache, "left_padding", None) is not None


def _is_cache(value: object) -> bool:
    return isinstance(value, _BaseCache) or hasattr(value, "update_and_fetch")


def _resembles_cache(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool | int | float | str | mx.array) or _is_cache(value):
        return False
    return "cache" in name or any(hasattr(value, known) for known in ("offset", "state"))
