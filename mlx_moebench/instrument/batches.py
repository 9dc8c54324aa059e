"""Which request each row of mlx-lm's batched generation belongs to, and which of its tokens were generated.

`mlx_lm.generate.BatchGenerator` runs prompts and generated tokens of many requests in batches whose rows join and
leave between forwards. The model sees none of that, so what the generator is about to run is noted, per thread, around
its own methods. They do what they did; nothing else changes, and models without taps are none the wiser.
"""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np

from ..routing.forwards import Rows

Key = tuple[int, int]
"""A generator, by a number of its own, and the request in it."""

_numbers = itertools.count()
_number_of: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_ANNOTATED = "_moebench_notes_rows"


class _Here(threading.local):
    """What batched generation is about to run in this thread.

    generator: its number. uids: the requests of the rows. lengths: [B] tokens of each row that the coming forwards run.
    done: positions of them that ran, for each who asked: several may listen to one model.
    starting: whether the next tokens are the last ones of prompts.
    claims: what a caller told to do with the next generator that runs.
    """

    generator: int = -1
    uids: Sequence[int] = ()
    lengths: Sequence[int] = ()
    done: Mapping[int, int] = MappingProxyType({})
    generated: bool = False
    starting: bool = False
    claims: Callable[[int], None] | None = None


_here = _Here()


def rows_of(shape: tuple[int, ...], who: int) -> Rows | None:
    """The rows of a forward of ``shape`` (B, S) that starts in this thread; None outside of batched generation.

    who: a number of the one that asks, who does so once for every forward.
    """
    here = _here
    rows, length = shape
    if not here.uids or len(here.uids) != rows:
        return None
    done = here.done.get(who, 0)
    places = np.arange(done, done + length)
    counts = places[None] < np.asarray(here.lengths)[:, None]
    here.done = {**here.done, who: done + length}
    keys: tuple[Hashable, ...] = tuple((here.generator, uid) for uid in here.uids)
    return Rows(keys, counts, np.full(rows, here.generated))


class claiming:  # noqa: N801  # used as a function
    """While it lasts, ``name`` is told the keys of the requests 0 to n - 1 of the first generator of this thread."""

    def __init__(self, count: int, name: Callable[[Mapping[Key, int]], None]) -> None:
        self._claim = lambda number: name({(number, uid): uid for uid in range(count)})

    def __enter__(self) -> None:
        self._before, _here.claims = _here.claims, self._claim

    def __exit__(self, *_: object) -> None:
        _here.claims = self._before


def follow() -> None:
    """Note from now on what batched generation runs. A second call does nothing.

    Where another mlx-lm has no such methods nothing is noted, and batched forwards are said not to be recorded.
    """
    module = import_module("mlx_lm.generate")  # the package has a function of that name
    batches = ("PromptProcessingBatch", "prompt"), ("GenerationBatch", "__init__"), ("GenerationBatch", "_step")
    wrappers = (_prompt, _start, _step, _next)
    for (owner, name), wrap in zip((*batches, ("BatchGenerator", "_next")), wrappers, strict=True):
        kind = getattr(module, owner, None)
        method = getattr(kind, name, None)
        if method is not None and not hasattr(method, _ANNOTATED):
            wrapped = functools.wraps(method)(wrap(method))
            setattr(wrapped, _ANNOTATED, True)
            setattr(kind, name, wrapped)


def _next(method: Callable[..., Any]) -> Callable[..., Any]:
    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = _here.generator
        if self not in _number_of:
            _number_of[self] = next(_numbers)
            if _here.claims is not None:
                claim, _here.claims = _here.claims, None
                claim(_number_of[self])
        _here.generator = _number_of[self]
        try:
            return method(self, *args, **kwargs)
        finally:
            _here.generator = before

    return noting


def _prompt(method: Callable[..., Any]) -> Callable[..., Any]:
    def noting(self: Any, tokens: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> Any:
        with _running(list(self.uids), [len(row) for row in tokens], generated=False):
            return method(self, tokens, *args, **kwargs)

    return noting


def _start(method: Callable[..., Any]) -> Callable[..., Any]:
    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        before, _here.starting = _here.starting, True
        try:
            return method(self, *args, **kwargs)
        finally:
            _here.starting = before

    return noting


def _step(method: Callable[..., Any]) -> Callable[..., Any]:
    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _running(list(self.uids), [1] * len(self.uids), generated=not _here.starting):
            return method(self, *args, **kwargs)

    return noting


class _running:  # noqa: N801  # used as a function
    """The forwards inside run these tokens of these requests."""

    def __init__(self, uids: Sequence[int], lengths: Sequence[int], generated: bool) -> None:
        self._now: tuple[Any, ...] = (uids, lengths, {}, generated)

    def __enter__(self) -> None:
        self._before = (_here.uids, _here.lengths, _here.done, _here.generated)
        _here.uids, _here.lengths, _here.done, _here.generated = self._now

    def __exit__(self, *_: object) -> None:
        _here.uids, _here.lengths, _here.done, _here.generated = self._before
