"""How alike the experts of a layer are, by their weights."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

OUTPUT = ("down_proj", "fc2", "output_linear", "w2")
"""What the last matrix of an expert is called, inside the module that runs all experts of a layer."""


def output_weight_similarity(experts: nn.Module) -> float | None:
    """Mean cosine of the output weights of all pairs of experts; None where they do not lie in one array [E, ...].

    Formula: mean over i != j of <w_i, w_j> / (|w_i| |w_j|), w_i the expert's last matrix as a vector; from
    (|sum_i u_i|^2 - n) / (n (n - 1)) of the n unit vectors, so that one expert is unpacked at a time.
    Unit: cosine.
    Range: [-1, 1]; 0 for independent weights, 1 for copies. Experts without weights are left out.
    Null: fewer than two experts.
    Source: LibMoE, section 5 (f): similarity of the experts' output weights.
    """
    inside = experts.get("ffn", experts)  # where those of an upcycled model are
    layer = next((part for name in OUTPUT if isinstance(part := inside.get(name), nn.Module)), None)
    if layer is None or "weight" not in layer or layer.weight.ndim != 3 or len(layer.weight) < 2:
        return None
    total, n = np.zeros(0), 0
    for expert in range(len(layer.weight)):
        weight = _unpacked(layer, expert)
        w = np.array(weight.astype(mx.float32).reshape(-1), dtype=np.float64)
        if norm := float(np.linalg.norm(w)):
            total = w / norm if not n else total + w / norm
            n += 1
    return float((total @ total - n) / (n * (n - 1))) if n > 1 else None


def _unpacked(layer: nn.Module, expert: int) -> mx.array:
    if "scales" not in layer:
        weight: mx.array = layer.weight[expert]
        return weight
    biases = None if layer.get("biases") is None else layer.biases[expert]
    packing = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
    unpacked: mx.array = mx.dequantize(layer.weight[expert], layer.scales[expert], biases, **packing)
    return unpacked
