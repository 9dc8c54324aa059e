"""Quantising a model when it is loaded, with its routers kept precise enough to choose as they did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.nn as nn

from ..errors import needed
from ..options import UNQUANTISED
from ..routing.record import PRECISE_ROUTER_BITS

_GROUP_SIZES = (64, 32)
"""In the order in which they are tried; MLX's own default first."""


def quantise(
    model: nn.Module, routers: Sequence[nn.Module], bits: int | None, router_bits: int | None
) -> dict[str, Any] | None:
    """Quantise the weights of ``model`` in place, in MLX's affine form.

    Returns what config.json says of it under ``quantization``, or None where nothing was quantised.

    routers: the modules that hold the routers' weights; they get router_bits, which is max(8, bits) by default.
    bits: for everything else; None leaves it. A weight whose rows divide by no group size stays as it is.

    Nothing is computed yet: a weight that was loaded lazily is read, packed and dropped when its turn comes.
    """
    if router_bits is None:
        router_bits = UNQUANTISED if bits is None else max(PRECISE_ROUTER_BITS, bits)
    kept = {id(router) for router in routers}
    default = {"group_size": _GROUP_SIZES[0], "bits": bits or router_bits, "mode": "affine"}
    found: dict[str, dict[str, Any]] = {}

    def kind(path: str, module: nn.Module) -> dict[str, Any] | bool:
        if not hasattr(module, "to_quantized"):
            return False
        wanted = router_bits if id(module) in kept else bits
        group = next((size for size in _GROUP_SIZES if module.weight.shape[-1] % size == 0), None)
        if wanted in (None, UNQUANTISED) or group is None:
            return False
        found[path] = {"group_size": group, "bits": wanted, "mode": "affine"}
        return found[path]

    if bits is None and router_bits == UNQUANTISED:
        return None
    needed(nn.Linear, "to_quantized", "mlx", "makes a layer's weights smaller")
    nn.quantize(model, class_predicate=kind)
    return {**default, **{path: chosen for path, chosen in found.items() if chosen != default}} if found else None
