"""What a training must keep to go on as if nothing had happened: mlx-lm's trainer saves the adapter alone.

Beside the adapter that is the optimizer's state, the random state (dropout), the sums of a window, and how many
batches are done, from which the order of the data follows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from safetensors import SafetensorError, safe_open

from ..checkpoints import check_complete, shortened
from ..checkpoints.adapters import CONFIG, WEIGHTS
from ..errors import ModelLoadError, TrainingError
from ..files import HEADER_BROKEN, check_regular, write_aside, written_aside
from ..types import Json
from .objective import STATE

FILE = "checkpoint.safetensors"
_FORMAT = "mlx_moebench.training"
_FACTS = {"settings", "fingerprint", "data_sha256", "iteration"}
"""What is said of a checkpoint beside its arrays, so that another training is not mistaken for it."""


def save_arrays(path: Path, arrays: dict[str, mx.array], facts: Json | None = None) -> None:
    """Write a safetensors file aside, prove it complete and rename it. Raises TrainingError where the disk refuses."""
    try:
        with written_aside(path, ".safetensors") as aside:
            mx.save_safetensors(str(aside), arrays, {_FORMAT: json.dumps(facts)} if facts else None)
            check_complete(aside)
    except (OSError, RuntimeError, ModelLoadError) as error:
        reason = "the disk is full" if isinstance(error, ModelLoadError) else shortened(error)
        raise TrainingError(f"Cannot write {path}: {reason}; the files saved before it are still there.") from error


def load_arrays(path: Path) -> dict[str, mx.array]:
    """The arrays of a safetensors file. Raises TrainingError where it is missing or broken."""
    try:
        check_regular(path)
        check_complete(path)
        arrays: Any = mx.load(str(path))
    except (OSError, ModelLoadError, RuntimeError) as error:
        raise TrainingError(f"Cannot read {path}: {shortened(error)}.") from error
    return dict(arrays)


def random_key() -> mx.array:
    """The key [2] that MLX's next random numbers follow from."""
    state: Any = mx.random.state
    return state[0]  # type: ignore[no-any-return]


def all_finite(model: nn.Module) -> bool:
    """Whether no trained weight is NaN or infinite."""
    weights = (value for _, value in tree_flatten(model.trainable_parameters()))
    return bool(mx.stack([mx.isfinite(w).all() for w in weights]).all().item())


def save_adapter(folder: Path, model: nn.Module, iteration: int) -> None:
    """``adapters.safetensors`` and, as mlx-lm names them, ``0000100_adapters.safetensors``."""
    weights = dict(tree_flatten(model.trainable_parameters()))
    save_arrays(folder / f"{iteration:07d}_{WEIGHTS}", weights)
    save_arrays(folder / WEIGHTS, weights)


def save_checkpoint(folder: Path, model: nn.Module, optimizer: optimizers.Optimizer, facts: Json) -> None:
    """Everything that `restore_checkpoint` needs. facts: JSON, with ``iteration``."""
    arrays = {f"model.{name}": value for name, value in tree_flatten(model.trainable_parameters())}
    arrays |= {f"optimizer.{name}": value for name, value in tree_flatten(optimizer.state)}
    arrays["random.key"] = random_key()
    arrays |= {f"history.{name}": value for name, value in tree_flatten(model[STATE]["history"])}
    save_arrays(folder / FILE, arrays, facts)


def read_facts(folder: Path) -> Json | None:
    """The facts of the checkpoint in ``folder``, None without one; TrainingError where it is broken."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        check_regular(path)
        check_complete(path)
        with safe_open(path, "np") as file:
            facts: Json = json.loads((file.metadata() or {})[_FORMAT])
        if not facts.keys() >= _FACTS or not isinstance(facts["data_sha256"], dict):
            raise KeyError(_FORMAT)
    except (OSError, ModelLoadError, SafetensorError, RecursionError, *HEADER_BROKEN) as error:
        raise TrainingError(
            f"{path} is damaged or no checkpoint of a training; the adapters beside it are as they were: start from "
            "one of them with --resume-adapter-file and another --adapter-path."
        ) from error
    return facts


def restore_checkpoint(folder: Path, model: nn.Module, optimizer: optimizers.Optimizer) -> None:
    """Put model, optimizer, random state and window back to where the checkpoint was made."""
    arrays = load_arrays(folder / FILE)
    parts: dict[str, list[tuple[str, mx.array]]] = {"model": [], "optimizer": [], "random": [], "history": []}
    for name, value in arrays.items():
        part, _, rest = name.partition(".")
        parts[part].append((rest, value))
    expected = {name: value.shape for name, value in tree_flatten(model.trainable_parameters())}
    if {name: value.shape for name, value in parts["model"]} != expected:
        raise TrainingError(f"{folder / FILE} is the checkpoint of another model; choose another --adapter-path.")
    model.load_weights(parts["model"], strict=False)
    optimizer.state = tree_unflatten(parts["optimizer"])
    high, low = (int(word) for word in np.array(dict(parts["random"])["key"]))
    mx.random.seed(high << 32 | low)  # the seed is the key: MLX's state cannot be assigned
    if parts["history"]:
        model[STATE]["history"] = tree_unflatten(parts["history"])


def write_adapter_config(folder: Path, values: Json) -> None:
    """``adapter_config.json``, from which stock mlx-lm rebuilds the adapter's layers."""
    text = json.dumps(dict(sorted(values.items())), indent=4, allow_nan=False) + "\n"
    write_aside({folder / CONFIG: text.encode()})
