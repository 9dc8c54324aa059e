"""Quantised checkpoints: what config.json says of how weights are packed, and what their headers say.

The two can differ: a tool that dequantises leaves the block behind, one that casts to float8 writes none. Neither
library tells: mlx-lm reads bytes of float8 as whole numbers, both trip over a block without packed weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ModelLoadError
from ..families.settings import SECTION
from ..types import Json
from .weights import Tensor, Weights, read_json, some

_PLAIN = ("F64", "F32", "F16", "BF16")
_LOW = ("F8", "F6", "F4")
_PACKING = (*_LOW, "I8", "U8", "I16", "U16", "I32", "U32")

_SCALE = re.compile(
    r"(.+?)([._]weight)?[._](weight_)?(scales?|scales?_inv|absmax|SCB|qzeros|zeros?|biases|global_scale)"
)
"""Names of what stands beside packed weights, and in the first group the name that it belongs to."""

_MODELOPT = "hf_quant_config.json"


class _Method(NamedTuple):
    """A format. called: its name; torch: what transformers needs beside itself to read it, if anything."""

    called: str
    torch: str = ""


_METHODS: Mapping[str, _Method] = {
    "aqlm": _Method("AQLM", "aqlm"),
    "auto-round": _Method("AutoRound", "auto-round"),
    "awq": _Method("AWQ", "gptqmodel"),
    "bitnet": _Method("BitNet"),
    "bitsandbytes": _Method("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": _Method("compressed-tensors", "compressed-tensors"),
    "eetq": _Method("EETQ", "kernels and a GPU"),
    "fbgemm_fp8": _Method("FBGEMM FP8", "fbgemm-gpu and a GPU"),
    "fp8": _Method("FP8 (fine-grained float8)"),
    "fp_quant": _Method("FP-Quant", "fp_quant and a GPU"),
    "gguf": _Method("GGUF", "gguf"),
    "gptq": _Method("GPTQ", "optimum and gptqmodel"),
    "higgs": _Method("HIGGS", "a GPU and its kernels"),
    "hqq": _Method("HQQ", "hqq"),
    "modelopt": _Method("NVIDIA ModelOpt", "a library of its own"),
    "mxfp4": _Method("MXFP4"),
    "mxfp8": _Method("MXFP8"),
    "quanto": _Method("quanto", "optimum-quanto"),
    "quark": _Method("Quark", "amd-quark"),
    "spqr": _Method("SpQR", "spqr_quant and a GPU"),
    "torchao": _Method("torchao", "torchao"),
    "vptq": _Method("VPTQ", "vptq"),
}

_TRACES: tuple[tuple[str, Callable[[str, Tensor], bool]], ...] = (
    ("gptq", lambda name, tensor: name.endswith(".g_idx")),
    ("compressed-tensors", lambda name, tensor: name.endswith(".weight_packed")),
    ("awq", lambda name, tensor: name.endswith(".qweight")),
    ("bitsandbytes", lambda name, tensor: name.endswith((".SCB", ".absmax")) or ".quant_state." in name),
    ("mxfp4", lambda name, tensor: name.endswith("_blocks") and tensor.dtype == "U8"),
    ("hqq", lambda name, tensor: name.endswith(".W_q")),
    ("quanto", lambda name, tensor: name.endswith(".weight._data")),
    ("mlx", lambda name, tensor: name.endswith(".scales") and tensor.dtype in (*_PLAIN, "U8")),
    ("fp8", lambda name, tensor: name.endswith("_scale_inv") or tensor.dtype.startswith("F8")),
)
"""What the names of tensors say of a format that no config names; the first that fits any."""


class Packing(NamedTuple):
    """What config.json says of packed weights. key: where. method: of `_METHODS`, another, or ``mlx`` for MLX's own."""

    key: str
    method: str
    settings: Json

    @property
    def called(self) -> str:
        bits = self.settings.get("bits", self.settings.get("num_bits"))
        name = "MLX's own" if self.method == "mlx" else _METHODS.get(self.method, _Method(repr(self.method))).called
        return f"{name}, {bits} bit" if type(bits) is int else name


def packing_of(config: Json, folder: Path | None = None) -> Packing | None:
    """The block that describes packed weights, wherever it stands; None where there is none.

    Raises ModelLoadError for a block that names no method and no packing of MLX's.
    """
    for scope, where in ((config, ""), (config.get(SECTION) or {}, f"{SECTION}.")):
        for key in ("quantization", "quantization_config"):
            if settings := scope.get(key):
                return _read(where + key, settings)
    if folder is not None and (folder / _MODELOPT).is_file():
        settings = read_json(folder / _MODELOPT)
        return Packing(_MODELOPT, "modelopt", settings if isinstance(settings, dict) else {})
    return None


