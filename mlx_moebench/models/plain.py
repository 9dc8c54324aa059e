"""Any model that mlx-lm reads, for what needs no routers: dense ones, the lab's baseline among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from ..checkpoints import Checkpoint
from ..checkpoints.folder import check_tokenizer, fingerprint, read_config
from ..checkpoints.foreign import said
from ..checkpoints.hub import commit_of, fetch, local_folder
from ..checkpoints.weights import read_weights
from ..errors import ModelLoadError, UnsupportedModelError
from ..families import families
from ..instrument.facts import floating_dtype
from ..options import Loading
from ..types import Json
from .loading import MLX_DTYPES, load_checkpoint, read_tokenizer, try_out
from .writers import model_classes, rotary_settings


def load_any(model: str | Path | None, loading: Loading) -> Checkpoint:
    """As `load_checkpoint`, and a model without a router that is known here, too.

    Raises ModelLoadError where the checkpoint is missing, incomplete or broken, or mlx-lm has no such model, or where
    of a model without routers bits or an adapter are asked for.
    """
    try:
        return load_checkpoint(model, loading)
    except UnsupportedModelError:
        if needless := [name for name in loading.asked if name != "dtype"]:
            raise ModelLoadError(
                f"{model} has no router that is known here, and is read as stored: leave "
                f"--{needless[0].replace('_', '-')} out."
            ) from None
    assert model is not None  # the embedded one has routers
    return _plain(str(model), loading)


def _plain(model: str, loading: Loading) -> Checkpoint:
    folder = local_folder(model)
    name = model if folder is None else folder.name
    folder = folder or fetch(model, None, weights=True, code=loading.trust_remote_code)
    config, weights = read_config(folder), read_weights(folder)
    check_tokenizer(folder)
    options: Json = {"trust_remote_code": loading.trust_remote_code, "model_config": rotary_settings(config)}
    if (family := families().get(config["model_type"])) is not None:
        options["get_model_classes"] = lambda config: model_classes(family, config)
    with said(f"{folder}: mlx-lm cannot read this model"), weights.laid_out() as path:
        network, config = load_model(path, lazy=True, **options)
    dtype = loading.dtype or ("float32" if mx.default_device().type == mx.DeviceType.cpu else None)
    if dtype is not None:
        network.set_dtype(MLX_DTYPES[dtype])
    try_out(network, folder)
    mx.eval(network.parameters())
    computed = floating_dtype(network)
    return Checkpoint(
        model=network,
        tokenizer=read_tokenizer(folder, config, loading.trust_remote_code),
        config=config,
        name=name,
        path=folder,
        revision=commit_of(folder),
        dtype=computed,
        weight_bits=32 if computed == "float32" else 16,
        fingerprint=fingerprint(weights, _vectors(network)),
    )


def _vectors(network: nn.Module) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Norms and biases, which tell two states of a training apart."""
    for name, array in sorted(tree_flatten(network.parameters())):
        if array.ndim == 1:
            yield name, np.array(array.astype(mx.float32))


def plain_facts(checkpoint: Checkpoint) -> Json:
    """The ``model`` section of a report of a model without routers."""
    facts = {"id": checkpoint.name, "revision": checkpoint.revision, "model_type": checkpoint.config["model_type"]}
    read = {"dtype": checkpoint.dtype, "fingerprint": checkpoint.fingerprint}
    return facts | {"backend": "mlx"} | read | {"warnings": []}
