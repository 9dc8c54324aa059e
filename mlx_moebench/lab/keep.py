"""What a pretraining leaves: a checkpoint to resume from, and folders that ``load`` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerFast

from ..checkpoints import check_complete, shortened
from ..errors import ModelLoadError, TrainingError
from ..files import HEADER_BROKEN, check_regular, write_aside
from ..train.checkpoint import FILE, load_arrays, random_key, save_arrays
from ..types import Json
from .decoder import Model, ModelArgs

_FORMAT = "mlx_moebench.training"
SNAPSHOTS = "steps"
"""The folder of the copies that are kept, each in a folder of its own, ``step-0000100``."""


def save_checkpoint(
    folder: Path, model: Model, optimizer: optim.Optimizer, facts: Json, window: Mapping[str, mx.array]
) -> None:
    """What is trained, selection biases, optimizer and random state in one file; ``facts`` has the ``iteration``.

    window: what a balance loss remembers of earlier updates.
    """
    trained = dict(tree_flatten(model.trainable_parameters()))
    arrays = {
        f"model.{name}": value
        for name, value in tree_flatten(model.parameters())
        if name in trained or name.endswith("selection_bias")
    }
    arrays |= {f"optimizer.{name}": value for name, value in tree_flatten(optimizer.state)}
    arrays |= {f"window.{name}": value for name, value in window.items()}
    save_arrays(folder / FILE, arrays | {"random.key": random_key()}, facts)


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
        if not facts.keys() >= {"lab", "data_sha256", "iteration"}:
            raise KeyError(_FORMAT)
    except (OSError, ModelLoadError, SafetensorError, RecursionError, *HEADER_BROKEN) as error:
        raise TrainingError(
            f"{path} is damaged or no checkpoint of lab train; start anew in another folder (--output)."
        ) from error
    return facts


def restore_checkpoint(folder: Path, model: Model, optimizer: optim.Optimizer) -> dict[str, mx.array]:
    """Put model, optimizer and random state back to where the checkpoint was made; returns its window."""
    parts: dict[str, list[tuple[str, mx.array]]] = {"model": [], "optimizer": [], "random": [], "window": []}
    for name, value in load_arrays(folder / FILE).items():
        part, _, rest = name.partition(".")
        parts[part].append((rest, value))
    model.load_weights(parts["model"], strict=False)  # what was frozen is in the model itself
    optimizer.state = tree_unflatten(parts["optimizer"])
    high, low = (int(word) for word in np.array(dict(parts["random"])["key"]))
    mx.random.seed(high << 32 | low)  # the seed is the key: MLX's state cannot be assigned
    return dict(parts["window"])


def save_model(folder: Path, model: Model, tokenizer: PreTrainedTokenizerFast) -> None:
    """A folder that ``mlx_moebench.load`` takes: config.json, the tokenizer, model.safetensors, the last one last."""
    folder.mkdir(parents=True, exist_ok=True)
    args = {key: value for key, value in asdict(model.args).items() if value is not None}
    config = {"architectures": ["LabForCausalLM"], **args, "eos_token_id": tokenizer.eos_token_id}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token or tokenizer.eos_token,
    }
    optional = {
        "model_max_length": model.args.max_position_embeddings,
        "bos_token": tokenizer.bos_token,
        "unk_token": tokenizer.unk_token,
        "chat_template": tokenizer.chat_template,
    }
    settings |= {key: value for key, value in optional.items() if value is not None}
    write_aside({
        folder / "config.json": _json(config),
        folder / "tokenizer.json": tokenizer.backend_tokenizer.to_str().encode(),
        folder / "tokenizer_config.json": _json(settings),
    })  # fmt: skip
    save_arrays(folder / "model.safetensors", dict(tree_flatten(model.parameters())))


def read_model(folder: Path) -> Model:
    """The model of such a folder, not tried out: one that asks for the domain of a text cannot be by itself.

    Raises TrainingError where it is damaged.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        model = Model(ModelArgs.from_dict(config))
        model.load_weights(str(folder / "model.safetensors"))
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{folder} is damaged ({shortened(error)}); remove the run, and the same command makes it again."
        ) from error
    model.eval()
    mx.eval(model.parameters())
    return model


def snapshot_folder(folder: Path, step: int) -> Path:
    """Where the copy of a step is kept."""
    return folder / SNAPSHOTS / f"step-{step:07d}"


def _json(values: Json) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()