def _read(key: str, settings: Any) -> Packing:
    if not isinstance(settings, dict):
        raise ModelLoadError(f"config.json has {key} = {settings!r}, where a section of settings belongs; mend it.")
    method = settings.get("quant_method")
    if method is None and key.endswith("_config") and type(settings.get("load_in_4bit")) is bool:
        method = "bitsandbytes"  # as older versions of it wrote
    if method is None and {"group_size", "bits"} <= settings.keys():
        for name, most in (("group_size", 2**20), ("bits", 16)):
            if type(settings[name]) is not int or not 1 <= settings[name] <= most:
                raise ModelLoadError(
                    f"config.json has {key}.{name} = {settings[name]!r}; it must be a whole number from 1 to {most}."
                )
        method = "mlx"
    if not isinstance(method, str):
        raise ModelLoadError(
            f"config.json has {key} without quant_method, group_size and bits, so it cannot be told how weights are "
            "packed; mend it, or remove it if they are not."
        )
    return Packing(key, method.lower().replace("_", "-") if method != "fp_quant" else method, settings)


def check_packing(config: Json, weights: Weights, name: str) -> None:
    """What holds for every library: a block describes packed weights, and as they are.

    Raises ModelLoadError where config.json has a block and no weight is packed, where weights are packed in MLX's
    form and there is no block, and where the block's numbers are not those of the headers.
    """
    packing = packing_of(config, weights.folder)
    packed = _packed(weights)
    if packing is None:
        if _traced(weights) == "mlx":
            raise ModelLoadError(
                f"{name} holds packed weights in MLX's form ({_first(packed)}), and config.json has no 'quantization' "
                "that says how; fetch config.json again, or add its group_size and bits."
            )
        return
    if not packed:
        dtypes = Counter(tensor.dtype for tensor in weights.tensors.values())
        where = "config.json" if packing.key != _MODELOPT else packing.key
        raise ModelLoadError(
            f"{where} says that the weights of {name} are quantised ({packing.key}: {packing.called}), and they are "
            f"plain {'/'.join(sorted(dtypes))}: remove {_blocks(config, packing)}, or give the quantised checkpoint."
        )
    for tensor, wrong in _contradictions(packing, weights):
        raise ModelLoadError(f"{packing.key} of config.json and the weights do not fit: {tensor!r} {wrong}.")


def _blocks(config: Json, packing: Packing) -> str:
    if packing.key == _MODELOPT:
        return packing.key
    scope = config[SECTION] if packing.key.startswith(SECTION) else config
    prefix = packing.key.rpartition(".")[0]
    keys = [key for key in ("quantization", "quantization_config") if scope.get(key)]
    return " and ".join(f"{prefix}.{key}".lstrip(".") for key in keys) + " from config.json"


def check_for_mlx(config: Json, weights: Weights, name: str) -> None:
    """Raises ModelLoadError for weights of a dtype that MLX would read as whole numbers, and nothing says how else."""
    bare = _bare(weights)
    if bare and (packing_of(config, weights.folder) is None or any(t.dtype.startswith(_LOW) for t in bare.values())):
        raise ModelLoadError(
            f"{name} stores {len(bare):,} weights ({_first(bare)}) without a scale, and no quantisation block of "
            "config.json describes them: MLX would read their bytes as whole numbers; measure it with the backend "
            "torch, or cast them to bfloat16."
        )


def whole_numbers(weights: Weights, name: str) -> str | None:
    """What a reader must know where weights are whole numbers without a scale: transformers computes with them so."""
    whole = {tensor: stored for tensor, stored in _bare(weights).items() if not stored.dtype.startswith(_LOW)}
    if not whole or _traced(weights):
        return None
    return (
        f"{name} stores {len(whole):,} weights ({_first(whole)}) without a scale: they are taken for the whole numbers "
        "that they are, which no training gives; give the model that it was made from."
    )


def unread_by_mlx(config: Json, weights: Weights, name: str, said: str) -> ModelLoadError | None:
    """What to say where mlx-lm did not load packed weights, and ``said`` why; None where none are packed."""
    packing = packing_of(config, weights.folder)
    method = _traced(weights) if packing is None else packing.method
    if method in ("", "mlx"):
        return None
    known = _METHODS.get(method, _Method(method, "a library of its own"))
    needs = f", which needs {known.torch} for it" if known.torch else ""
    return ModelLoadError(
        f"{name} is quantised as {known.called if packing is None else packing.called}, which mlx-lm does not load for "
        f"model_type {config.get('model_type')!r} ({said}): give the unquantised model, with --bits 4 if memory is "
        f"short, or measure this one with the backend torch{needs}."
    )


