"""Load a checkpoint into MLX, with every check that needs no weights made before weights are read."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_adapters, load_model, load_tokenizer

from ..allocator import keep_freed_memory
from ..checkpoints import Adapter, Checkpoint, Located, check_unquantised, find, read_adapter, refused_code, shortened
from ..checkpoints.folder import fingerprint
from ..checkpoints.foreign import FOREIGN, check_accepted, said
from ..checkpoints.packing import check_for_mlx, unread_by_mlx
from ..checkpoints.weights import Weights
from ..errors import ModelLoadError, renamed
from ..families import Family
from ..families.base import module_at, stored_weight
from ..instrument.cpu_path import use_cpu_path
from ..instrument.facts import floating_dtype, stored_bits
from ..instrument.models import config_of, family_of
from ..options import UNQUANTISED, Loading, LoadingChoices, Tell, quiet_tell, takes, with_choices
from ..pair.model import remember
from ..types import Json
from .precision import quantise
from .room import streams
from .routers import check_unquantised_routers, quantised, take_routers, unpacked_in
from .streamed import StreamedModel
from .writers import mlx_settings, model_classes, unlike_stock, unlike_stock_sentence

MLX_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


@takes(Loading, without=("backend", "device", "stream", "stream_memory"))
def load(
    model: str | Path | None = None, *, revision: str | None = None, **choices: Unpack[LoadingChoices]
) -> tuple[nn.Module, TokenizerWrapper]:
    """``load_checkpoint`` for those who want the model and the tokenizer only."""
    checkpoint = load_checkpoint(model, revision=revision, **choices)
    return checkpoint.model, checkpoint.tokenizer


@takes(Loading, without=("backend", "device", "stream", "stream_memory"))
def load_checkpoint(
    model: str | Path | None = None,
    loading: Loading | None = None,
    *,
    revision: str | None = None,
    **choices: Unpack[LoadingChoices],
) -> Checkpoint:
    """Load a sparse model: a folder, a hub id, or with None the small model that ships in the package.

    loading: all of the following but ``revision`` in one; keywords win over it. The device is the one that MLX computes
        on (`models.select_device`). All weights are read, whatever its ``stream``.
    dtype: ``float32``, ``bfloat16`` or ``float16`` for the floating parameters; packed quantised weights stay as
        they are. None means float32 on the CPU, where MLX runs unquantised experts in float32 only, and as stored
        elsewhere.
    bits: 4 or 8 quantises an unquantised checkpoint while it is read, in MLX's affine form with groups of 64, or 32
        where 64 does not divide a row; what neither divides stays as it is. None leaves everything as stored.
    router_bits: 4, 8 or 16 (unquantised) for the routers. None means max(8, bits), because a router of fewer bits
        chooses other experts. Without ``bits`` only the routers are quantised.
    routers_from: the model that a quantised checkpoint was made from, whose unquantised routers take the place of the
        quantised ones, proven by shape and value.
    adapter_path: folder of an adapter that mlx-lm trained; it is applied first, so bits quantise what it changed.
    revision: branch, tag or commit of a hub model.
    trust_remote_code: run Python files that the checkpoint brings.

    On a Linux CPU its experts are run grouped by expert (`instrument.cpu_path`).

    Raises ModelLoadError where the checkpoint or the adapter is missing, incomplete or broken, where they do not fit,
    or where bits are asked for that it cannot have; UnsupportedModelError where it is dense or no family serves it.
    Warns where stock mlx-lm would read the settings otherwise, and so compute something else.
    """
    checkpoint, _ = _opened(model, with_choices(loading, choices), revision)
    return _read(checkpoint)


def open_checkpoint(model: str | Path | None, loading: Loading, tell: Tell = quiet_tell) -> Checkpoint:
    """As `load_checkpoint`, but where ``loading.stream`` has it so the weights are not read: ``layers`` does it.

    Raises ModelLoadError where a model shall be streamed that cannot be; ``tell`` is told what ``auto`` decided, unless
    everything fits.
    """
    checkpoint, weights = _opened(model, loading, None)
    why_not = family_of(checkpoint.model).unstreamed(config_of(checkpoint.model))
    if streams(checkpoint, loading.stream, why_not, tell):
        return replace(checkpoint, layers=StreamedModel(checkpoint.model, weights))
    return _read(checkpoint)


def _read(checkpoint: Checkpoint) -> Checkpoint:
    """With its weights in memory. A streamed model gives what it frees back to the system; this one keeps it."""
    if mx.default_device().type == mx.DeviceType.cpu:
        keep_freed_memory()
    _read_weights(checkpoint.model)
    return checkpoint


def _opened(model: str | Path | None, loading: Loading, revision: str | None) -> tuple[Checkpoint, Weights]:
    """A checkpoint of which nothing but the routers is read, and the files of its weights."""
    unquantised = loading.bits is not None or loading.router_bits not in (None, UNQUANTISED)
    adapter = None if loading.adapter_path is None else read_adapter(loading.adapter_path)
    located = find(model, revision, loading.trust_remote_code, unquantised=unquantised, check=_check)
    folder, name, family = located.folder, located.name, located.family
    network, config = _build(located, loading.trust_remote_code)
    if unlike := unlike_stock(family, located.config):
        warnings.warn(unlike_stock_sentence(name, unlike, located.config), UserWarning, stacklevel=3)
    if unquantised:
        check_unquantised(config, name)  # again, because some formats say so in another file than config.json
    tokenizer = read_tokenizer(folder, config, loading.trust_remote_code)
    source, computed = _original_routers(network, family, config, name, loading)
    printed = fingerprint(located.weights, _router_values(network, family, config))
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
        network.set_dtype(MLX_DTYPES[dtype])
    elif computed is not None:
        for router in _routers(network, family, config):
            router.set_dtype(computed)  # or their logits would lift all that follows to another dtype
    try_out(network, folder)
    use_cpu_path(network)
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
        routers_from=source,
    )
    remember(network, checkpoint.origin)
    return checkpoint, located.weights


def _original_routers(
    network: nn.Module, family: Family, config: Json, name: str, loading: Loading
) -> tuple[str, mx.Dtype] | tuple[None, None]:
    """Take the routers of ``loading.routers_from``: its name, and the dtype that the quantised ones computed in.

    Without one nothing happens, but that unquantised routers are refused to those who ask for them and have none.
    """
    if loading.routers_from is None:
        if loading.router_bits == UNQUANTISED and loading.bits is None:
            check_unquantised_routers(_routers(network, family, config), name)
        return None, None
    located = find(loading.routers_from, None, loading.trust_remote_code, unquantised=False, check=_check)
    if located.family is not family:
        raise ModelLoadError(f"{located.name} is of the family {located.family.name}, and {name} of {family.name}.")
    original, of_original = _build(located, loading.trust_remote_code)
    routers, sources = _routers(network, family, config), _routers(original, family, of_original)
    paths = take_routers(network, routers, sources, name, located.name)
    for key in ("quantization", "quantization_config"):
        if isinstance(config.get(key), dict):
            config[key] = unpacked_in(config[key], paths)
    return located.name, quantised(routers)[0].scales.dtype


def _check_quantised(experts: list[nn.Module], name: str) -> None:
    if not any("scales" in layer for layer in experts):
        raise ModelLoadError(
            f"No expert of {name} can be quantised, because no group of 32 weights divides the rows of its matrices; "
            "leave --bits out."
        )


def _check(family: Family, config: Json) -> None:
    """Refuse what the MLX model would compute otherwise."""
    settings = {**config, **mlx_settings(family, config)}
    family.check(settings)
    family.specs(settings)


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
    except FOREIGN as error:
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


def _build(located: Located, trust_remote_code: bool) -> tuple[nn.Module, Json]:
    """The model with its weights mapped but not read, and its config."""
    folder, family, config = located.folder, located.family, located.config
    check_for_mlx(config, located.weights, located.name)
    options: Json = {"trust_remote_code": trust_remote_code}
    options["get_model_classes"] = lambda config: model_classes(family, config)
    try:
        options["model_config"] = mlx_settings(family, config)
        with located.weights.laid_out() as path:
            model, config = load_model(path, lazy=True, **options)
    except ImportError as error:
        raise renamed(error) or ModelLoadError(f"{folder}: {shortened(error)}; install it.") from error
    except FOREIGN as error:
        if packed := unread_by_mlx(located.config, located.weights, located.name, shortened(error, 120)):
            raise packed from error
        if isinstance(error, KeyError):
            raise ModelLoadError(f"{folder}: {shortened(error)} is missing; fetch the checkpoint again.") from error
        raise ModelLoadError(f"{folder}: config.json and weights do not fit ({shortened(error)}).") from error
    _check_dtypes(model, located.name)
    return model, config


_FLOATING = ("weight", "bias", "e_score_correction_bias")


def _check_dtypes(model: nn.Module, name: str) -> None:
    """Raises ModelLoadError where weights that nothing unpacks are whole numbers, as MLX reads those of float8."""
    for path, module in model.named_modules():
        if "scales" in module or "weight_scale" in module:
            continue
        for key in _FLOATING:
            if isinstance(array := module.get(key), mx.array) and not mx.issubdtype(array.dtype, mx.floating):
                raise ModelLoadError(
                    f"{name} stores {path}.{key} as {str(array.dtype).removeprefix('mlx.core.')} numbers that no block "
                    "of config.json unpacks (float8 is read as such); measure it with the backend torch, or cast it to "
                    "bfloat16."
                )


def try_out(model: nn.Module, folder: Path) -> None:
    """Put a few tokens through the model. What its settings make impossible shows in shapes, so nothing is computed."""
    with said(f"{folder}: mlx-lm built a model that cannot run", "mend config.json or fetch it again"):
        model(mx.zeros((1, 4), dtype=mx.int32))


def read_tokenizer(folder: Path, config: Json, trust_remote_code: bool) -> TokenizerWrapper:
    # It wonders at a model_type that it has no class for, though a tokenizer needs none.
    logging.getLogger("transformers.configuration_utils").setLevel(logging.ERROR)
    # Said either way: left open, transformers would stop and ask on the terminal.
    extra = {"trust_remote_code": trust_remote_code}
    try:
        tokenizer: TokenizerWrapper = load_tokenizer(folder, extra, eos_token_ids=config.get("eos_token_id"))
        tokenizer.encode("a")  # some of its settings are first read then
    except (ImportError, *FOREIGN) as error:
        if "trust_remote_code" in str(error):
            raise refused_code(folder, "its tokenizer") from error
        check_accepted(error, folder)
        raise ModelLoadError(f"{folder}: the tokenizer cannot be loaded ({shortened(error)}).") from error
    return tokenizer


def _routers(model: nn.Module, family: Family, config: Json) -> list[nn.Module]:
    """The modules that hold the routers' weights."""
    gates = (module_at(model.layers[s.layer], family.form(s.router).gate) for s in family.specs(config))
    return [stored_weight(gate) for gate in gates]


def _expert_modules(model: nn.Module, family: Family, config: Json) -> list[nn.Module]:
    """Every module of the routed experts; those that hold a weight, and those around them."""
    modules: list[nn.Module] = []
    for spec in family.specs(config):
        form = family.form(spec.router)
        experts = module_at(model.layers[spec.layer], form.experts)
        for part in module_at(experts, form.one_by_one) if form.one_by_one else [experts]:
            modules += part.modules()
    return modules
