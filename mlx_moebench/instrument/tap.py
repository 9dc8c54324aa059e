"""Recording subclasses of a gate, of the module that runs the experts, and of the layer around them.

A tap swaps the *class* of an existing module for a subclass that calls the original and notes what passed. The
module stays the same object in the same place, so parameter names, saving, freezing and training see no
difference, and the output is the original's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import mlx.nn as nn

from ..errors import RoutingError
from ..routing.record import Array
from .caches import cache_among, unknown_cache

Sink = Callable[[int, Array, Array, tuple[int, ...]], None]
"""``sink(number, logits, indices, shape)``: the router's number in running order, what its gate returned, what its
experts got, and the leading shape (B, S) of the hidden states that its layer got."""

_TAP = "_moebench_tap"
_CONVERSIONS = ("to_quantized", "to_lora", "fuse")


@dataclass
class LayerTap:
    """What a layer was called with, while it runs.

    shape: the leading shape of its hidden states, which gates often see flattened. cache: its KV cache, if any.
    unknown_cache: the name of an argument that seems to be one, but is not one of mlx-lm's.
    """

    shape: tuple[int, ...] | None = None
    cache: object = None
    unknown_cache: str | None = None


@dataclass
class RouterTap:
    """Joins the gate and the experts of one router: the logits wait here until the experts are called.

    sinks: of every capture of the model, with the router's number there, in the order in which they came.
    """

    name: str
    layer: LayerTap
    sinks: list[tuple[int, Sink]] = field(default_factory=list)
    logits: Array | None = None

    def emit(self, indices: Array) -> None:
        """Hand the waiting logits and ``indices`` to the sinks."""
        logits, self.logits = self.logits, None
        if logits is None:
            raise RoutingError(
                f"{self.name}: the experts ran but the tapped gate did not, because something (DoRA, for one) put "
                "another module in its place; detach(model) and attach again after changing the model."
            )
        for number, sink in self.sinks:
            sink(number, logits, indices, self.layer.shape or tuple(logits.shape[:-1]))


def tap_layer(layer: nn.Module, tap: LayerTap) -> None:
    """Make ``layer`` note the shape of the hidden states it is called with."""
    _swap(layer, _layer_class(_untapped(layer)), tap)


def tap_gate(gate: nn.Module, tap: RouterTap) -> None:
    """Make ``gate`` record its output, the router logits."""
    _swap(gate, _gate_class(_untapped(gate)), tap)


def tap_experts(experts: nn.Module, tap: RouterTap) -> None:
    """Make ``experts`` report the indices it is called with."""
    _swap(experts, _experts_class(_untapped(experts)), tap)


def tap_of(module: nn.Module) -> LayerTap | RouterTap | None:
    """The tap on ``module``, if any."""
    tap: LayerTap | RouterTap | None = vars(module).get(_TAP)
    return tap


def untap(module: nn.Module) -> None:
    """Give ``module`` its own class back; nothing happens where it has no tap."""
    if tap_of(module) is not None:
        module.__class__ = _untapped(module)
        object.__delattr__(module, _TAP)


def _swap(module: nn.Module, recording: Any, tap: LayerTap | RouterTap) -> None:
    module.__class__ = recording
    # Not Module.__setattr__: the tap must stay out of the module's own dictionary of parameters and children.
    object.__setattr__(module, _TAP, tap)


def _untapped(module: nn.Module) -> Any:
    return vars(type(module)).get("_moebench_base", type(module))


@cache
def _layer_class(base: Any) -> Any:
    def __call__(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        tap = getattr(self, _TAP)
        tap.shape = tuple(x.shape[:-1])
        arguments = {f"argument {place}": value for place, value in enumerate(args, 2)} | kwargs
        tap.cache, tap.unknown_cache = cache_among(arguments), unknown_cache(arguments)
        try:
            return base.__call__(self, x, *args, **kwargs)
        finally:
            tap.shape = tap.cache = tap.unknown_cache = None

    return _recording(base, {"__call__": __call__})


@cache
def _gate_class(base: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        # Inside LoRA both the adapter and the linear layer it wraps are tapped; the outer call ends last and wins.
        logits = base.__call__(self, *args, **kwargs)
        getattr(self, _TAP).logits = logits
        return logits

    members: dict[str, object] = {"__call__": __call__}
    for name in _CONVERSIONS:
        if (convert := getattr(base, name, None)) is not None:
            members[name] = _keeping_tap(convert)
    if "to_lora" not in members and issubclass(base, nn.Linear | nn.QuantizedLinear):
        members["to_lora"] = _keeping_tap(_linear_to_lora)
    return _recording(base, members)


@cache
def _experts_class(base: Any) -> Any:
    def __call__(self: Any, x: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        y = base.__call__(self, x, indices, *args, **kwargs)
        getattr(self, _TAP).emit(indices)
        return y

    return _recording(base, {"__call__": __call__})


def _recording(base: Any, members: dict[str, object]) -> Any:
    return type(f"{base.__name__}Tapped", (base,), {**members, "_moebench_base": base})


def _keeping_tap(convert: Callable[..., Any]) -> Callable[..., Any]:
    """``convert``, a method that returns the module to put in this one's place, with the tap carried over."""

    def converted(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = convert(self, *args, **kwargs)
        tap_gate(module, getattr(self, _TAP))
        return module

    return converted


def _linear_to_lora(linear: nn.Module, r: int = 8, scale: float = 20.0, dropout: float = 0.0) -> nn.Module:
    """What mlx-lm's ``linear_to_lora_layers`` does to a linear layer that has no ``to_lora`` of its own."""
    from mlx_lm.tuner.lora import LoRALinear

    return LoRALinear.from_base(linear, r=r, scale=scale, dropout=dropout)
