"""The weights that a training begins with."""

from __future__ import annotations

import zlib

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..routing.record import Array
from .decoder import ModelArgs

UNSCALED = ("embed_tokens.weight", "lm_head.weight", "experts.constant")
"""What is drawn from N(0, 1 / D), without the factor of the depth."""


def initialise(model: nn.Module, args: ModelArgs, seed: int, router_std: float | None = None) -> None:
    """Draw every weight of a lab model anew, as LibMoE does: N(0, 2 / (L fan-in)), L layers.

    The second matrix of the experts counts N h as its fan-in; embeddings and output are N(0, 1 / D), norms the
    identity, biases 0. router_std: of the gates' rows, in the place of their own.

    A weight follows from the seed and its name alone: models that differ in their routers agree in all else.
    """
    scale = (2 / args.num_hidden_layers) ** 0.5
    weights = []
    for name, value in tree_flatten(model.parameters()):
        if name.endswith("bias"):
            weights.append((name, mx.zeros_like(value)))
            continue
        if "norm" in name:
            continue
        fan_in = value.shape[-1]
        if name.endswith("experts.output_linear.weight"):
            fan_in *= args.num_experts
        std = fan_in**-0.5 * (1.0 if name.endswith(UNSCALED) else scale)
        if name.endswith("gate.weight") and router_std is not None:
            std = router_std
        drawn = std * normal(name, value.shape, seed)
        if args.unit_rows and name.endswith("gate.weight"):
            drawn = of_one_norm(drawn, std)
        weights.append((name, drawn))
    model.load_weights(weights, strict=False)


def normal(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """Numbers from N(0, 1) that follow from seed and name alone."""
    return mx.random.normal(shape, key=mx.random.key(seed << 32 | zlib.crc32(name.encode())))


def of_one_norm(rows: Array, std: float) -> Array:
    """``rows`` [R, D] of the norm that rows of this deviation have on average, std sqrt(D)."""
    norm = mx.sqrt(mx.square(rows).sum(axis=-1, keepdims=True))
    return rows * (std * rows.shape[-1] ** 0.5 / mx.maximum(norm, 1e-12))
