"""Adapters that mlx-lm trained: which folder is one, whole."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelLoadError
from ..types import Json
from .weights import read_json, tensors_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapters.safetensors"
_FINE_TUNE_TYPES = ("lora", "dora", "full")
_PARAMETERS = ("rank", "scale", "dropout")


@dataclass(frozen=True)
class Adapter:
    """A complete adapter on disk.

    sha256: of its weights. fine_tune_type: ``lora``, ``dora`` or ``full``. scale: what its low-rank update is
    multiplied with, which its weights do not say; None for ``full``.
    """

    path: Path
    sha256: str
    fine_tune_type: str
    scale: float | None

    @property
    def facts(self) -> Json:
        """What a report says of it; two adapters with equal facts change a model alike."""
        return {
            "name": self.path.name,
            "sha256": self.sha256,
            "fine_tune_type": self.fine_tune_type,
            "scale": self.scale,
        }


def read_adapter(path: str | Path) -> Adapter:
    """The adapter in folder ``path``, proven complete without reading a model.

    Raises ModelLoadError where it is no folder, lacks a file, or a file is broken.
    """
    folder = _existing(path)
    if not (folder / CONFIG).is_file():
        raise ModelLoadError(f"{folder} has no {CONFIG}; give the folder that mlx_lm.lora wrote with --adapter-path.")
    config = read_json(folder / CONFIG)
    kind, scale = _checked(folder, config)
    weights = folder / WEIGHTS
    if not weights.is_file():
        peft = " (adapter_model.safetensors is PEFT's form, which mlx-lm does not read)"
        hint = peft if (folder / "adapter_model.safetensors").is_file() else ""
        raise ModelLoadError(f"{folder} has no {WEIGHTS}{hint}; give the folder that mlx_lm.lora wrote.")
    if not (tensors := tensors_of(weights)):
        raise ModelLoadError(f"{weights} holds no tensors; give the folder that mlx_lm.lora wrote.")
    _check_tensors(weights, tensors, None if kind == "full" else config.get("lora_parameters", {}).get("rank"))
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Adapter(folder, digest, kind, scale)


def _check_tensors(weights: Path, tensors: Json, rank: int | None) -> None:
    """Raises ModelLoadError for tensors that no training writes: of packed numbers, or of another rank."""
    for name, entry in tensors.items():
        if entry["dtype"] not in ("F64", "F32", "F16", "BF16"):
            raise ModelLoadError(
                f"{weights} has {name!r} as {entry['dtype']}, and adapters are plain numbers; fetch it again."
            )
        inner = {"lora_a": -1, "lora_b": 0}.get(name.rpartition(".")[2])
        if rank is not None and inner is not None and len(entry["shape"]) == 2 and entry["shape"][inner] != rank:
            raise ModelLoadError(
                f"{weights} has {name!r} of the shape {entry['shape']}, and {CONFIG} says rank = {rank}: they do not "
                "fit; fetch both from one place."
            )


def _existing(path: str | Path) -> Path:
    try:
        folder = Path(path).expanduser()
    except RuntimeError as error:  # the home of a user that does not exist
        raise ModelLoadError(f"There is no adapter folder {path}.") from error
    if not str(path) or not folder.exists():
        raise ModelLoadError(f"There is no adapter folder {str(path)!r}.")
    if not folder.is_dir():
        raise ModelLoadError(f"{folder} is a file; give the adapter's folder, with {CONFIG} and {WEIGHTS}.")
    return folder.resolve()


def _checked(folder: Path, config: object) -> tuple[str, float | None]:
    """(fine_tune_type, scale) of a config from which mlx-lm can build the adapter's layers."""
    file = folder / CONFIG
    if not isinstance(config, dict):
        raise ModelLoadError(f"{file} holds no settings; give the folder that mlx_lm.lora wrote.")
    kind = config.get("fine_tune_type", "lora")
    if kind not in _FINE_TUNE_TYPES:
        raise ModelLoadError(f"{file} has fine_tune_type = {kind!r}; mlx-lm knows {', '.join(_FINE_TUNE_TYPES)}.")
    if kind == "full":
        return kind, None
    parameters = config.get("lora_parameters")
    settings = {"num_layers": config.get("num_layers"), **(parameters if isinstance(parameters, dict) else {})}
    for key in ("num_layers", *_PARAMETERS):
        value = settings.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
            raise ModelLoadError(
                f"{file} has {key} = {value!r}, where mlx-lm needs a number; give the folder that mlx_lm.lora wrote."
            )
    return kind, float(settings["scale"])
