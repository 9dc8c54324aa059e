"""Load a checkpoint into MLX, with every check that needs no weights made before weights are read."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Unpack

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_adapters, load_model, load_tokenizer

from ..checkpoints import Adapter, Checkpoint, check_unquantised, find, read_adapter, refused_code, shortened
from ..checkpoints.folder import fingerprint
from ..errors import ModelLoadError
from ..families import Family, families
from ..families.base import module_at, stored_weight
from ..instrument.facts import floating_dtype, stored_bits
from ..options import Loading, LoadingChoices, takes, with_choices
from ..pair.model import remember
from ..types import Json
from .precision import quantise

PORTS = {name: import_module(f".{name}", __package__) for name, family in families().items() if family.port}
"""Model types that mlx-lm lacks, and the file here that builds each; all others are mlx-lm's."""

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


@takes(Loading, without=("backend", "device"))
def load(
    model: str | Path | None = None, *, revision: str | None = None, **choices: Unpack[LoadingChoices]
) -> tuple[nn.Module, TokenizerWrapper]:
    """``load_checkpoint`` for those who want the model and the tokenizer only."""
    checkpoint = load_checkpoint(model, revision=revision, **choices)
    return checkpoint.model, checkpoint.tokenizer


@takes(Loading, without=("backend", "device"))
def load_checkpoint(
    model: str | Path | None = None,
    loading: Loading | None = None,
    *,
    revision: str | None = None,
    **choices: Unpack[LoadingChoices],
) -> Checkpoint:
    """Load a sparse model: a folder, a hub id, or with None the small model that ships in the package.

    loading: all of the following but ``revision`` in one; keywords win over it. The device is the one that MLX computes
        on (`models.select_device`).
    dtype: ``float32``, ``bfloat16`` or ``float16`` for the floating parameters; packed quantised weights stay as
        they are. None means float32 on the CPU, where MLX runs unquantised experts in float32 only, and as stored
        elsewhere.
    bits: 4 or 8 quantises an unquantised checkpoint while it is read, in MLX's affine form with groups of 64, or 32
        where 64 does not divide a row; what neither divides stays as it is. None leaves everything as stored.
    router_bits: 4, 8 or 16 (unquantised) for the routers. None means max(8, bits), because a router of fewer bits
        chooses other experts. Without ``bits`` only the routers are quantised.
    adapter_path: folder of an adapter that mlx-lm trained; it is applied first, so bits quantise what it changed.
    revision: branch, tag or commit of a hub model.
    trust_remote_code: run Python files that the checkpoint brings.

    Raises ModelLoadError where the checkpoint or the adapter is missing, incomplete or broken, where they do not fit,
    or where bits are asked for that it cannot have; UnsupportedModelError where it is dense or no family serves it.
    """
    loading = with_choices(loading, choices)
    unquantised = loading.bits is not None or loading.router_bits is not None
    adapter = None if loading.adapter_path is None else read_adapter(loading.adapter_path)
    located = find(model, revision, loading.trust_remote_code, unquantised=unquantised, check=_check)
    folder, name, family = located.folder, located.name, located.family
    network, config = _build(folder, family, located.config, loading.trust_remote_code)
    if unquantised:
        check_unquantised(config, name)  # again, because some formats say so in another file than config.json
    tokenizer = _tokenizer(folder, config, loading.trust_remote_code)
    printed = fingerprint(folder, _router_values(network, family, config))
    if adapter is not None:
        _apply_adapter(network, adapter, name)
    quantisation = quantise(network, _routers(network, family, config), loading.bits, loading.router_bits)
    if quantisation is not None:
        config["quantization"] = quantisation
    expert_modules = _expert_modules(network, family, config)
    experts = [module for module in expert_modules if "weight" in module]
    if loading.bits is not None:
        _check_quantised(experts, name)
    weight_bits = stored_bits(experts)
    dtype = _checked_dtype(loading.dtype, expert_modules)
    if dtype is not None:
        network.set_dtype(_DTYPES[dtype])
    _read_weights(network)
    checkpoint = Checkpoint(
        model=network,
        tokenizer=tokenizer,
        config=config,
        name=name,
        path=folder,
        revision=located.revision,
        dtype=floating_dtype(network),
        weight_bits=weight_bits,
        fingerprint=printed,
        quantised_on_load=quantisation is not None,
        adapter=adapter.facts if adapter else None,
    )
    remember(network, checkpoint.origin)
    return checkpoint


