"""A training's settings: the YAML keys of mlx-lm's ``lora``, unchanged, and the ``routing_loss:`` block."""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.optimizers as optimizers
import yaml
from mlx_lm.lora import CONFIG_DEFAULTS, yaml_loader
from mlx_lm.tuner.callbacks import SUPPORT_CALLBACK
from mlx_lm.tuner.utils import build_schedule

from ..errors import TrainingError, did_you_mean
from ..files import read_text
from ..types import Facts, Json
from .settings import RoutingLoss, parse_routing_loss

_DATA_KEYS = ("hf_dataset", "prompt_feature", "completion_feature", "text_feature", "chat_feature")
_ADDED = {
    "routing_loss": None,
    "routing_data": None,
    "routing_samples": 200,
    "max_length": 256,
    "bits": None,
    "router_bits": None,
    "dtype": None,
    "sort_by_length": False,
}
"""Keys that mlx-lm does not know. routing_data: what routing is measured on before and after, at most routing_samples
documents of at most max_length tokens. bits, router_bits, dtype: of the frozen model, see `models.load_checkpoint`.
sort_by_length: batches of like length, in place of mlx-lm's."""

_LORA = ("rank", "scale", "dropout", "keys")
_SCHEDULE = ("name", "arguments", "warmup", "warmup_init")
_OPTIMIZERS = {
    "adam": optimizers.Adam,
    "adamw": optimizers.AdamW,
    "muon": optimizers.Muon,
    "sgd": optimizers.SGD,
    "adafactor": optimizers.Adafactor,
}
_REFUSED = (TypeError, ValueError, ArithmeticError, RuntimeError)
"""What MLX raises for arguments that it cannot take; the last from C++."""

_POSITIVE = ("iters", "batch_size", "steps_per_report", "steps_per_eval", "save_every", "grad_accumulation_steps")
_UNBOUNDED = ("val_batches", "test_batches", "num_layers")  # -1 means all
_LEAST = {"max_seq_length": 2, "max_length": 2, "seed": 0, "clear_cache_threshold": 0}
_FLAGS = ("test", "grad_checkpoint", "mask_prompt", "trust_remote_code", "sort_by_length")
_TEXTS = (
    "model", "data", "adapter_path", "resume_adapter_file", "routing_data", "dtype", "report_to", "project_name",
    "prompt_feature", "completion_feature", "text_feature", "chat_feature",
)  # fmt: skip
_SCHEDULES = ["cosine_decay", "exponential_decay", "linear_schedule", "step_decay"]


@dataclass(frozen=True)
class TrainingConfig:
    """Checked settings.

    values: every key of mlx-lm with its value, as ``adapter_config.json`` will hold them. routing_loss: the parsed
    block; weight 0 where there is none, so that routing is measured in any case.
    """

    values: Json
    routing_loss: RoutingLoss

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer asked for. Raises TrainingError for arguments that it does not have."""
        name = self["optimizer"]
        schedule = self["lr_schedule"]
        try:
            rate = build_schedule(schedule) if schedule else float(self["learning_rate"])
        except _REFUSED as error:
            raise TrainingError(f"MLX cannot make lr_schedule {schedule!r}: {error}.") from error
        arguments = self["optimizer_config"].get(name) or {}
        try:
            return _OPTIMIZERS[name](learning_rate=rate, **arguments)
        except _REFUSED as error:
            raise TrainingError(
                f"MLX cannot make optimizer {name!r} with optimizer_config.{name} = {arguments!r}: {error}."
            ) from error


def read_config(path: Path) -> Json:
    """The mapping in a YAML file. Raises TrainingError where it is missing or holds something else."""
    try:
        content = yaml.load(read_text(path), yaml_loader)
    except OSError as error:
        raise TrainingError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # not UTF-8, or a date that does not exist
        raise TrainingError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path} holds no settings; write lines such as `iters: 100`.")
    return content


def parse_value(text: str) -> Any:
    """A value as YAML has it: 1e-4 is a number, [a, b] a list. Raises TrainingError where it is none."""
    try:
        return yaml.load(text, yaml_loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrainingError(f"{text!r} is not a YAML value: {' '.join(str(error).split())}.") from error


def training_config(settings: Facts) -> TrainingConfig:
    """Check settings and fill in mlx-lm's defaults. Raises TrainingError that names the key that is wrong."""
    known = [key for key in (*CONFIG_DEFAULTS, *_DATA_KEYS, *_ADDED) if key != "config"]
    for key in settings:
        if key not in known:
            raise TrainingError(f"There is no setting {str(key)!r}.{did_you_mean(str(key), known)}")
    values = copy.deepcopy({**CONFIG_DEFAULTS, **_ADDED, "model": None, "data": None, "num_layers": None})
    values |= {key: copy.deepcopy(value) for key, value in settings.items() if value is not None}
    values["optimizer"] = str(values["optimizer"]).lower()
    for key, choices in (("fine_tune_type", ["lora", "dora", "full"]), ("optimizer", list(_OPTIMIZERS))):
        if values[key] not in choices:
            raise TrainingError(f"{key} is {values[key]!r}.{did_you_mean(str(values[key]), choices)}")
    _check_numbers(values)
    _check_texts_and_flags(values)
    _check_reporters(values["report_to"])
    _check_lora(values, settings)
    _check_schedule(values["lr_schedule"])
    _check_keys("optimizer_config", values["optimizer_config"], tuple(_OPTIMIZERS))
    if settings.get("train") is False:
        raise TrainingError("train is false, but training is what this command does; remove the key.")
    block = settings.get("routing_loss")
    loss = RoutingLoss(weight=0.0) if block is None else parse_routing_loss(block)
    values["routing_loss"] = None if block is None else loss.to_dict()
    values["train"] = True
    config = TrainingConfig(values, loss)
    config.optimizer()
    return config


