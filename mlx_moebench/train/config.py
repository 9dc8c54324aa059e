"""A training's settings: the YAML keys of mlx-lm's ``lora``, unchanged, and the ``routing_loss:`` block."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.optimizers as optimizers
import yaml
from mlx_lm.lora import CONFIG_DEFAULTS, yaml_loader
from mlx_lm.tuner.utils import build_schedule

from ..errors import TrainingError, did_you_mean
from .settings import RoutingLoss, parse_routing_loss

_DATA_KEYS = ("hf_dataset", "prompt_feature", "completion_feature", "text_feature", "chat_feature")
_OWN = {
    "routing_loss": None,
    "routing_data": None,
    "routing_samples": 200,
    "max_length": 256,
    "bits": None,
    "router_bits": None,
    "dtype": None,
}
"""Keys that mlx-lm does not know. routing_data: what routing is measured on before and after, at most routing_samples
documents of at most max_length tokens. bits, router_bits, dtype: of the frozen model, see `models.load_checkpoint`."""

_LORA = ("rank", "scale", "dropout", "keys")
_SCHEDULE = ("name", "arguments", "warmup", "warmup_init")
_OPTIMIZERS = {
    "adam": optimizers.Adam,
    "adamw": optimizers.AdamW,
    "muon": optimizers.Muon,
    "sgd": optimizers.SGD,
    "adafactor": optimizers.Adafactor,
}
_POSITIVE = ("iters", "batch_size", "steps_per_report", "steps_per_eval", "save_every", "grad_accumulation_steps")
_UNBOUNDED = ("val_batches", "test_batches", "num_layers")  # -1 means all


@dataclass(frozen=True)
class TrainingConfig:
    """Checked settings.

    values: every key of mlx-lm with its value, as ``adapter_config.json`` will hold them. routing_loss: the parsed
    block; weight 0 where there is none, so that routing is measured in any case.
    """

    values: dict[str, Any]
    routing_loss: RoutingLoss

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def optimizer(self) -> Any:
        """The optimizer asked for. Raises TrainingError for arguments that it does not have."""
        name = self["optimizer"]
        schedule = self["lr_schedule"]
        try:
            rate = build_schedule(schedule) if schedule else self["learning_rate"]
            return _OPTIMIZERS[name](learning_rate=rate, **self["optimizer_config"].get(name, {}))
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            raise TrainingError(
                f"mlx-lm cannot build optimizer {name!r} with lr_schedule {schedule!r}: {error}."
            ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises TrainingError where it is missing or holds something else."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), yaml_loader)
    except OSError as error:
        raise TrainingError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path} holds no settings; write lines such as `iters: 100`.")
    return content


def parse_value(text: str) -> Any:
    """A value as YAML has it: 1e-4 is a number, [a, b] a list. Raises TrainingError where it is none."""
    try:
        return yaml.load(text, yaml_loader)
    except yaml.YAMLError as error:
        raise TrainingError(f"{text!r} is not a YAML value: {' '.join(str(error).split())}.") from error


def training_config(given: Mapping[str, Any]) -> TrainingConfig:
    """Check settings and fill in mlx-lm's defaults. Raises TrainingError that names the key that is wrong."""
    known = [key for key in (*CONFIG_DEFAULTS, *_DATA_KEYS, *_OWN) if key != "config"]
    for key in given:
        if key not in known:
            raise TrainingError(f"There is no setting {str(key)!r}.{did_you_mean(str(key), known)}")
    values = copy.deepcopy({**CONFIG_DEFAULTS, **_OWN, "model": None, "data": None, "num_layers": None})
    values |= {key: copy.deepcopy(value) for key, value in given.items() if value is not None}
    values["optimizer"] = str(values["optimizer"]).lower()
    for key, choices in (("fine_tune_type", ["lora", "dora", "full"]), ("optimizer", list(_OPTIMIZERS))):
        if values[key] not in choices:
            raise TrainingError(f"{key} is {values[key]!r}.{did_you_mean(str(values[key]), choices)}")
    _check_numbers(values)
    _check_lora(values, given)
    _check_keys("lr_schedule", values["lr_schedule"] or {}, _SCHEDULE)
    _check_keys("optimizer_config", values["optimizer_config"], tuple(_OPTIMIZERS))
    block = given.get("routing_loss")
    loss = RoutingLoss(weight=0.0) if block is None else parse_routing_loss(block)
    values["routing_loss"] = None if block is None else loss.to_dict()
    values["train"] = True
    config = TrainingConfig(values, loss)
    config.optimizer()
    return config


def _check_numbers(values: dict[str, Any]) -> None:
    for key in (*_POSITIVE, "routing_samples", "max_length", *_UNBOUNDED, "seed", "max_seq_length"):
        value = values[key]
        least = {"max_seq_length": 2, "max_length": 2, "seed": 0}.get(key, -1 if key in _UNBOUNDED else 1)
        if key == "num_layers" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise TrainingError(f"{key} is {value!r}; give a whole number of {least} or more.")
    rate = values["learning_rate"]
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0:
        raise TrainingError(f"learning_rate is {rate!r}; give a number above 0, such as 1e-5.")
    accumulate = values["grad_accumulation_steps"]
    if values["save_every"] % accumulate or values["iters"] % accumulate:
        raise TrainingError(
            f"save_every ({values['save_every']}) and iters ({values['iters']}) must be multiples of "
            f"grad_accumulation_steps ({accumulate}), or a checkpoint would lose gradients."
        )


def _check_lora(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    parameters = given.get("lora_parameters") or {}
    _check_keys("lora_parameters", parameters, _LORA)
    values["lora_parameters"] = {**CONFIG_DEFAULTS["lora_parameters"], **parameters}
    for key in ("rank", "scale", "dropout"):
        value = values["lora_parameters"][key]
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise TrainingError(f"lora_parameters.{key} is {value!r}; give a number of 0 or more.")
    rank = values["lora_parameters"]["rank"]
    if not isinstance(rank, int) or rank < 1 or values["lora_parameters"]["dropout"] >= 1:
        raise TrainingError("lora_parameters needs a rank of 1 or more and a dropout below 1.")
    keys = values["lora_parameters"].get("keys")
    if keys is not None and (not isinstance(keys, list) or not all(isinstance(key, str) for key in keys)):
        raise TrainingError(f"lora_parameters.keys is {keys!r}; give a list of names such as [mlp.gate].")


def _check_keys(where: str, block: Any, known: tuple[str, ...]) -> None:
    if not isinstance(block, Mapping):
        raise TrainingError(f"{where} is {block!r}; give keys below it: {', '.join(known)}.")
    for key in block:
        if key == "alpha" and where == "lora_parameters":
            raise TrainingError(
                "lora_parameters has no alpha: mlx-lm multiplies with `scale` itself, not alpha / rank."
            )
        if key not in known:
            raise TrainingError(f"{where} has no key {str(key)!r}.{did_you_mean(str(key), list(known))}")
