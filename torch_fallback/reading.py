"""What transformers makes of a config.json: which class it builds, and what it reads the settings as."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mlx_moebench.checkpoints.foreign import FOREIGN
from mlx_moebench.errors import UnsupportedModelError
from mlx_moebench.families import Family, family_for
from mlx_moebench.types import Json

_CLASSES = (
    (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.AutoModelForCausalLM),
    (transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, transformers.AutoModelForImageTextToText),
)
"""Which configs have a language model alone, and which only one inside a multimodal model."""


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers that builds the language model of ``config``, alone or inside a multimodal one."""
    return next((builds for mapping, builds in _CLASSES if type(config) in mapping), transformers.AutoModelForCausalLM)


def check(family: Family, config: Json) -> None:
    """Refuse what transformers does not know, builds another model from, or has no routers in that can be measured.

    Raises UnsupportedModelError, and ModelLoadError as `Family.specs` does.
    """
    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        if "auto_map" not in config and not family.unavailable:
            instead = "update it" if family.only_torch else "measure it with the backend mlx"
            raise UnsupportedModelError(
                f"transformers {transformers.__version__} has no model_type {model_type!r}: {instead}, or give a "
                "checkpoint that brings its own code, with --trust-remote-code."
            )
        family.specs(config, torch=True)
        return
    settings = as_read(config)
    if family_for(settings) is not family:
        others = [repr(name) for name in family.model_types if name in CONFIG_MAPPING and name != model_type]
        instead = f"call it {' or '.join(others)} in config.json, or " if others else ""
        raise UnsupportedModelError(
            f"From model_type {model_type!r} transformers builds {settings['architectures'][0]}, and this checkpoint "
            f"is another model of that name; {instead}measure it with the backend mlx."
        )
    family.specs(settings, torch=True)


def as_read(config: Json) -> Json:
    """``config`` with transformers' own names and defaults, and the class that it builds as its architecture.

    As it is where transformers cannot read it: loading says why.
    """
    kind = CONFIG_MAPPING[config["model_type"]]
    try:
        settings: Json = kind.from_dict(config).to_dict()
    except FOREIGN:
        return config
    built = [mapping[kind].__name__ for mapping, _ in _CLASSES if kind in mapping]
    return {**settings, "model_type": config["model_type"], "architectures": built[:1]}