def _check_quantised(experts: list[nn.Module], name: str) -> None:
    if not any("scales" in layer for layer in experts):
        raise ModelLoadError(
            f"No expert of {name} can be quantised, because no group of 32 weights divides the rows of its matrices; "
            "leave --bits out."
        )


def _check(family: Family, config: Json) -> None:
    """Refuse what the MLX model would compute otherwise."""
    family.check({**config, **_mlx_settings(family, config)})


def _checked_dtype(dtype: str | None, expert_modules: list[nn.Module]) -> str | None:
    """The dtype to cast to: on the CPU float32 where nothing else was asked for, elsewhere as asked."""
    if mx.default_device() != mx.Device(mx.cpu):
        return dtype
    if dtype not in (None, "float32"):
        adapted = any("lora_a" in module for module in expert_modules)
        unquantised = any("weight" in m and mx.issubdtype(m.weight.dtype, mx.floating) for m in expert_modules)
        if unquantised or adapted:
            what = "unquantised experts" if unquantised else "experts with an adapter"
            raise ModelLoadError(f"On the CPU MLX runs {what} in float32 only, not in {dtype}; leave the dtype out.")
    return dtype or "float32"


def _apply_adapter(model: nn.Module, adapter: Adapter, name: str) -> None:
    """Put ``adapter`` on ``model``, called ``name``, as mlx-lm does. Raises ModelLoadError where it does not fit."""
    try:
        load_adapters(model, str(adapter.path))
    except (ValueError, TypeError, RuntimeError) as error:
        raise ModelLoadError(
            f"{adapter.path} does not fit {name} ({shortened(error)}); give the model that it was trained on."
        ) from error
    model.eval()  # mlx-lm's new layers come in training mode, with dropout on


def _read_weights(model: nn.Module) -> None:
    """Compute every parameter, one at a time: what it is cast or packed from is gone before the next is read."""
    for _, array in tree_flatten(model.parameters()):
        mx.eval(array)
    mx.clear_cache()


def _router_values(model: nn.Module, family: Family, config: Json) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    for router in _routers(model, family, config):
        for name, array in sorted(tree_flatten(router.parameters())):
            yield name, np.array(array.astype(mx.float32))


def _mlx_settings(family: Family, config: Json) -> Json:
    """What the config has under other names than mlx-lm reads: E, K and the rotary settings.

    transformers 5 writes the latter inside rope_parameters, where most of mlx-lm does not look and silently takes a
    default.
    """
    rope = config.get("rope_parameters") or {}
    settings = family.renamed(config)
    if "rope_theta" in rope and config.get("rope_theta") is None:
        settings["rope_theta"] = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default" and config.get("rope_scaling") is None:
        settings["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return settings


def _build(folder: Path, family: Family, config: Json, trust_remote_code: bool) -> tuple[nn.Module, Json]:
    """The model with its weights mapped but not read, and its config."""
    options: Json = {"trust_remote_code": trust_remote_code}
    if port := PORTS.get(config["model_type"]):
        options["get_model_classes"] = lambda config: (port.Model, port.ModelArgs)
    options["model_config"] = _mlx_settings(family, config)
    try:
        with _without_wildcards(folder) as path:
            model, config = load_model(path, lazy=True, **options)
    except KeyError as error:
        raise ModelLoadError(f"{folder}: {error.args[0]!r} is missing; fetch the checkpoint again.") from error
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise ModelLoadError(f"{folder}: config.json and weights do not fit ({shortened(error)}).") from error
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


def _tokenizer(folder: Path, config: Json, trust_remote_code: bool) -> TokenizerWrapper:
    # Said either way: left open, transformers would stop and ask on the terminal.
    extra = {"trust_remote_code": trust_remote_code}
    try:
        return load_tokenizer(folder, extra, eos_token_ids=config.get("eos_token_id"))
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError) as error:
        if "trust_remote_code" in str(error):
            raise refused_code(folder, "its tokenizer") from error
        raise ModelLoadError(f"{folder}: the tokenizer cannot be loaded ({shortened(error)}).") from error


def _routers(model: nn.Module, family: Family, config: Json) -> list[nn.Module]:
    """The modules that hold the routers' weights."""
    gates = (module_at(model.layers[s.layer], family.form(s.router).gate) for s in family.specs(config))
    return [stored_weight(gate) for gate in gates]


def _expert_modules(model: nn.Module, family: Family, config: Json) -> list[nn.Module]:
    """Every module of the routed experts; those that hold a weight, and those around them."""
    blocks = (module_at(model.layers[s.layer], family.form(s.router).experts) for s in family.specs(config))
    return [module for block in blocks for module in block.modules()]
