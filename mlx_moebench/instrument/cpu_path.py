"""The fast path of a model's experts on a Linux CPU: mlx-lm's classes swapped for such that group tokens by expert.

As with taps the *class* of a module changes and nothing else: parameters, saving, quantising and LoRA see no
difference. Outputs are the same up to float32 rounding. On a GPU and on macOS nothing is swapped;
``MLX_MOEBENCH_CPU_PATH=off`` keeps mlx-lm's own everywhere.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwiGLU, SwitchGLU, SwitchLinear, SwitchMLP

from ..routing.record import Array
from .capture import experts_of, is_traced
from .grouped import Grouping, grouped_experts
from .tap import tap_experts, tap_of, untap, untapped
from .taps import RouterTap

ENVIRONMENT_VARIABLE = "MLX_MOEBENCH_CPU_PATH"

WORTH_IT = 2**17
"""Multiplications, an expert's weights times its rows, from which its products are faster than those of single rows."""

UNPACKED = 32
"""Rows of an expert from which it is faster to unpack its quantised weights than to multiply with them as they are."""


class _Here(threading.local):
    """Whether the forwards of this thread are run for what their routers say alone, or even each layer is."""

    only_routing: bool = False
    each_layer: bool = False


_here = _Here()


@contextmanager
def only_routing(each_layer: bool = False) -> Iterator[None]:
    """Nobody reads what forwards of this thread return: the experts after the last router need not be computed.

    They are if someone does, as mlx-lm computes them. each_layer: nobody reads what any layer returns.
    """
    before = _here.only_routing, _here.each_layer
    _here.only_routing, _here.each_layer = True, each_layer
    try:
        yield
    finally:
        _here.only_routing, _here.each_layer = before


def is_for_routing_alone() -> bool:
    """Whether this thread is inside `only_routing`: what is computed at once is then computed for nobody."""
    return _here.only_routing


def has_cpu_path() -> bool:
    """Whether experts are grouped here: on a Linux CPU, unless it is switched off."""
    off = os.environ.get(ENVIRONMENT_VARIABLE, "").lower() == "off"
    return platform.system() == "Linux" and not off and mx.default_device().type == mx.DeviceType.cpu


def use_cpu_path(model: nn.Module) -> None:
    """Group tokens by expert in ``model`` from now on, where `has_cpu_path`; taps on it stay.

    Only mlx-lm's own ``SwitchGLU`` and ``SwitchMLP`` change. Raises UnsupportedModelError as `experts_of` does.
    """
    if not has_cpu_path():
        return
    every = experts_of(model)
    for experts in every:
        for module in experts.modules():  # those of the lab have it inside
            if (kind := untapped(module)) in _CLASSES:
                _become(module, _CLASSES[kind][experts is every[-1]])


def leave_cpu_path(model: nn.Module) -> None:
    """Give the experts of ``model`` mlx-lm's classes back; taps on them stay."""
    for module in model.modules():
        if isinstance(module, _Grouped):
            _become(module, next(kind for kind in _CLASSES if isinstance(module, kind)))


def _become(module: nn.Module, kind: Any) -> None:
    tap = tap_of(module)
    untap(module)
    module.__class__ = kind
    if isinstance(tap, RouterTap):
        tap_experts(module, tap)


class _Grouped:
    """What both classes share."""

    last = False
    """Whether no router comes after these experts."""

    def _is_worth_it(self, x: Array, indices: Array, projections: list[Any]) -> bool:
        """Whether to group; decided by shapes alone, and before anything is evaluated."""
        unread = _here.each_layer or (self.last and _here.only_routing)
        if not has_cpu_path() or unread or x.shape[:-1] != indices.shape[:-1]:
            return False
        if not all(type(p) is SwitchLinear or _is_packed(p) for p in projections):
            return False
        parts = min(indices.size, projections[0].num_experts)
        if any(_is_packed(p) for p in projections) and indices.size < UNPACKED * parts:
            return False
        work = indices.size * sum(p.input_dims * p.output_dims for p in projections)
        return work >= WORTH_IT * parts > 0 and not is_traced(x, indices)


