"""Recording subclasses of a gate, of the module that runs the experts, and of the layer around them.

A tap swaps the *class* of an existing module for a subclass that calls the original and notes what passed. The
module stays the same object in the same place, so parameter names, saving, freezing and training see no
difference, and the output is the original's, bit for bit.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import CodeType
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from ..errors import RoutingError
from ..routing.record import Array
from .caches import caches_among, unknown_cache

Sink = Callable[[int, Array, Array, tuple[int, ...]], None]
"""``sink(number, logits, indices, shape)``: the router's number in running order, what its gate returned, what its
experts got, and the leading shape (B, S) of the hidden states that its layer got."""

Swap = Callable[[Array, Array, tuple[int, ...]], "Swapped | None"]
"""``swap(logits, indices, shape)``: what a router's experts run in place of what it chose; None for that."""

OutputSink = Callable[[int, Array, Array, Array, tuple[int, ...]], None]
"""``sink(number, logits, indices, outputs, shape)``: outputs [..., K, D] as the experts returned them."""

_TAP = "_moebench_tap"
_CONVERSIONS = ("to_quantized", "to_lora", "fuse")


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

    x: what its gate was called with, and others: what came with it. chosen: what it chose, where it tells its experts
    something else. ran: the experts that ran one by one, in order.
    running: how many calls of the experts are under way: mlx-vlm's call themselves token by token for short inputs.
    """

    running: int = 0
    x: Array | None = None
    others: tuple[Any, ...] = ()
    logits: Array | None = None
    chosen: Array | None = None

    def __init__(self) -> None:
        self.ran: list[int] = []


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


def tap_layer(layer: nn.Module, tap: LayerTap) -> None:
    """Make ``layer`` note the shape of the hidden states it is called with."""
    _swap(layer, _layer_class(untapped(layer)), tap)


def tap_trunk(trunk: nn.Module, tap: TrunkTap) -> None:
    """Make ``trunk``, which runs all layers, say when it begins and ends."""
    _swap(trunk, _trunk_class(untapped(trunk)), tap)


def tap_gate(gate: nn.Module, tap: RouterTap) -> None:
    """Make ``gate`` record its output, the router logits."""
    _swap(gate, _gate_class(untapped(gate)), tap)


def tap_raw_gate(gate: nn.Module, tap: RouterTap, precise: bool) -> None:
    """Make ``gate`` record the logits, which are its input times its weight, computed in float32 where ``precise``."""
    _swap(gate, _raw_gate_class(untapped(gate), precise), tap)


def tap_chooser(chooser: nn.Module, tap: RouterTap) -> None:
    """Make ``chooser`` record the indices that it returns first."""
    _swap(chooser, _chooser_class(untapped(chooser)), tap)


def tap_loop(block: nn.Module, experts: list[nn.Module], tap: RouterTap) -> None:
    """Make ``block`` report which of its ``experts`` it called for each token, one after the other."""
    for number, expert in enumerate(experts):
        _swap(expert, _counted_class(untapped(expert)), ExpertTap(tap, number))
    _swap(block, _loop_class(untapped(block)), tap)


def tap_experts(experts: nn.Module, tap: RouterTap) -> None:
    """Make ``experts`` report the indices it is called with."""
    _swap(experts, _experts_class(untapped(experts)), tap)


def tap_of(module: nn.Module) -> AnyTap | None:
    """The tap on ``module``, if any."""
    tap: AnyTap | None = vars(module).get(_TAP)
    return tap


def untap(module: nn.Module) -> None:
    """Give ``module`` its own class back; nothing happens where it has no tap."""
    if tap_of(module) is not None:
        module.__class__ = untapped(module)
        object.__delattr__(module, _TAP)


def _swap(module: nn.Module, recording: Any, tap: AnyTap) -> None:
    module.__class__ = recording
    # Not Module.__setattr__: the tap must stay out of the module's own dictionary of parameters and children.
    object.__setattr__(module, _TAP, tap)


def untapped(module: nn.Module) -> Any:
    """The class that ``module`` has without a tap."""
    return vars(type(module)).get("_moebench_base", type(module))


@cache
def _layer_class(base: Any) -> Any:
    def __call__(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        tap = getattr(self, _TAP)
        tap.shape = tuple(x.shape[:-1][:2])  # some blocks carry several streams, [B, S, N, D]
        try:
            return base.__call__(self, x, *args, **kwargs)
        finally:
            tap.shape = None

    return _recording(base, {"__call__": __call__})


@cache
def _trunk_class(base: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        tap = getattr(self, _TAP)
        if tap.depth or _is_again():  # a model that calls itself is one forward
            return base.__call__(self, *args, **kwargs)
        arguments = {f"argument {place}": value for place, value in enumerate(args, 1)} | kwargs
        tap.caches, tap.unknown_cache = caches_among(arguments), unknown_cache(arguments)
        tap.depth, failed = 1, True
        try:
            for listener in list(tap.listeners):
                listener.begin()
            output = base.__call__(self, *args, **kwargs)
            failed = False
            return output
        except LayerDone:
            failed = False
            raise
        finally:
            try:
                for listener in list(tap.listeners):
                    listener.end(failed)
            finally:
                tap.depth, tap.caches, tap.unknown_cache = 0, None, None

    return _recording(base, {"__call__": __call__})


def _is_again() -> bool:
    """Whether a forward runs once more, on the way back of gradient checkpointing around the whole model.

    Then what `nn.utils.checkpoint` (or mlx-lm's `grad_checkpoint`) wrapped is called by MLX itself, and not by the
    function that they put in its place. Of `mx.checkpoint` alone no frame tells.
    """
    inner, outer = _checkpoints()
    frame = sys._getframe(2)
    while (back := frame.f_back) is not None:
        if frame.f_code in inner and back.f_code not in outer:
            return True
        frame = back
    return False


@cache
def _checkpoints() -> tuple[frozenset[CodeType], frozenset[CodeType]]:
    """The code of what is checkpointed, and of what calls it the first time."""
    places = (("mlx.nn.utils", "checkpoint"), ("mlx_lm.tuner.trainer", "grad_checkpoint"))
    codes = (getattr(getattr(import_module(module), name, None), "__code__", None) for module, name in places)
    functions = [_codes_in(code) for code in codes if code is not None]
    names = ("wrapped_checkpointed_fn", "checkpointed_fn")
    inner = {code for codes in functions for code in codes if code.co_name == "inner_fn"}
    return frozenset(inner), frozenset(code for codes in functions for code in codes if code.co_name in names)


def _codes_in(code: CodeType) -> list[CodeType]:
    """The code of every function that is defined inside another."""
    inside = [const for const in code.co_consts if isinstance(const, CodeType)]
    return [*inside, *(deeper for one in inside for deeper in _codes_in(one))]


@cache
def _gate_class(base: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        # Inside LoRA both the adapter and the linear layer it wraps are tapped; the outer call ends last and wins.
        logits = base.__call__(self, *args, **kwargs)
        heard = getattr(self, _TAP).heard
        heard.logits, heard.x, heard.others = logits, args[0] if args else None, args[1:]
        return logits

    members: dict[str, object] = {"__call__": __call__}
    for name in _CONVERSIONS:
        if (convert := getattr(base, name, None)) is not None:
            members[name] = _keeping_tap(convert)
    if "to_lora" not in members and issubclass(base, nn.Linear | nn.QuantizedLinear):
        members["to_lora"] = _keeping_tap(_linear_to_lora)
    return _recording(base, members)


@cache
def _raw_gate_class(base: Any, precise: bool) -> Any:
    def __call__(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        output = base.__call__(self, x, *args, **kwargs)
        weight = self.weight.astype(mx.float32) if precise else self.weight
        heard = getattr(self, _TAP).heard
        heard.logits, heard.x = (x.astype(mx.float32) if precise else x) @ weight.T, x
        return output

    return _recording(base, {"__call__": __call__})


@cache
def _chooser_class(base: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        indices, weights = base.__call__(self, *args, **kwargs)
        tap = getattr(self, _TAP)
        if (swapped := tap.swapped(indices)) is not None:
            indices, weights = swapped.indices, swapped.beside(weights)
        tap.heard.chosen = indices
        return indices, weights

    return _recording(base, {"__call__": __call__})


@cache
def _counted_class(base: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        tap = getattr(self, _TAP)
        tap.router.heard.ran.append(tap.number)
        return base.__call__(self, *args, **kwargs)

    return _recording(base, {"__call__": __call__})


@cache
def _loop_class(base: Any) -> Any:
    def __call__(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        tap = getattr(self, _TAP)
        if self.training:
            raise RoutingError(
                f"{tap.name}: in training mode this model runs an expert for many tokens at once and does not say for "
                "which; call model.eval() first."
            )
        tap.heard.ran.clear()
        y = base.__call__(self, x, *args, **kwargs)
        # Token after token, the experts of each in the order of its choice.
        tap.emit(mx.array(tap.heard.ran, dtype=mx.uint32).reshape(math.prod(x.shape[:-1]), -1))
        return y

    return _recording(base, {"__call__": __call__})


@cache
def _experts_class(base: Any) -> Any:
    def __call__(self: Any, x: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        tap = getattr(self, _TAP)
        swapped = None if tap.heard.running or tap.heard.chosen is not None else tap.swapped(indices)
        tap.heard.running += 1
        try:
            if swapped is None:
                y = given = base.__call__(self, x, indices, *args, **kwargs)
            else:
                indices = swapped.indices
                y, given = swapped.run(lambda x, i: base.__call__(self, x, i, *args, **kwargs), x)
        finally:
            tap.heard.running -= 1
        if not tap.heard.running:
            tap.emit(indices, y)
        return given

    return _recording(base, {"__call__": __call__})


def _recording(base: Any, members: dict[str, object]) -> Any:
    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807
        # Copies and pickles are of the module as it is without a tap, which belongs to the original alone.
        _, _, state, *items = base.__reduce_ex__(self, protocol)
        return _new, (base,), _without_tap(state), *items

    return type(f"{base.__name__}Tapped", (base,), {**members, "_moebench_base": base, "__reduce_ex__": __reduce_ex__})


def _new(base: Any) -> Any:
    return base.__new__(base)


def _without_tap(state: Any) -> Any:
    return {key: value for key, value in state.items() if key != _TAP} if isinstance(state, dict) else state


def _keeping_tap(convert: Callable[..., Any]) -> Callable[..., Any]:
    """``convert``, a method that returns the module to put in this one's place, with the tap carried over."""

    def converted(self: Any, *args: Any, **kwargs: Any) -> Any:
        module, tap = convert(self, *args, **kwargs), getattr(self, _TAP)
        tap_gate(module, tap)
        tap.changes += 1
        return module

    return converted


def _linear_to_lora(linear: nn.Module, r: int = 8, scale: float = 20.0, dropout: float = 0.0) -> nn.Module:
    """What mlx-lm's ``linear_to_lora_layers`` does to a linear layer that has no ``to_lora`` of its own."""
    from mlx_lm.tuner.lora import LoRALinear

    return LoRALinear.from_base(linear, r=r, scale=scale, dropout=dropout)
