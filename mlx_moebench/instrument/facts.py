"""What a report says of an MLX model, read off the model itself."""

from __future__ import annotations

from collections import Counter

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..pair.model import object_section
from ..types import Json
from .capture import bits_of, experts_of, routers_of
from .models import config_of, family_of


def model_facts(model: nn.Module) -> Json:
    """What a report says of a model of which only the object is at hand."""
    weights = [m for experts in experts_of(model) for m in experts.modules() if "weight" in m]
    facts = object_section(
        model,
        routers_of(model),
        model_type=config_of(model)["model_type"],
        backend="mlx",
        dtype=floating_dtype(model),
        weight_bits=stored_bits(weights) if weights else None,  # mlx-vlm can leave experts on disk
    )
    if warning := family_of(model).warning:
        facts["warnings"] = [*facts["warnings"], warning]
    return facts


def stored_bits(layers: list[nn.Module]) -> float | int:
    """Bits per stored weight, the mean over all weights of ``layers``."""
    stored = [layer.weight.nbytes * 8 for layer in layers]
    bits = [bits_of(layer) for layer in layers]
    mean = sum(stored) / sum(size / b for size, b in zip(stored, bits, strict=True))
    return int(mean) if mean == int(mean) else round(mean, 3)


def floating_dtype(model: nn.Module) -> str:
    """The dtype of most floating parameters."""
    sizes: Counter[str] = Counter()
    for _, array in tree_flatten(model.parameters()):
        if mx.issubdtype(array.dtype, mx.floating):
            sizes[str(array.dtype).rpartition(".")[2]] += array.size
    return sizes.most_common(1)[0][0]