def _check_numbers(values: Json) -> None:
    for key in (*_POSITIVE, "routing_samples", *_UNBOUNDED, *_LEAST):
        value = values[key]
        least = _LEAST.get(key, -1 if key in _UNBOUNDED else 1)
        if key == "num_layers" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise TrainingError(f"{key} is {value!r}; give a whole number of {least} or more.")
    if values["seed"] >= 2**64:
        raise TrainingError(f"seed is {values['seed']}; give a whole number below 2^64.")
    rate = values["learning_rate"]
    if not _is_number(rate) or rate <= 0:
        raise TrainingError(f"learning_rate is {rate!r}; give a number above 0, such as 1e-5.")
    _check_accumulation(values)


def _check_accumulation(values: Json) -> None:
    accumulate = values["grad_accumulation_steps"]
    if values["save_every"] % accumulate or values["iters"] % accumulate:
        raise TrainingError(
            f"save_every ({values['save_every']}) and iters ({values['iters']}) must be multiples of "
            f"grad_accumulation_steps ({accumulate}), or a checkpoint would lose gradients."
        )


def _check_texts_and_flags(values: Json) -> None:
    for key in _TEXTS:
        value = values.get(key)
        if value is not None and not _is_text(value):
            raise TrainingError(f"{key} is {value!r}; give a text, or leave it out.")
        if value and key in ("data", "adapter_path", "resume_adapter_file"):
            values[key] = os.path.expanduser(value)  # noqa: PTH111  # leaves a ~ that names no user as it is
    for key in _FLAGS:
        if not isinstance(values[key], bool):
            raise TrainingError(f"{key} is {values[key]!r}; give true or false, without quotes.")
    _check_hub_data(values.get("hf_dataset"))


def _check_hub_data(sets: object) -> None:
    for entry in sets if isinstance(sets, list) else [sets] if sets is not None else []:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
            raise TrainingError(f"hf_dataset is {entry!r}; give keys below it, and `path: OWNER/NAME` among them.")


def _check_reporters(report_to: str | None) -> None:
    for name in (report_to or "").split(","):
        if not (name := name.strip().lower()):
            continue
        if name not in SUPPORT_CALLBACK:
            raise TrainingError(f"report_to names {name!r}.{did_you_mean(name, list(SUPPORT_CALLBACK))}")
        if importlib.util.find_spec(name) is None:
            raise TrainingError(f"report_to names {name}, which is not installed: pip install {name}.")


def _check_schedule(schedule: Facts | None) -> None:
    if schedule is None:
        return
    _check_keys("lr_schedule", schedule, _SCHEDULE)
    name, arguments = schedule.get("name"), schedule.get("arguments")
    if name not in _SCHEDULES:
        raise TrainingError(f"lr_schedule.name is {name!r}.{did_you_mean(str(name), _SCHEDULES)}")
    if not isinstance(arguments, list) or not arguments or not all(map(_is_number, arguments)):
        raise TrainingError(
            f"lr_schedule.arguments is {arguments!r}; give a list of numbers, of which the first is the learning rate."
        )
    for key in ("warmup", "warmup_init"):
        value = schedule.get(key, 0)
        if not _is_number(value) or value < 0 or (key == "warmup" and value != int(value)):
            what = "a whole number of updates" if key == "warmup" else "a learning rate"
            raise TrainingError(f"lr_schedule.{key} is {value!r}; give {what}, 0 or more.")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_lora(values: Json, settings: Facts) -> None:
    parameters = settings.get("lora_parameters") or {}
    _check_keys("lora_parameters", parameters, _LORA)
    values["lora_parameters"] = {**CONFIG_DEFAULTS["lora_parameters"], **parameters}
    for key in ("rank", "scale", "dropout"):
        value = values["lora_parameters"][key]
        if not _is_number(value) or value < 0:
            raise TrainingError(f"lora_parameters.{key} is {value!r}; give a number of 0 or more.")
    rank = values["lora_parameters"]["rank"]
    if not isinstance(rank, int) or rank < 1 or values["lora_parameters"]["dropout"] >= 1:
        raise TrainingError("lora_parameters needs a rank of 1 or more and a dropout below 1.")
    keys = values["lora_parameters"].get("keys")
    if keys is not None and (not isinstance(keys, list) or not all(isinstance(key, str) for key in keys)):
        raise TrainingError(f"lora_parameters.keys is {keys!r}; give a list of names such as [mlp.gate].")


def _check_keys(where: str, block: object, known: tuple[str, ...]) -> None:
    if not isinstance(block, Mapping):
        raise TrainingError(f"{where} is {block!r}; give keys below it: {', '.join(known)}.")
    for key in block:
        if key == "alpha" and where == "lora_parameters":
            raise TrainingError(
                "lora_parameters has no alpha: mlx-lm multiplies with `scale` itself, not alpha / rank."
            )
        if key not in known:
            raise TrainingError(f"{where} has no key {str(key)!r}.{did_you_mean(str(key), list(known))}")
