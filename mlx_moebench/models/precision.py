"""Quantising a model when it is loaded, with its routers kept precise enough to choose as they did."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.nn as nn

from ..errors import needed
from ..options import UNQUANTISED
from ..routing.record import PRECISE_ROUTER_BITS

_GROUP_SIZES = (64, 32)
"""In the order in which they are tried; MLX's own default first."""


Packing = dict[str, object]
"""How a weight is packed, as config.json says it: group_size, bits and mode."""


def quantise(
    model: nn.Module, routers: Sequence[nn.Module], bits: int | None, router_bits: int | None
) -> Packing | None:
    """Quantise the weights of ``model`` in place, in MLX's affine form.

    Returns what config.json says of it under ``quantization``, or None where nothing was quantised.

    routers: the modules that hold the routers' weights; they get router_bits, which is max(8, bits) by default.
    bits: for everything else; None leaves it. A weight whose rows divide by no group size stays as it is, and so does
    one that mlx-lm's own ``quant_predicate`` of the model excludes.

    Nothing is computed yet: a weight that was loaded lazily is read, packed and dropped when its turn comes.
    """
    if router_bits is None:
        router_bits = UNQUANTISED if bits is None else max(PRECISE_ROUTER_BITS, bits)
    if bits is None and router_bits == UNQUANTISED:
        return None
    kept = {id(router) for router in routers}
    allowed = getattr(model, "quant_predicate", None) or (lambda path, module: True)
    packed: dict[str, Packing] = {}

    def packing(path: str, module: nn.Module) -> Packing | bool:
        if id(module) not in kept and allowed(path, module) is False:
            return False
        chosen = _packing(module, router_bits if id(module) in kept else bits)
        if chosen is not None:
            packed[path] = chosen
        return chosen or False

    needed(nn.Linear, "to_quantized", "mlx", "makes a layer's weights smaller")
    nn.quantize(model, class_predicate=packing)
    default: Packing = {"group_size": _GROUP_SIZES[0], "bits": bits or router_bits, "mode": "affine"}
    return {**default, **{path: chosen for path, chosen in packed.items() if chosen != default}} if packed else None


def _packing(module: nn.Module, bits: int | None) -> Packing | None:
    """How this module is packed; None where it is not."""
    if not hasattr(module, "to_quantized") or bits in (None, UNQUANTISED):
        return None
    group = next((size for size in _GROUP_SIZES if module.weight.shape[-1] % size == 0), None)
    return None if group is None else {"group_size": group, "bits": bits, "mode": "affine"}