def unread_by_torch(config: Json, weights: Weights, name: str, said: str) -> ModelLoadError | None:
    """The same of transformers."""
    packing = packing_of(config, weights.folder)
    method = _traced(weights) if packing is None else packing.method
    if not method:
        return None
    called = _METHODS.get(method, _Method(method)).called if packing is None else packing.called
    return ModelLoadError(
        f"{name} is quantised as {called}, which transformers does not load here ({said}): install what it asks for, "
        "or give the unquantised model, with --4bit if memory is short."
    )


def _packed(weights: Weights) -> dict[str, Tensor]:
    """The weights that are stored in a dtype of packing, without what stands beside them."""
    return {
        name: tensor
        for name, tensor in weights.tensors.items()
        if tensor.dtype.startswith(_PACKING) and len(tensor.shape) > 1 and not _SCALE.fullmatch(name)
    }


def _bare(weights: Weights) -> dict[str, Tensor]:
    """Those of `_packed` that have no scale."""
    stems = {match[1] for tensor in weights.tensors if (match := _SCALE.fullmatch(tensor))}
    return {
        tensor: stored
        for tensor, stored in _packed(weights).items()
        if not {stem := tensor.removesuffix(".weight"), stem.rpartition("_")[0]} & stems
    }


def _traced(weights: Weights) -> str:
    """The format that the names and dtypes of tensors show; empty for plain weights."""
    if not _packed(weights):
        return ""
    for method, shows in _TRACES:
        if any(shows(name, tensor) for name, tensor in weights.tensors.items()):
            return method
    return ""


def _contradictions(packing: Packing, weights: Weights) -> Iterator[tuple[str, str]]:
    """(tensor, what is wrong with it) where a block says other bits or groups than the headers."""
    tensors, settings = weights.tensors, packing.settings
    if packing.method == "mlx":
        for path, entry in settings.items():
            if isinstance(entry, dict) and f"{path}.weight" in tensors:
                yield from _of_mlx(path, entry, tensors)
    elif packing.method in ("awq", "gptq"):
        for name in [name for name in tensors if name.endswith(".qweight")]:
            yield from _of_awq(name, settings, tensors, packed_rows=packing.method == "gptq")
    elif packing.method == "fp8" and _is_pair(settings.get("weight_block_size")):
        for name, scale in tensors.items():
            weight = tensors.get(name.removesuffix("_scale_inv")) if name.endswith("_scale_inv") else None
            if weight is not None and len(weight.shape) == len(scale.shape) == 2:
                rows, columns = settings["weight_block_size"]
                wanted = (-(-weight.shape[0] // rows), -(-weight.shape[1] // columns))
                if scale.shape != wanted:
                    yield (
                        name,
                        f"is {list(scale.shape)}, and blocks of {rows} x {columns} imply {list(wanted)}",
                    )


def _of_mlx(path: str, entry: Json, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    scales, weight = tensors.get(f"{path}.scales"), tensors[f"{path}.weight"]
    if scales is None:
        yield f"{path}.weight", f"is plain {weight.dtype}, and has bits in the block: remove {path!r} from the block"
        return
    bits, group = entry.get("bits"), entry.get("group_size")
    if not isinstance(bits, int) or not isinstance(group, int) or not weight.shape or not scales.shape:
        return
    if weight.shape[-1] * 32 != scales.shape[-1] * bits * group:
        yield f"{path}.weight", _other_numbers(weight, scales, bits, group)


def _of_awq(name: str, settings: Json, tensors: Mapping[str, Tensor], packed_rows: bool) -> Iterator[tuple[str, str]]:
    scales, weight = tensors.get(f"{name.removesuffix('qweight')}scales"), tensors[name]
    bits, group = settings.get("bits"), settings.get("group_size", 128)
    if scales is None or len(weight.shape) != 2 or len(scales.shape) != 2 or type(bits) is not int or bits < 1:
        return
    rows, columns = weight.shape
    inner, outer = (rows * 32 // bits, columns) if packed_rows else (rows, columns * 32 // bits)
    groups = 1 if group == -1 else -(-inner // group) if type(group) is int and group > 0 else scales.shape[0]
    if scales.shape != (groups, outer):
        yield name, _other_numbers(weight, scales, bits, group)


def _other_numbers(weight: Tensor, scales: Tensor, bits: object, group: object) -> str:
    return f"is {list(weight.shape)} with scales {list(scales.shape)}, which are not {bits} bit in groups of {group}"


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(one) is int and one > 0 for one in value)


def _first(tensors: Mapping[str, Tensor]) -> str:
    dtypes = sorted({tensor.dtype for tensor in tensors.values()})
    return f"{some(dtypes)}, such as {next(iter(tensors))!r}"
