"""Which tensors of a checkpoint become which parameters of a transformers model: planned from headers, read one by one.

The renaming and fusing is transformers' own; only when and how a tensor is read is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from mlx_moebench.checkpoints.weights import read_weights
from mlx_moebench.errors import ModelLoadError, needed
from mlx_moebench.files import read_header
from mlx_moebench.types import Json

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: where its bytes are, its shape and its dtype."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self) -> torch.Tensor:
        """The tensor, in memory of its own on the CPU. Raises ModelLoadError where the file ends too early.

        The file is not mapped: pages of a mapped file stay resident, so that reading all tensors one by one would
        come to hold all of them.
        """
        tensor = torch.empty(self.shape, dtype=self.dtype)
        left = memoryview(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.offset)
            while left:  # one call reads 2 GiB at most
                if not (count := stream.readinto(left)):
                    raise ModelLoadError(f"{self.file} ends before its last tensor; fetch it again.")
                left = left[count:]
        return tensor

    def outline(self) -> torch.Tensor:
        """A tensor of this shape and dtype that holds no data."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


@dataclass
class Part:
    """Tensors of a checkpoint that become one or more parameters together, such as every expert's matrices of a layer.

    name: the parameter, or the first of them. converter: what transformers makes of the tensors, None where it only
    renames. sources: (pattern of the converter, key in the checkpoint).
    """

    name: str
    converter: WeightConverter | None
    sources: list[tuple[str, str]] = field(default_factory=list)

    def convert(self, model: torch.nn.Module, read: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parameters by name. ``read`` gives the tensor of a key, and is called when it is needed."""
        if self.converter is None:
            return {self.name: read(self.sources[0][1])}
        converter = deepcopy(self.converter)  # it collects tensors inside
        for pattern, key in self.sources:
            converter.add_tensor(self.name, key, pattern, partial(read, key))
        made = converter.convert(self.name, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint in ``folder`` by its key, from the headers of its files.

    Raises ModelLoadError as `read_weights` does.
    """
    return {key: stored for file in read_weights(folder).files for key, stored in _header(file).items()}


def _header(file: Path) -> dict[str, Stored]:
    """The tensors of one file."""
    header, stored = read_header(file), {}
    for key, entry in header.tensors.items():
        if entry["dtype"] not in _DTYPES:
            raise ModelLoadError(
                f"{file.name} holds {key!r} as {entry['dtype']}, which is no plain number format; give the "
                "unquantised model."
            )
        start = header.start + entry["data_offsets"][0]
        stored[key] = Stored(file, start, tuple(entry["shape"]), _DTYPES[entry["dtype"]])
    return stored


def plan(model: torch.nn.Module, tensors: Mapping[str, Stored]) -> list[Part]:
    """What to read and convert, in the order of the model's layers, to fill every parameter of ``model``.

    Nothing is read: every conversion is made once with tensors that hold no data.
    Raises ModelLoadError where keys are missing or unexpected, or a shape is not the model's.
    """
    wanted = model.state_dict()
    parts, unexpected = _parts(model, tensors, wanted)
    shapes: dict[str, tuple[int, ...]] = {}
    for part in parts:
        try:
            made = part.convert(model, lambda key: tensors[key].outline())
        except (RuntimeError, ValueError, IndexError) as error:
            raise ModelLoadError(
                f"The tensors {_some(key for _, key in part.sources)} cannot be made into {part.name!r}, so "
                "config.json and weights do not fit; fetch the checkpoint again."
            ) from error
        shapes |= {name: tuple(value.shape) for name, value in made.items()}
    unexpected += [name for name in shapes if name not in wanted]
    _check_keys(model, wanted.keys() - shapes.keys(), unexpected)
    for name, shape in shapes.items():
        if name in wanted and shape != tuple(wanted[name].shape):
            raise ModelLoadError(
                f"{name!r} is {list(shape)} in the checkpoint and {list(wanted[name].shape)} by its config.json; fetch "
                "the checkpoint again."
            )
    return parts


def _parts(
    model: torch.nn.Module, tensors: Mapping[str, Stored], wanted: Mapping[str, torch.Tensor]
) -> tuple[list[Part], list[str]]:
    """The parts, and the names that no parameter of the model has."""
    renamings, converters = _transforms(model)
    converter_of = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    parts: dict[str, Part] = {}
    unexpected = []
    prefix = model.base_model_prefix
    for key in sorted(tensors, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, wanted)
        if name not in wanted and key in wanted:  # it has its final name already
            name, pattern = rename_source_key(key, [], [], prefix, wanted)
        if name not in wanted:
            unexpected.append(name)
            continue
        part = parts.setdefault(name, Part(name, None if pattern is None else converter_of[pattern]))
        part.sources.append((pattern or key, key))
    return sorted(parts.values(), key=lambda part: dot_natural_key(part.name)), unexpected


def _transforms(model: torch.nn.Module) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    """What transformers does to the keys and tensors of such a model's checkpoints."""
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    return renamings, [transform for transform in transforms if isinstance(transform, WeightConverter)]


def _check_keys(model: torch.nn.Module, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raises ModelLoadError for keys that should and should not be there, by transformers' own exceptions."""
    tied = {
        name for pair in _declared(model, "all_tied_weights_keys").items() if set(pair) - set(missing) for name in pair
    }
    # Older checkpoints store a buffer of every layer that models now compute once.
    ignored = [r"rotary_emb\.inv_freq", *(_declared(model, "_keys_to_ignore_on_load_unexpected") or ())]
    lacking = _unmatched(set(missing) - tied, _declared(model, "_keys_to_ignore_on_load_missing") or ())
    surplus = _unmatched(unexpected, ignored)
    if lacking:
        raise ModelLoadError(
            f"The checkpoint lacks {_some(lacking)} of a {model.config.model_type!r} model; fetch it again."
        )
    if surplus:
        raise ModelLoadError(
            f"The checkpoint holds {_some(surplus)}, which a {model.config.model_type!r} model does not have: its "
            "config.json or the installed transformers is of another version."
        )


def _unmatched(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    patterns = list(patterns)
    return [name for name in names if not any(re.search(pattern, name) for pattern in patterns)]


def _declared(model: torch.nn.Module, name: str) -> Any:
    """What a model of transformers says of its own weights, under a name that is no promise to others."""
    return needed(model, name, "transformers", "loading in 4 bit needs")


def layer_of(name: str) -> int | None:
    """The block that a parameter's dotted name lies in: its first number; None outside of blocks."""
    return next((int(word) for word in name.split(".") if word.isdigit()), None)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names, key=dot_natural_key)
    return ", ".join(map(repr, listed[:3])) + (f" and {len(listed) - 3:,} more" if len(listed) > 3 else "")


def dtypes(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of every parameter and buffer: the model's own, float32 where transformers insists on it."""
    strict: Json = _declared(model, "_get_dtype_plan")(dtype)
    return {
        name: next((kept for pattern, kept in strict.items() if re.search(pattern, name)), value.dtype)
        for name, value in model.state_dict().items()
    }
