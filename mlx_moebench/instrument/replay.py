"""One block of a model at a time, by the model's own forward: the blocks before it are replayed, those behind never
run.

A model's forward makes masks, positions and what else its blocks are given of the ids and of the shape of their input.
So it is not written again here: it runs, with the classes of its blocks swapped as taps swap them. Blocks before the
one that is wanted return what the last of them returned when it ran; the wanted one runs; then an exception leaves the
forward. What the first block is given is kept, too, so that embeddings need not be in memory beside it. MLX computes
what is asked for alone, so that embeddings and masks that nothing uses cost nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import RoutingError
from ..types import Json
from .taps import LayerDone

_REPLAY = "_moebench_replay"


class Replay:
    """The blocks of ``model`` are run one at a time inside a ``with`` block; afterwards they are what they were.

    For models of which a block depends on what the one before it returned, and left in a dictionary that it was given,
    and on nothing else that blocks computed; see `Family.whole`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._blocks = list(model.layers)
        self._wanted = 0
        self._before: Any = None
        self._after: Any = None

    def __enter__(self) -> Replay:
        self._classes: list[Any] = [type(block) for block in self._blocks]
        for number, (block, own) in enumerate(zip(self._blocks, self._classes, strict=True)):
            object.__setattr__(block, _REPLAY, (self, number))
            block.__class__ = _replayed_class(own)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for block, own in zip(self._blocks, self._classes, strict=True):
            block.__class__ = own
            object.__delattr__(block, _REPLAY)

    def run(self, ids: mx.array, layer: int, before: Any) -> Any:
        """(what block ``layer`` returns for ids [B, S], what the dictionaries that it was given hold then).

        Of layer -1 what the first block is given first: the embeddings. before: what the layer before it made, None
        for -1. Nothing is evaluated. Routers in the block are heard, and others are not.
        """
        self._wanted, self._before, self._after = layer, before, None
        try:
            self._model(ids)
        except LayerDone:
            after, self._after, self._before = self._after, None, None
            return after
        raise RoutingError(f"The forward of this model ended without its block {layer}; run it with --stream off.")

    def called(self, number: int, x: Any, shared: list[Json], block: Callable[[Any], Any]) -> Any:
        """What block ``number`` returns to the forward that calls it with ``x``; ``block`` runs it, and ``shared`` are
        dictionaries that it is given."""
        if self._wanted < 0:
            self._after = x
            raise LayerDone
        if number < self._wanted:
            output, left = self._before
            for one, content in zip(shared, left, strict=True):
                one.update(content)
            return output
        if number > self._wanted:
            raise RoutingError(f"Block {number} ran before block {self._wanted}; run this model with --stream off.")
        self._after = (block(self._before if number == 0 else x), [dict(one) for one in shared])
        raise LayerDone


@cache
def _replayed_class(base: Any) -> Any:
    def __call__(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        replay, number = getattr(self, _REPLAY)
        shared = [value for value in (*args, *kwargs.values()) if type(value) is dict]
        return replay.called(number, x, shared, lambda given: base.__call__(self, given, *args, **kwargs))

    return type(base.__name__, (base,), {"__call__": __call__, "__module__": base.__module__})


def taken_apart(value: Any, home: str) -> tuple[list[mx.array], Json]:
    """(the arrays in what a block returned, a skeleton in JSON that `put_together` fills).

    home: the module that defines the block; what it returns may be an object of a class of that module, too.
    Raises RoutingError for anything else that is neither an array, a tuple, list or dict of them, nor a constant.
    """
    arrays: list[mx.array] = []
    return arrays, _skeleton(value, home, arrays)


def _skeleton(part: Any, home: str, arrays: list[mx.array]) -> Json:
    """The skeleton of a part, whose arrays are added to ``arrays``.

    No function inside `taken_apart`: one that calls itself is held by itself, and all arrays with it, until Python
    looks for cycles many batches later.
    """
    if isinstance(part, mx.array):
        arrays.append(part)
        return {"array": len(arrays) - 1}
    if type(part) in (tuple, list):
        return {type(part).__name__: [_skeleton(one, home, arrays) for one in part]}
    if type(part) is dict:
        return {"dict": {key: _skeleton(one, home, arrays) for key, one in part.items()}}
    if part is None or isinstance(part, bool | int | float | str):
        return {"constant": part}
    if type(part).__module__ == home and not isinstance(part, nn.Module):
        fields = {key: _skeleton(one, home, arrays) for key, one in vars(part).items()}
        return {"object": [type(part).__name__, fields]}
    raise RoutingError(f"A block of this model returned a {type(part).__name__}; run it with --stream off.")


def put_together(arrays: list[mx.array], skeleton: Json, home: str) -> Any:
    """What `taken_apart` was given."""
    ((kind, part),) = skeleton.items()
    if kind == "array":
        return arrays[part]
    if kind == "constant":
        return part
    if kind == "dict":
        return {key: put_together(arrays, one, home) for key, one in part.items()}
    if kind == "object":
        name, fields = part
        made = object.__new__(getattr(sys.modules[home], name))
        vars(made).update({key: put_together(arrays, one, home) for key, one in fields.items()})
        return made
    parts = [put_together(arrays, one, home) for one in part]
    return tuple(parts) if kind == "tuple" else parts
