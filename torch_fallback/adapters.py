"""LoRA adapters that mlx-lm trained, merged into a transformers model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from mlx_moebench.checkpoints.adapters import WEIGHTS, Adapter
from mlx_moebench.errors import ModelLoadError
from mlx_moebench.types import Network

from .capture import layers_of, locate

_IN_BLOCK = re.compile(r"\blayers\.(\d+)\.(.+)")


def merge_adapter(model: Network, adapter: Adapter, called: str) -> None:
    """Add scale * (A B)^T to each weight that ``adapter`` has A [in, r] and B [r, out] for.

    mlx-lm multiplies x A B, with the scale of its config (not alpha / r). Raises ModelLoadError where the adapter is no
    plain LoRA, or changes something that has no weight matrix of its own in transformers, as fused experts.
    """
    if adapter.fine_tune_type != "lora":
        raise ModelLoadError(
            f"{adapter.path} is of the type {adapter.fine_tune_type}, and torch merges LoRA only: fuse it into a "
            "checkpoint with mlx_lm.fuse."
        )
    file = adapter.path / WEIGHTS
    arrays = load_file(file)
    parameters = dict(model.named_parameters())
    # Routers have other names here, which the family knows; whatever else has one weight has it under mlx-lm's name.
    gates = {(router.spec.layer, router.form.gate): router.weight for router in locate(model)}
    blocks = {(n, name): p for n, layer in enumerate(layers_of(model)) for name, p in layer.named_parameters()}
    changes = []
    for path in _paths(arrays, file):
        place = _IN_BLOCK.search(path)
        weight = parameters.get(f"{path}.weight")
        if place:
            layer, name = int(place[1]), place[2]
            weight = gates.get((layer, name), blocks.get((layer, f"{name}.weight"), weight))
        a, b = arrays[f"{path}.lora_a"].float(), arrays[f"{path}.lora_b"].float()
        if weight is None or a.ndim != 2 or tuple(weight.shape) != (b.shape[-1], a.shape[0]):
            raise ModelLoadError(
                f"{adapter.path} does not fit {called}: it changes {path}, and transformers has no weight of that form "
                "there (experts are fused); use the backend mlx, or fuse it into a checkpoint with mlx_lm.fuse."
            )
        changes.append((weight, a, b))
    with torch.no_grad():
        for weight, a, b in changes:
            change = float(adapter.scale or 0.0) * (a @ b).T
            weight.copy_((weight.float() + change.to(weight.device)).to(weight.dtype))


def _paths(arrays: Mapping[str, torch.Tensor], file: Path) -> list[str]:
    """The weights that have a LoRA pair; raises ModelLoadError for half of one, or anything else."""
    pairs = {key.rpartition(".")[0] for key in arrays}
    for key in sorted(arrays):
        path, _, kind = key.rpartition(".")
        if kind not in ("lora_a", "lora_b") or not {f"{path}.lora_a", f"{path}.lora_b"} <= arrays.keys():
            raise ModelLoadError(f"{file} holds {key}, which is no half of a LoRA pair.")
    return sorted(pairs)
