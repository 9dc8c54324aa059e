"""LoRA adapters that mlx-lm trained, merged into a transformers model."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file

from mlx_moebench.checkpoints.adapters import WEIGHTS, Adapter
from mlx_moebench.errors import ModelLoadError

_RENAMED = (("block_sparse_moe.", "mlp."),)
"""Parts of mlx-lm's names that transformers calls otherwise."""


def merge_adapter(model: Any, adapter: Adapter, name: str) -> None:
    """Add scale * (A B)^T to each weight that ``adapter`` has A [in, r] and B [r, out] for.

    mlx-lm multiplies x A B, with the scale of its config (not alpha / r). Raises ModelLoadError where the adapter is no
    plain LoRA, or changes something that has no weight matrix of its own in transformers, as fused experts.
    """
    if adapter.fine_tune_type != "lora":
        raise ModelLoadError(
            f"{adapter.path} is of the type {adapter.fine_tune_type}, and torch merges LoRA only: fuse it into a "
            "checkpoint with mlx_lm.fuse."
        )
    arrays = load_file(adapter.path / WEIGHTS)
    parameters = dict(model.named_parameters())
    changes = []
    for key in sorted(arrays):
        path, _, kind = key.rpartition(".")
        if kind == "lora_b" and f"{path}.lora_a" in arrays:
            continue
        if kind != "lora_a" or f"{path}.lora_b" not in arrays:
            raise ModelLoadError(f"{adapter.path / WEIGHTS} holds {key}, which is no half of a LoRA pair.")
        theirs = path
        for ours, other in _RENAMED:
            theirs = theirs.replace(ours, other)
        weight = parameters.get(f"{theirs}.weight")
        a, b = arrays[key].float(), arrays[f"{path}.lora_b"].float()
        if weight is None or a.ndim != 2 or tuple(weight.shape) != (b.shape[-1], a.shape[0]):
            raise ModelLoadError(
                f"{adapter.path} does not fit {name}: it changes {path}, and transformers has no weight of that form "
                "there (experts are fused); use the backend mlx, or fuse it into a checkpoint with mlx_lm.fuse."
            )
        changes.append((weight, a, b))
    with torch.no_grad():
        for weight, a, b in changes:
            change = float(adapter.scale or 0.0) * (a @ b).T
            weight.copy_((weight.float() + change.to(weight.device)).to(weight.dtype))
