"""Adapters that mlx-lm trained: which folder is one, whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelLoadError
from ..types import Json
from .folder import check_complete, read_json

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
    if not check_complete(weights):
        raise ModelLoadError(f"{weights} holds no tensors; give the folder that mlx_lm.lora wrote.")
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Adapter(folder, digest, kind, scale)


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
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ModelLoadError(
                f"{file} has {key} = {value!r}, where mlx-lm needs a number; give the folder that mlx_lm.lora wrote."
            )
    return kind, float(settings["scale"])
