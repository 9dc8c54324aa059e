"""Unquantised routers in a checkpoint that is quantised: its own, where it keeps them so, or those of the original."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..errors import ModelLoadError
from ..types import Json

OTHERS = 0.5
"""Relative distance of weights from those they are said to be made of from which they are another model's: 4 bit leaves
about 0.1, and unrelated ones are 1.4 apart."""


def quantised(routers: Sequence[nn.Module]) -> list[nn.Module]:
    """Those of the modules that hold packed weights."""
    return [router for router in routers if "scales" in router]


def check_unquantised_routers(routers: Sequence[nn.Module], name: str) -> None:
    """Raises ModelLoadError where the checkpoint ``name`` has no unquantised weights of its routers."""
    packed = quantised(routers)
    if packed:
        raise ModelLoadError(
            f"{len(packed)} of {len(routers)} routers of {name} are stored at {_bits(packed)} bit, and their "
            "unquantised weights are not in it: name the model that it was made from with --routers-from MODEL, or "
            "leave --router-bits out."
        )


def take_routers(
    model: nn.Module, routers: Sequence[nn.Module], sources: Sequence[nn.Module], name: str, source: str
) -> list[str]:
    """Put ``sources``, the routers of the model ``source``, in the place of ``routers`` of ``model``, called ``name``.

    Only packed ones are replaced; returns their paths. Raises ModelLoadError where none is packed, where the source's
    are, and where they are not the weights that these were quantised from, by shape and by value.
    """
    if not quantised(routers):
        raise ModelLoadError(f"The routers of {name} are unquantised as they are; leave --routers-from out.")
    if packed := quantised(sources):
        raise ModelLoadError(f"The routers of {source} are quantised, too ({_bits(packed)} bit); name the original.")
    if len(routers) != len(sources):
        raise ModelLoadError(f"{name} has {len(routers)} routers and {source} {len(sources)}; name the original.")
    places = {id(module): path for path, module in model.named_modules()}
    taken = []
    for router, original in zip(routers, sources, strict=True):
        path = places[id(router)]
        if "scales" in router:
            _check_same(router, original, path, source)
            taken.append((path, original))
    model.update_modules(tree_unflatten(taken))
    return [path for path, _ in taken]


def unpacked_in(quantisation: Json, paths: Sequence[str]) -> Json:
    """What config.json says of a checkpoint's packing, with the modules at these paths left out of it."""
    return {**quantisation, **dict.fromkeys(paths, False)}


def _check_same(router: nn.Module, original: nn.Module, path: str, source: str) -> None:
    shape = (router.scales.shape[0], router.scales.shape[1] * router.group_size)
    if tuple(original.weight.shape) != shape or ("bias" in router) != ("bias" in original):
        bias = "" if ("bias" in router) == ("bias" in original) else ", and only one of them has a bias"
        raise ModelLoadError(
            f"{path} has weights {list(shape)} and that of {source} {list(original.weight.shape)}{bias}; name the "
            "model that this one was made from."
        )
    biases = router.get("biases")
    stored = mx.dequantize(router.weight, router.scales, biases, router.group_size, router.bits, mode=router.mode)
    weight, stored = (array.astype(mx.float32) for array in (original.weight, stored))
    apart = float(mx.linalg.norm(weight - stored) / mx.maximum(mx.linalg.norm(weight), 1e-30))
    if not apart < OTHERS:
        raise ModelLoadError(
            f"{path} of {source} is no original of the quantised one: they are {apart:.2f} apart, relative to its "
            "size; name the model that this one was made from."
        )


def _bits(packed: Sequence[nn.Module]) -> str:
    return " and ".join(str(bits) for bits in sorted({router.bits for router in packed}))
