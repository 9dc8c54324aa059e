"""Is this folder a complete checkpoint? Everything here reads headers only, never a weight."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelLoadError
from ..files import HEADER_BROKEN, MAX_HEADER, read_header
from ..types import Json
from .hub import WEIGHTS

INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "*.tiktoken", "vocab.json", "vocab.txt")


def read_config(folder: Path) -> Json:
    """``config.json`` of ``folder``. Raises ModelLoadError where it is missing, no JSON, or names no model_type."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelLoadError(f"{folder} has no config.json; give the folder that holds it and the weights.")
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelLoadError(f"{path} names no model_type; it is not the config of a language model.")
    return config


def check_weights(folder: Path) -> list[Path]:
    """The weight files of ``folder``, each proven complete by its header.

    Raises ModelLoadError where there is none, a shard of the index is missing, or a file is not as long as its
    header says.
    """
    files = sorted(folder.glob(WEIGHTS))
    index = folder / INDEX
    if index.is_file():
        content = read_json(index)
        named = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(named, dict):
            raise ModelLoadError(f"{index} has no weight_map; fetch the checkpoint again.")
        missing = sorted(set(map(str, named.values())) - {file.name for file in files})
        if missing:
            raise ModelLoadError(
                f"{folder} lacks {len(missing)} of {len(set(named.values()))} weight files named in {INDEX} "
                f"({_some(missing)}); fetch the checkpoint again."
            )
    if not files:
        pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
        holdings = f"only pickled weights ({_some(pickled)})" if pickled else f"no {WEIGHTS}"
        raise ModelLoadError(
            f"{folder} holds {holdings}, and only safetensors are read; convert it with transformers: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)."
        )
    for file in files:
        check_complete(file)
    return files


def check_tokenizer(folder: Path) -> None:
    """Raises ModelLoadError where ``folder`` has no tokenizer."""
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
        raise ModelLoadError(
            f"{folder} has no tokenizer (none of {', '.join(_TOKENIZERS)}); copy it from the original model."
        )


def check_complete(file: Path) -> int:
    """The number of tensors in ``file``, a safetensors file as long as its header says; ModelLoadError otherwise."""
    return len(tensors_of(file))


def tensors_of(file: Path) -> dict[str, Json]:
    """{name: {dtype, shape, data_offsets}} of a safetensors file, proven complete; ModelLoadError otherwise."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if size < 8 or not 2 <= length <= MAX_HEADER:
        raise ModelLoadError(
            f"{file} is not a safetensors file ({size} bytes); if it is a Git LFS pointer, run `git lfs pull`."
        )
    expected, tensors = 8 + length, {}
    if size >= expected:
        try:
            tensors = read_header(file).tensors
            expected += max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        except HEADER_BROKEN as error:
            raise ModelLoadError(f"{file} has a broken safetensors header; fetch it again.") from error
    if size != expected:
        raise ModelLoadError(
            f"{file} is {'truncated' if size < expected else 'longer than its header says'}: {size} bytes instead of "
            f"{expected}; fetch it again."
        )
    return tensors


def stored_bits(folder: Path) -> float | int:
    """Bits per stored weight of the experts (of all matrices where no name says expert), the mean over them."""
    every = {name: entry for file in sorted(folder.glob(WEIGHTS)) for name, entry in tensors_of(file).items()}
    matrices = {name: entry for name, entry in every.items() if len(entry["shape"]) > 1}
    experts = [entry for name, entry in matrices.items() if "expert" in name] or list(matrices.values())
    bits = sum(8 * (entry["data_offsets"][1] - entry["data_offsets"][0]) for entry in experts)
    mean = bits / max(1, sum(math.prod(entry["shape"]) for entry in experts))
    return int(mean) if mean == int(mean) else round(mean, 3)


def read_json(path: Path) -> Any:
    """What the file holds; raises ModelLoadError where that is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise ModelLoadError(f"{path} is not valid JSON ({error}); fetch it again.") from error


def shortened(error: BaseException, limit: int = 240) -> str:
    """The message on one line, and no longer than a person reads."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " ..."


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def fingerprint(folder: Path, routers: Iterable[tuple[str, npt.NDArray[np.float32]]]) -> str:
    """sha256 over names and sizes of the weight files and over the routers' values, each with its parameter's name.

    It tells two checkpoints of one name apart without reading gigabytes, and is the same on every backend.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.glob(WEIGHTS)):
        digest.update(file.name.encode() + str(file.stat().st_size).encode())
    for name, values in routers:
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()
