"""What taps remember while a forward runs: the shape a layer got, what a router said, who hears of it, what runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx

from ..errors import RoutingError
from ..routing.record import Array

Sink = Callable[[int, Array, Array, tuple[int, ...]], None]
"""``sink(number, logits, indices, shape)``: the router's number in running order, what its gate returned, what its
experts got, and the leading shape (B, S) of the hidden states that its layer got."""

Swap = Callable[[Array, Array, tuple[int, ...]], "Swapped | None"]
"""``swap(logits, indices, shape)``: what a router's experts run in place of what it chose; None for that."""

OutputSink = Callable[[int, Array, Array, Array, tuple[int, ...]], None]
"""``sink(number, logits, indices, outputs, shape)``: outputs [..., K, D] as the experts returned them."""


class LayerDone(BaseException):
    """Leaves a forward behind the block that was wanted, see `replay.Replay`: what was heard of it counts. No error, so
    that nothing handles it as one."""


class LayerTap(threading.local):
    """What a layer was called with, while it runs in a thread.

    shape: the leading shape of its hidden states, which gates often see flattened.
    """

    shape: tuple[int, ...] | None = None


class TrunkTap(threading.local):
    """What the module that runs all layers was called with, while it runs in a thread.

    caches: the KV caches that its caller gave, as they were given. unknown_cache: the name of an argument that seems to
    be one, but is not one of mlx-lm's. depth: how often it is entered now. listeners, of all threads: what is told of
    every forward that begins and ends.
    """

    caches: object = None
    unknown_cache: str | None = None
    depth: int = 0

    def __init__(self, listeners: list[Listener]) -> None:
        self.listeners = listeners


class Listener(Protocol):
    """What hears where forwards of the whole model begin and end."""

    def begin(self) -> None: ...

    def end(self, failed: bool = False) -> None: ...


@dataclass(frozen=True)
class Swapped:
    """Another choice of a router, in the shapes in which its block has the first one.

    logits: [..., R] that it is taken to have said. indices, weights: [..., J] of the experts that run, and what each is
    to be weighed with. given: [..., K] the weights that the block has, and will multiply what it gets by.
    scales_input: it has multiplied the experts' input by them already.
    """

    logits: Array
    indices: Array
    weights: Array
    given: Array
    scales_input: bool = False

    def beside(self, weights: Array) -> Array:
        """The new weights [..., J] for a block that weighs by what it is told: its own where they stay."""
        new = self.weights.astype(weights.dtype)
        return mx.where(self.weights == self.given, weights, new) if new.shape == weights.shape else new

    def run(self, experts: Callable[[Array, Array], Array], x: Array) -> tuple[Array, Array]:
        """(what each expert returned [..., J, D], what the block gets [..., K, D]): its own sum is then
        sum_j weights_j y_j.

        Each output stays in its place, times the ratio of the weights, which is exactly 1 where a weight stays. Outputs
        without a place, or in one whose weight is 0, are added in the place with the largest weight.
        """
        if self.scales_input:
            y = experts(x * (self.weights / self.given).astype(x.dtype), self.indices)
            return y, y
        y = experts(x, self.indices)
        shared = min(y.shape[-2], self.given.shape[-1])
        old, new = self.given[..., :shared], self.weights[..., :shared]
        counts = old != 0
        ratio = mx.where(counts, new / mx.where(counts, old, 1), 0)
        kept = y[..., :shared, :] * ratio[..., None].astype(y.dtype)
        if (missing := self.given.shape[-1] - shared) > 0:
            kept = mx.concatenate([kept, mx.zeros((*kept.shape[:-2], missing, kept.shape[-1]), kept.dtype)], axis=-2)
        placeless = mx.concatenate([mx.where(counts, 0, new), self.weights[..., shared:]], axis=-1)
        largest = mx.argmax(self.given, axis=-1, keepdims=True)
        share = placeless / mx.take_along_axis(self.given, largest, axis=-1)
        rest = (y * share[..., None].astype(y.dtype)).sum(axis=-2, keepdims=True)
        into = mx.arange(self.given.shape[-1]) == largest
        return y, kept + rest * into[..., None].astype(y.dtype)


class _Heard(threading.local):
    """What a router said before its experts are called, in a thread.

    x: what its gate was called with. chosen: what it chose, where it tells its experts something else. ran: the experts
    that ran one by one, in order; made: what they returned, where someone hears that.
    running: how many calls of the experts are under way: mlx-vlm's call themselves token by token for short inputs.
    """

    running: int = 0
    x: Array | None = None
    logits: Array | None = None
    chosen: Array | None = None

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.made: list[Array] = []


@dataclass
class RouterTap:
    """Joins the gate and the experts of one router: the logits wait here until the experts are called.

    sinks: of every capture of the model, with the router's number there, in the order in which they came.
    outputs: the same of those that hear what the experts return. swap: what changes its choice, if anything does.
    changes: how often its gate was converted, as by quantising.
    """

    name: str
    layer: LayerTap
    sinks: list[tuple[int, Sink]] = field(default_factory=list)
    heard: _Heard = field(default_factory=_Heard)
    outputs: list[tuple[int, OutputSink]] = field(default_factory=list)
    swap: Swap | None = None
    changes: int = 0

    def emit(self, indices: Array, y: Array | None = None) -> None:
        """Hand the waiting logits and ``indices``, or the waiting choice, to the sinks."""
        heard = self.heard
        logits, heard.logits, heard.x = heard.logits, None, None
        indices, heard.chosen = indices if heard.chosen is None else heard.chosen, None
        if logits is None:
            raise RoutingError(
                f"{self.name}: the experts ran but the tapped gate did not, because something (DoRA, for one) put "
                "another module in its place; detach(model) and attach again after changing the model."
            )
        shape = self.layer.shape or tuple(logits.shape[:-1])
        for number, sink in self.sinks:
            sink(number, logits, indices, shape)
        if y is not None:
            for number, hear in self.outputs:
                hear(number, logits, indices, y, shape)

    def swapped(self, indices: Array) -> Swapped | None:
        """What takes the place of ``indices``, if something does."""
        if self.swap is None or self.heard.logits is None:
            return None
        logits = self.heard.logits
        made = self.swap(logits, indices, self.layer.shape or tuple(logits.shape[:-1]))
        if made is not None:
            self.heard.logits = made.logits
        return made


@dataclass(frozen=True)
class ExpertTap:
    """The number of an expert that is called on its own."""

    router: RouterTap
    number: int


AnyTap = LayerTap | TrunkTap | RouterTap | ExpertTap
