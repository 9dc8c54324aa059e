"""What a checkpoint's folder holds beside its weights, and what tells it from others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ModelLoadError
from ..files import check_regular
from ..types import Json
from .weights import Weights, read_json

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "*.tiktoken", "vocab.json", "vocab.txt")


def read_config(folder: Path) -> Json:
    """``config.json`` of ``folder``. Raises ModelLoadError where it is missing, no JSON, or names no model_type."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelLoadError(f"{folder} has no config.json; give the folder that holds it and the weights.")
    return config_at(path)


def config_at(path: Path) -> Json:
    """The config of a model, whatever its file is called; raises as `read_config` does."""
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelLoadError(f"{path} names no model_type; it is not the config of a language model.")
    return config


def check_tokenizer(folder: Path) -> None:
    """Raises ModelLoadError where ``folder`` has no tokenizer, or its settings, or those of generation, hold none."""
    for path in (folder / "tokenizer_config.json", folder / "generation_config.json"):
        if path.exists() and not isinstance(read_json(path), dict):
            raise ModelLoadError(f"{path} holds no settings; fetch it again.")
    found = [file for pattern in _TOKENIZERS for file in folder.glob(pattern)]
    for file in found:
        check_regular(file)  # the library that reads it would wait for a pipe
    if not found:
        raise ModelLoadError(
            f"{folder} has no tokenizer (none of {', '.join(_TOKENIZERS)}); copy it from the original model."
        )


def fingerprint(weights: Weights, routers: Iterable[tuple[str, npt.NDArray[np.float32]]]) -> str:
    """sha256 over names and sizes of the weight files and over the routers' values, each with its parameter's name.

    It tells two checkpoints of one name apart without reading gigabytes, and is the same on every backend.
    """
    digest = hashlib.sha256()
    for file in weights.files:
        digest.update(file.name.encode() + str(file.stat().st_size).encode())
    for name, values in routers:
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()