class GroupedGLU(_Grouped, SwitchGLU):  # type: ignore[misc]  # mlx-lm has no types
    """mlx-lm's ``SwitchGLU``, grouped."""

    def __call__(self, x: Array, indices: Array) -> Array:
        projections = [self.gate_proj, self.up_proj, self.down_proj]
        frozen = not self.trainable_parameters()
        in_numpy = type(self.activation) is SwiGLU and x.dtype == mx.float32 and all(map(_is_plain, projections))
        # The gradient in a weight of which one expert's is taken after the other would cost all of it each time.
        if not self._is_worth_it(x, indices, projections) or not (in_numpy or frozen or not self.training):
            y: Array = super().__call__(x, indices)
        elif in_numpy:
            rows, chosen = x.reshape(-1, x.shape[-1]), indices.reshape(-1, indices.shape[-1])
            y = grouped_experts(rows, chosen, *(p.weight for p in projections), frozen=frozen)
        else:
            products = _Products(x, indices, self.gate_proj.num_experts)
            gate, up = products.of(self.gate_proj, products.rows), products.of(self.up_proj, products.rows)
            y = products.back(products.of(self.down_proj, self.activation(up, gate)))
        return y.reshape(*indices.shape, -1)


class GroupedMLP(_Grouped, SwitchMLP):  # type: ignore[misc]
    """mlx-lm's ``SwitchMLP``, grouped."""

    def __call__(self, x: Array, indices: Array) -> Array:
        can = not self.training or not self.trainable_parameters()
        if not can or not self._is_worth_it(x, indices, [self.fc1, self.fc2]):
            y: Array = super().__call__(x, indices)
            return y
        products = _Products(x, indices, self.fc1.num_experts)
        return products.back(products.of(self.fc2, self.activation(products.of(self.fc1, products.rows))))


class _Products:
    """Products of MLX, one for each expert with rows."""

    def __init__(self, x: Array, indices: Array, n_experts: int) -> None:
        self._grouping, self._shape = Grouping.of(indices, n_experts), tuple(indices.shape)
        self.rows: Array = x.reshape(-1, x.shape[-1])[mx.array(self._grouping.rows)]
        """[N K, D] the input of each selection, sorted by expert."""

    def of(self, projection: Any, rows: Array) -> Array:
        """[N K, H] of [N K, D]."""
        parts = self._grouping.parts
        y = mx.concatenate([rows[start:stop] @ _weight(projection, expert).T for expert, start, stop in parts])
        if "bias" in projection:
            counts = [stop - start for _, start, stop in parts]
            y = y + projection.bias[mx.array(np.repeat([expert for expert, *_ in parts], counts))]
        return y

    def back(self, y: Array) -> Array:
        """[..., K, D] of [N K, D] sorted by expert."""
        return y[mx.array(self._grouping.inverse)].reshape(*self._shape, -1)


def _weight(projection: Any, expert: int) -> Array:
    """[H, D]; unpacked where it is quantised, since a product with packed weights unpacks them for every row."""
    if not _is_packed(projection):
        return projection.weight[expert]
    biases = None if projection.get("biases") is None else projection.biases[expert]
    packing = {"group_size": projection.group_size, "bits": projection.bits, "mode": projection.mode}
    return mx.dequantize(projection.weight[expert], projection.scales[expert], biases, **packing)


def _is_plain(projection: Any) -> bool:
    return type(projection) is SwitchLinear and "bias" not in projection and projection.weight.dtype == mx.float32


def _is_packed(projection: Any) -> bool:
    return type(projection) is QuantizedSwitchLinear and projection.get("global_scale") is None


class LastGroupedGLU(GroupedGLU):
    """After the last router."""

    last = True


class LastGroupedMLP(GroupedMLP):
    """After the last router."""

    last = True


_CLASSES: dict[type, tuple[type, type]] = {
    SwitchGLU: (GroupedGLU, LastGroupedGLU),
    SwitchMLP: (GroupedMLP, LastGroupedMLP),
}
