"""Models as mlx-lm and mlx-vlm build them: their settings, and the family that serves them."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import mlx.nn as nn

from ..errors import UnsupportedModelError
from ..families import Family, built_as, family_for
from ..families.settings import SECTION
from ..families.vlm import family_in_vlm
from ..types import Json
from .tap import untapped

VLM = "mlx_vlm"


def family_of(model: nn.Module) -> Family:
    """The family that serves ``model``; raises UnsupportedModelError where none does."""
    config = config_of(model)
    if not is_of_mlx_vlm(model):
        return family_for(config)
    # That of the blocks, for several models have those of another one.
    return family_in_vlm(_folder(untapped(model.layers[-1])), config)


def is_of_mlx_vlm(model: nn.Module) -> bool:
    """Whether mlx-vlm built it, which has copies of its own of every model."""
    return bool(_folder(type(model)))


def config_of(model: nn.Module) -> Json:
    """The settings of a model of mlx-lm, or of the language model in one of mlx-vlm, and its ``model_type``."""
    if is_of_mlx_vlm(model) and hasattr(model, "layers"):
        return _config_in_vlm(model)
    args = getattr(model, "args", None)
    if args is None or not hasattr(model, "layers"):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a language model as mlx-lm builds them (it has no 'args' or no 'layers'); "
            "load it with mlx_moebench.load or mlx_lm.load."
        )
    config = {**vars(args), "model_type": getattr(model, "model_type", getattr(args, "model_type", None))}
    inner = getattr(getattr(model, "language_model", None), "args", None)
    if config.get(SECTION) is not None:  # as it was given, and with the defaults of the model that it made
        given = config[SECTION]
        config[SECTION] = {**(given if isinstance(given, dict) else vars(given)), **(vars(inner) if inner else {})}
    config["model_type"] = built_as(config["model_type"], type(model).__module__.rpartition(".")[2])
    return config


def language_model_of(model: nn.Module) -> nn.Module:
    """The part of a model of mlx-vlm that has the blocks; of one for text alone the same, too."""
    inner = getattr(getattr(model, "thinker", model), "language_model", None)
    return model if inner is None else inner


def _config_in_vlm(model: nn.Module) -> Json:
    """Flat: what the language model was built with counts, before what the whole says under the same name."""
    inner = language_model_of(model)
    whole = getattr(model, "config", None)
    parts = (whole, getattr(whole, SECTION, None), getattr(inner, "args", None) or getattr(inner, "config", None))
    settings = [_plain(part) for part in parts]
    types = [part["model_type"] for part in settings if part.get("model_type")]
    return {**settings[0], **settings[1], **settings[2], "model_type": types[0] if types else None}


def _plain(part: Any) -> Json:
    """The values of a config, without the configs in it."""
    values = part if isinstance(part, dict) else vars(part) if is_dataclass(part) else {}
    return {key: value for key, value in values.items() if not is_dataclass(value) and key != SECTION}


def _folder(kind: type) -> str:
    """The folder of mlx-vlm that defines a class; "" for one of another library."""
    library, _, rest = kind.__module__.partition(".models.")
    return rest.partition(".")[0] if library == VLM else ""
