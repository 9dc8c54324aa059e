"""KV caches of mlx-lm, recognised by what they are, not by what a model calls them."""

from __future__ import annotations

import functools
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, BatchRotatingKVCache, _BaseCache

from ..routing.forwards import Cached

UNTRIMMED = (
    "mlx-lm does not take back what a draft guessed wrong once the window of a sliding cache is full: the model goes "
    "on with those tokens, and they count."
)
_untrimmed: weakref.WeakSet[Any] = weakref.WeakSet()
"""Caches of which `UNTRIMMED` was said."""


def caches_among(values: Mapping[str, object]) -> object:
    """The KV cache, or the list of caches, among what a model is called with; None without one."""
    return next((value for value in values.values() if next(caches_in(value), None) is not None), None)


def caches_in(given: object) -> Iterator[Any]:
    """Every cache in what a model was given, those inside lists of them, too."""
    if is_cache(given):
        inner = getattr(given, "caches", None)  # a layer with several attentions has a cache for each
        yield from inner if isinstance(inner, list | tuple) and inner else (given,)
    elif isinstance(given, list | tuple):
        for part in given:
            yield from caches_in(part)


def unknown_cache(values: Mapping[str, object]) -> str | None:
    """The name of an argument that seems to be a cache, but is not one of mlx-lm's."""
    return next((name for name, value in values.items() if _resembles_cache(name, value)), None)


def is_batched(given: object) -> bool:
    """Whether rows of these caches are several prompts, padded and reordered as some of them end."""
    return any(
        isinstance(cache, BatchKVCache | BatchRotatingKVCache)
        or any(getattr(cache, name, None) is not None for name in ("left_padding", "lengths"))
        for cache in caches_in(given)
    )


def cached(given: object) -> Cached | None:
    """What a recorder needs to know of these caches; None where there are none."""
    every = list(caches_in(given))
    return _Known(given, every).cached() if every else None


class _Known:
    """Which caches they are: as long as one of them lives, or the list that holds them has the same place and goes on
    where it was, because quantising puts other objects into it. Nothing here keeps them alive."""

    def __init__(self, given: object, every: list[Any]) -> None:
        self.place = id(given) if isinstance(given, list) else None
        self.each = [weakref.ref(cache) for cache in every]
        self.counting = next((cache for cache in every if isinstance(getattr(cache, "offset", None), int)), None)
        self.start = None if self.counting is None else int(self.counting.offset)

    def cached(self) -> Cached:
        counting, self.counting = self.counting, None
        trimmable = counting is not None and callable(getattr(counting, "trim", None))
        return Cached(self.continues, self.start, (lambda tell: _watch(counting, tell)) if trimmable else None)

    def continues(self, earlier: Cached, position: int) -> bool:
        other = getattr(earlier.continues, "__self__", None)
        assert isinstance(other, _Known)
        mine = [ref() for ref in self.each]
        if any(cache is not None and cache is old() for cache in mine for old in other.each):
            return True
        return self.place is not None and self.place == other.place and self.start == position


def _watch(cache: Any, tell: Callable[[int], None]) -> Callable[[], None]:
    """Have ``tell`` called with the positions left in ``cache`` whenever some are taken back; returns what ends it."""
    original = cache.trim

    def trim(n: int) -> Any:
        result = original(n)
        tell(int(cache.offset))
        return result

    trim.tell = tell  # type: ignore[attr-defined]
    cache.trim = trim
    return lambda: vars(cache).pop("trim", None)


def follow() -> None:
    """Hear from now on where mlx-lm leaves drafted tokens in a tapped model's cache, and say so. A second call does
    nothing."""
    module = import_module("mlx_lm.generate")
    original = getattr(module, "trim_prompt_cache", None)
    if original is None or getattr(original, "__module__", "") == __name__:
        return

    def trim_prompt_cache(cache: Any, num_tokens: int) -> Any:
        taken = original(cache, num_tokens)
        watched = [one for one in caches_in(cache) if "trim" in vars(one)]
        for one in watched if not taken else ():
            one.trim.tell(int(one.offset))  # all of it stays
        if num_tokens > 0 and not taken and watched and watched[0] not in _untrimmed:
            _untrimmed.update(watched)
            warnings.warn(UNTRIMMED, RuntimeWarning, stacklevel=2)
        return taken

    wrapped = functools.wraps(original)(trim_prompt_cache)
    wrapped.__module__ = __name__
    module.trim_prompt_cache = wrapped  # type: ignore[attr-defined]


def is_speculative() -> bool:
    """Whether mlx-lm's speculative decoding is what runs the model in this thread."""
    code = getattr(getattr(import_module("mlx_lm.generate"), "speculative_generate_step", None), "__code__", None)
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def is_cache(value: object) -> bool:
    """Whether it is a cache of mlx-lm, or of a file of its models."""
    own = type(value).__module__.startswith(("mlx_lm.models.", "mlx_vlm.models.")) and hasattr(value, "offset")
    return own or isinstance(value, _BaseCache) or hasattr(value, "update_and_fetch")


def _resembles_cache(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool | int | float | str | mx.array) or is_cache(value):
        return False
    if isinstance(value, list | tuple):
        parts = [part for part in value if part is not None and not is_cache(part)]
        return bool(parts) and ("cache" in name or any(_resembles_cache("", part) for part in parts))
    return "cache" in name or any(hasattr(value, known) for known in ("offset", "state"))
