"""The parameters of a model as MLX would hold them, from its config alone: built lazily, and not computed."""

from __future__ import annotations

from copy import deepcopy

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..checkpoints import check_unquantised
from ..checkpoints.described import Described
from ..checkpoints.foreign import said
from ..checkpoints.size import Part, Places
from ..families.base import module_at, stored_weight
from ..options import UNQUANTISED, Loading
from ..types import Json
from .precision import quantise
from .writers import mlx_settings, model_classes

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}

_MX_FORMS = {"mxfp4": {"group_size": 32, "bits": 4}, "mxfp8": {"group_size": 32, "bits": 8}}
"""Formats of others that MLX computes with as they are stored."""

NAME = "mlx-lm's model, built and not computed"


def parts(described: Described, loading: Loading, dtype: str) -> list[Part]:
    """Every parameter of the model that `models.load_checkpoint` would make with ``loading``, and its bytes in memory.

    dtype: of all that is not packed. What the checkpoint has packed stays as stored where MLX computes with that form,
    and is unpacked otherwise, as mlx-lm does. Raises ModelLoadError and UnsupportedModelError as loading does.
    """
    config, family = described.config, described.family
    settings = {**config, **mlx_settings(family, config)}
    family.check(settings)
    specs = family.specs(settings)
    with said(f"mlx-lm cannot build {described.name} from its config.json", "mend it or fetch it again"):
        classes, arguments = model_classes(family, settings)
        model: nn.Module = classes(arguments.from_dict(deepcopy(settings)))
    shapes = {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}
    places = Places.of(family, specs)
    model.set_dtype(_DTYPES[described.dtype])
    asked = loading.bits is not None or loading.router_bits not in (None, UNQUANTISED)
    if asked:
        check_unquantised(config, described.name)
        gates = (module_at(model.layers[one.layer], family.form(one.router).gate) for one in specs)
        quantise(model, [stored_weight(gate) for gate in gates], loading.bits, loading.router_bits)
    elif described.packing is not None:
        _pack_as_stored(model, described, places)
    model.set_dtype(_DTYPES[dtype])
    return [_part(places, name, shapes[name], nbytes) for name, nbytes in _bytes(model, shapes).items()]


def _part(places: Places, name: str, shape: tuple[int, ...], nbytes: int) -> Part:
    role, layer, share = places.role(name)
    return Part(name, role, layer, shape, nbytes, share)


def _bytes(model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Bytes of each parameter, with the scales and biases that packing has put beside it."""
    sizes = dict.fromkeys(shapes, 0)
    for name, array in tree_flatten(model.parameters()):
        sizes[name if name in shapes else f"{name.rpartition('.')[0]}.weight"] += array.nbytes
    return sizes


def _pack_as_stored(model: nn.Module, described: Described, places: Places) -> None:
    """Pack what the checkpoint has packed, where MLX computes with that form; by the headers, where they are known."""
    packing = described.packing
    assert packing is not None
    tensors = described.weights.tensors if described.weights else None
    settings: Json = packing.settings if packing.method == "mlx" else _MX_FORMS.get(packing.method, {})
    if not settings:
        return  # mlx-lm unpacks it
    form = {"group_size": settings["group_size"], "bits": settings["bits"]}
    form["mode"] = settings.get("mode", "affine") if packing.method == "mlx" else packing.method

    def packed(path: str, module: nn.Module) -> Json | bool:
        if not hasattr(module, "to_quantized") or module.weight.shape[-1] % form["group_size"]:
            return False
        if packing.method in _MX_FORMS:  # their writers pack the experts alone
            return form if places.role(f"{path}.weight")[0] == "experts" else False
        if path in settings:
            own: Json | bool = settings[path]
            return own
        return form if tensors is None or f"{path}.scales" in tensors else False

    nn.quantize(model, class_predicate=packed)
