"""What a model's own modules saw, noted without taps: what the taps are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from conftest import row_of
from family_rows import Place

from mlx_moebench.families import RouterForm, family_for
from mlx_moebench.families.base import module_at
from mlx_moebench.instrument import config_of, routers_of

Call = tuple[tuple[Any, ...], Any]
"""The arguments of a call and what it returned."""


class Recorder:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, mx.array, mx.array, tuple[int, ...]]] = []

    def __call__(self, number: int, logits: mx.array, indices: mx.array, shape: tuple[int, ...]) -> None:
        self.calls.append((number, logits, indices, shape))

    def take(self) -> list[tuple[int, mx.array, mx.array, tuple[int, ...]]]:
        calls, self.calls = self.calls, []
        return calls


def forms(model: nn.Module) -> list[RouterForm]:
    """The form of each router, in running order."""
    family = family_for(config_of(model))
    return [family.form(spec.router) for spec in routers_of(model)]


def gates(model: nn.Module) -> list[nn.Module]:
    """The gate of each router, in running order."""
    layers = [model.layers[spec.layer] for spec in routers_of(model)]
    return [module_at(layer, form.gate) for layer, form in zip(layers, forms(model), strict=True)]


def places(model: nn.Module) -> list[tuple[nn.Module, Place]]:
    """The layer of each router and its paths there by the tests' own table, in running order."""
    row = row_of(model)
    return [(model.layers[layer], place) for layer in row.layers for place in row.places]


def is_linear(model: nn.Module) -> bool:
    """Whether its gates are linear layers: those can be quantised, and get adapters."""
    return all(isinstance(gate, nn.Linear) for gate in gates(model))


def is_tapped(model: nn.Module) -> bool:
    return any("_moebench_tap" in vars(m) or type(m).__name__.endswith("Tapped") for m in model.modules())


def classes(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


@contextmanager
def called_as(module: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, ``module(*args)`` is ``call(original, *args)``."""
    base = type(module)

    class Other(base):  # type: ignore[misc,valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return call(super().__call__, *args, **kwargs)

    module.__class__ = Other
    try:
        yield
    finally:
        module.__class__ = base


def watch(module: nn.Module) -> list[Call]:
    """The list to which ``module`` adds the arguments and the output of every later call."""
    calls: list[Call] = []

    class Watched(type(module)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            y = super().__call__(*args, **kwargs)
            calls.append((args, y))
            return y

    module.__class__ = Watched
    return calls


def unwatch(model: nn.Module) -> None:
    """Give every watched module its own class back."""
    for module in model.modules():
        while type(module).__name__ == "Watched":
            module.__class__ = type(module).__mro__[1]


class Watch:
    """What one router of a model was given and did, in one forward: its gate, its block and its experts."""

    def __init__(self, layer: nn.Module, place: Place) -> None:
        self.block_module, self.experts_module = module_at(layer, place.block), module_at(layer, place.experts)
        self.gate = watch(module_at(layer, place.gate))
        self.block = watch(self.block_module)
        self._looped = isinstance(self.experts_module, list)
        self._one_by_one: list[tuple[int, Any]] = []
        if self._looped:
            for number, expert in enumerate(self.experts_module):
                self._note(number, expert)
        else:
            self.experts = watch(self.experts_module)

    def _note(self, number: int, expert: nn.Module) -> None:
        noted = self._one_by_one

        class Watched(type(expert)):  # type: ignore[misc]
            def __call__(self, x: mx.array) -> mx.array:
                y: mx.array = super().__call__(x)
                noted.append((number, y))
                return y

        expert.__class__ = Watched

    def received(self, top_k: int) -> mx.array:
        """The indices that the experts were called with [N, K], of experts one by one in the order of the calls."""
        if self._looped:
            return mx.array([number for number, _ in self._one_by_one]).reshape(-1, top_k)
        indices = self.experts[0][0][1]
        return indices.reshape(-1, indices.shape[-1])

    def outputs(self, top_k: int) -> mx.array:
        """What each chosen expert returned, [N, K, D]."""
        if self._looped:
            y = mx.stack([y for _, y in self._one_by_one])
            return y.reshape(-1, top_k, y.shape[-1])
        y = self.experts[0][1]
        return y.reshape(-1, top_k, y.shape[-1])

    def silent(self) -> Any:
        """What the block returns while its experts give 0: a shared expert or a bias."""

        def nothing(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return mx.zeros_like(call(*args, **kwargs))

        return self.again(nothing)

    def again(self, call: Callable[..., Any]) -> Any:
        """The block with the same arguments, its experts called by way of ``call``."""
        from contextlib import ExitStack

        with ExitStack() as stack:
            for module in self.experts_module if self._looped else [self.experts_module]:
                stack.enter_context(called_as(module, call))
            return self.block_module(*self.block[0][0])


def top_of(scores: mx.array | np.ndarray, k: int) -> np.ndarray:
    """The k best of the last axis, sorted by number."""
    return np.sort(np.argsort(-np.array(scores), axis=-1, kind="stable")[..., :k], axis=-1)
