"""Load a checkpoint into MLX, with every check that needs no weights made before weights are read."""

from __future__ import annotations

import glob
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_model, load_tokenizer

from ..errors import ModelLoadError, did_you_mean
from ..families import Family, families, family_for
from ..families.base import module_at
from .checkpoint import check_tokenizer, check_weights, read_config
from .hub import WEIGHTS, commit_of, fetch, local_folder

NANO = Path(__file__).parent / "nano"
"""The small trained model that ships in the package."""

_NANO_NAME = "moebench-nano"
PORTS = {name: import_module(f".{name}", __package__) for name, family in families().items() if family.port}
"""Model types that mlx-lm lacks, and the file here that builds each; all others are mlx-lm's."""

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and where it came from.

    name: the hub id, the folder's name, or ``moebench-nano``. revision: the commit, where the folder is a snapshot
    of the hub cache, else the revision asked for. dtype: what the model computes in. weight_bits: bits per weight
    of the experts as stored (16 for bfloat16, 4 for 4-bit; the mean where they differ), before any cast.
    fingerprint: sha256 over the names, shapes and sizes of all weights and the values of the routers, which tells two
    checkpoints of one name apart without reading gigabytes.
    """

    model: nn.Module
    tokenizer: TokenizerWrapper
    config: dict[str, Any]
    name: str
    path: Path
    revision: str | None
    dtype: str
    weight_bits: float | int
    fingerprint: str


def load(
    model: str | Path | None = None,
    *,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[nn.Module, TokenizerWrapper]:
    """``load_checkpoint`` for those who want the model and the tokenizer only."""
    checkpoint = load_checkpoint(model, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    return checkpoint.model, checkpoint.tokenizer


def load_checkpoint(
    model: str | Path | None = None,
    *,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load a sparse model: a folder, a hub id, or with None the small model that ships in the package.

    dtype: ``float32``, ``bfloat16`` or ``float16`` for the floating parameters; packed quantised weights stay as
        they are. None means float32 on the CPU, where MLX runs unquantised experts in float32 only, and as stored
        elsewhere.
    revision: branch, tag or commit of a hub model.
    trust_remote_code: run Python files that the checkpoint brings.

    Raises ModelLoadError where the checkpoint is missing, incomplete or broken, and UnsupportedModelError where it
    is dense or no family serves it.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise ModelLoadError(f"There is no dtype {dtype!r}.{did_you_mean(dtype, list(_DTYPES))}")
    folder = NANO if model is None else local_folder(model)
    if folder is not None:
        name = _NANO_NAME if model is None else folder.name
        config = read_config(folder)
        family = family_for(config)
    else:
        # The settings first: no one should download gigabytes to be told that the model is dense.
        name = str(model)
        settings = fetch(name, revision, weights=False, code=trust_remote_code)
        config = read_config(settings)
        family = family_for(config)
        folder = fetch(name, commit_of(settings) or revision, weights=True, code=trust_remote_code)
    family.specs(config)  # the settings that routers need are there
    family.check({**config, **_mlx_settings(config)})
    check_weights(folder)
    check_tokenizer(folder)
    if config.get("model_file") is not None and not trust_remote_code:
        raise _refused(folder, config["model_file"])

    network, config = _build(folder, config, trust_remote_code)
    tokenizer = _tokenizer(folder, config, trust_remote_code)
    experts = _expert_layers(network, family, config)
    weight_bits = _stored_bits(experts)
    fingerprint = _fingerprint(folder, network, family, config)
    if mx.default_device() == mx.Device(mx.cpu):
        dtype = dtype or "float32"
        if dtype != "float32" and any(mx.issubdtype(layer.weight.dtype, mx.floating) for layer in experts):
            raise ModelLoadError(
                f"On the CPU MLX runs unquantised experts in float32 only, not in {dtype}; leave the dtype out."
            )
    if dtype is not None:
        network.set_dtype(_DTYPES[dtype])
    mx.eval(network.parameters())
    return Checkpoint(
        model=network,
        tokenizer=tokenizer,
        config=config,
        name=name,
        path=folder,
        revision=commit_of(folder) or revision,
        dtype=_floating_dtype(network),
        weight_bits=weight_bits,
        fingerprint=fingerprint,
    )


def _fingerprint(folder: Path, model: nn.Module, family: Family, config: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.glob(WEIGHTS)):
        digest.update(file.name.encode() + str(file.stat().st_size).encode())
    for spec in family.specs(config):
        gate = module_at(model.layers[spec.layer], family.form(spec.router).gate)
        for name, array in sorted(tree_flatten(gate.parameters())):
            digest.update(name.encode() + np.array(array.astype(mx.float32)).tobytes())
    return digest.hexdigest()


def _mlx_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings under the names mlx-lm reads.

    transformers 5 writes them inside rope_parameters, where most of mlx-lm does not look and silently takes a default.
    """
    rope = config.get("rope_parameters") or {}
    found = {}
    if "rope_theta" in rope and config.get("rope_theta") is None:
        found["rope_theta"] = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default" and config.get("rope_scaling") is None:
        found["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return found


def _build(folder: Path, config: dict[str, Any], trust_remote_code: bool) -> tuple[nn.Module, dict[str, Any]]:
    """The model with its weights mapped but not read, and its config."""
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if port := PORTS.get(config["model_type"]):
        options["get_model_classes"] = lambda config: (port.Model, port.ModelArgs)
    options["model_config"] = _mlx_settings(config)
    try:
        with _without_wildcards(folder) as path:
            model, config = load_model(path, lazy=True, **options)
    except KeyError as error:
        raise ModelLoadError(f"{folder}: {error.args[0]!r} is missing; fetch the checkpoint again.") from error
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise ModelLoadError(f"{folder}: config.json and weights do not fit ({_shortened(error)}).") from error
    return model, config


@contextmanager
def _without_wildcards(folder: Path) -> Iterator[Path]:
    """A path to ``folder`` that mlx-lm's search for weight files does not take for a pattern."""
    if not glob.has_magic(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as aside:
        link = Path(aside) / "model"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


def _tokenizer(folder: Path, config: dict[str, Any], trust_remote_code: bool) -> TokenizerWrapper:
    # Said either way: left open, transformers would stop and ask on the terminal.
    extra = {"trust_remote_code": trust_remote_code}
    try:
        return load_tokenizer(folder, extra, eos_token_ids=config.get("eos_token_id"))
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError) as error:
        if "trust_remote_code" in str(error):
            raise _refused(folder, "its tokenizer") from error
        raise ModelLoadError(f"{folder}: the tokenizer cannot be loaded ({_shortened(error)}).") from error


def _refused(folder: Path, what: str) -> ModelLoadError:
    return ModelLoadError(
        f"{folder} runs its own Python code ({what}); read it, and if you trust it pass --trust-remote-code."
    )


def _expert_layers(model: nn.Module, family: Family, config: dict[str, Any]) -> list[nn.Module]:
    """Every module that holds a weight of the routed experts."""
    blocks = (module_at(model.layers[s.layer], family.form(s.router).experts) for s in family.specs(config))
    return [module for block in blocks for module in block.modules() if "weight" in module]


def _stored_bits(layers: list[nn.Module]) -> float | int:
    """Bits per stored weight, the mean over all weights of ``layers``."""
    stored = [layer.weight.nbytes * 8 for layer in layers]
    bits = [getattr(layer, "bits", layer.weight.dtype.size * 8) for layer in layers]
    mean = sum(stored) / sum(size / b for size, b in zip(stored, bits, strict=True))
    return int(mean) if mean == int(mean) else round(mean, 3)


def _floating_dtype(model: nn.Module) -> str:
    """The dtype of most floating parameters."""
    sizes: Counter[str] = Counter()
    for _, array in tree_flatten(model.parameters()):
        if mx.issubdtype(array.dtype, mx.floating):
            sizes[str(array.dtype).rpartition(".")[2]] += array.size
    return sizes.most_common(1)[0][0]


def _shortened(error: BaseException, limit: int = 240) -> str:
    """The message on one line, and no longer than a person reads."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " ..."
