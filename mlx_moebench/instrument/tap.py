"""Recording subclasses of a gate, of the module that runs the experts, and of the layer around them.

A tap swaps the *class* of an existing module for a subclass that calls the original and notes what passed. The
module stays the same object in the same place, so parameter names, saving, freezing and training see no
difference, and the output is the original's, bit for bit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import CodeType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import RoutingError
from .caches import caches_among, unknown_cache
from .taps import AnyTap, ExpertTap, LayerDone, LayerTap, RouterTap, TrunkTap

_TAP = "_moebench_tap"
_CONVERSIONS = ("to_quantized", "to_lora", "fuse")


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
        heard.logits, heard.x = logits, args[0] if args else None
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
        tap, y = getattr(self, _TAP), base.__call__(self, *args, **kwargs)
        tap.router.heard.ran.append(tap.number)
        if tap.router.outputs:
            tap.router.heard.made.append(y)
        return y

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
        heard = tap.heard
        heard.ran.clear()
        heard.made.clear()
        y = base.__call__(self, x, *args, **kwargs)
        # Token after token, the experts of each in the order of its choice.
        indices = mx.array(heard.ran, dtype=mx.uint32).reshape(math.prod(x.shape[:-1]), -1)
        made, heard.made = heard.made, []
        tap.emit(indices, mx.stack(made).reshape(*indices.shape, -1) if made else None)
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
