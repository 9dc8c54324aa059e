"""Checkpoints of transformers in the form that mlx-lm reads, where transformers writes another by default.

Of every model type in `mlx_moebench.families.differences.UNREADABLE`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

Tensors = dict[str, Any]


def mend(folder: Path, model_type: str) -> None:
    """Rewrite the weights in ``folder``."""
    file = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = MENDED[model_type](load_file(file), config)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})


def _gpt_oss(tensors: Tensors, config: Any) -> Tensors:
    mended: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            gate_up, stem = tensor.transpose(-1, -2), name.removesuffix("gate_up_proj")
            mended |= {f"{stem}gate_proj.weight": gate_up[:, ::2], f"{stem}up_proj.weight": gate_up[:, 1::2]}
        elif name.endswith("experts.gate_up_proj_bias"):
            stem = name.removesuffix("gate_up_proj_bias")
            mended |= {f"{stem}gate_proj.bias": tensor[:, ::2], f"{stem}up_proj.bias": tensor[:, 1::2]}
        elif name.endswith("experts.down_proj"):
            mended[f"{name}.weight"] = tensor.transpose(-1, -2)
        else:
            mended[name.replace("down_proj_bias", "down_proj.bias")] = tensor
    return mended


def _without_zero_experts(tensors: Tensors, config: Any) -> Tensors:
    number = re.compile(r"\.experts\.(\d+)\.")
    first = config["n_routed_experts"]
    return {name: one for name, one in tensors.items() if not (at := number.search(name)) or int(at[1]) < first}


def _transposed(tensors: Tensors, config: Any) -> Tensors:
    fused = re.compile(r"\.experts\.(gate_up|down)_proj$")
    return {name: one.transpose(-1, -2) if fused.search(name) else one for name, one in tensors.items()}


def _renamed(pattern: str, name: str) -> Callable[[Tensors, Any], Tensors]:
    return lambda tensors, config: {re.sub(pattern, name, key): tensor for key, tensor in tensors.items()}


def _kimi_k25(tensors: Tensors, config: Any) -> Tensors:
    text = {name: one for name, one in tensors.items() if "language_model" in name}
    return _renamed(r"language_model\.model\.blocks", "language_model.model.layers")(text, config)


MENDED: dict[str, Callable[[Tensors, Any], Tensors]] = {
    "gpt_oss": _gpt_oss,
    "longcat_flash": _without_zero_experts,
    "qwen3_vl_moe": _transposed,
    "kimi_k25": _kimi_k25,
    "kimi_linear": _renamed(r"block_sparse_moe\.(gate|up|down)_proj", r"mlp.\1_proj"),
    "bailing_hybrid": _renamed(r"layers\.0\.attention\.dense", "layers.0.attention.o_proj"),
}
