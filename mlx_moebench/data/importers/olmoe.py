"""Count files as AllenAI's routing analysis of OLMoE wrote them: a JSON list of {"expert": count}, one per layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...pair.stats import RoutingStats
from ...routing.record import RouterSpec
from ...types import Json
from . import Importer, NamedFile
from ._arrays import json_of
from ._counts import statistics_of_counts
from ._ranks import Layers

PUBLISHED = (0, 7, 15)
"""The layers of the files that AllenAI published; a file does not say which it holds."""


def read(
    files: Sequence[NamedFile],
    *,
    experts: int = 64,
    top_k: int = 8,
    layers: tuple[int, ...] = PUBLISHED,
    top1: Path | None = None,
    model_id: str = "OLMoE",
    **settings: Any,
) -> RoutingStats:
    """Statistics of ``expert_counts`` files; of ``expert_counts_top1`` with top_k = 1, or as ``top1`` of the former.

    The counts of ``expert_counts_crosslayer`` pair only experts of the same rank and layers that are no neighbours, so
    they are no transitions, and they are refused.
    """

    def specs(numbers: Sequence[int]) -> list[RouterSpec]:
        return [RouterSpec(layer, layer, "mlp", experts, top_k) for layer in numbers]  # every block has a router

    model = {"id": model_id, "model_type": "olmoe"}

    def counts(path: Path) -> Layers:
        return _layers(path, layers)

    return statistics_of_counts(
        files, counts, specs, top1=top1, model=model, form="olmoe counts", phase="prefill", **settings
    )


def _layers(path: Path, numbers: tuple[int, ...]) -> Layers:
    content = json_of(path)
    if not isinstance(content, list) or not all(isinstance(layer, dict) for layer in content):
        raise DataError(f"{path} is not a JSON list with one object of counts per layer.")
    if any("," in key for layer in content for key in layer):
        raise DataError(f"{path} counts pairs of experts, as expert_counts_crosslayer does: import expert_counts.")
    if len(content) != len(numbers):
        layers = "1 layer" if len(content) == 1 else f"{len(content)} layers"
        raise DataError(f"{path} has {layers}: say which with --layers, for instance --layers 0,1,2.")
    return {number: _counts(path, layer) for number, layer in zip(numbers, content, strict=True)}


def _counts(path: Path, layer: Json) -> dict[int, int]:
    whole = all(key.isdecimal() and len(key) < 10 and type(count) is int for key, count in layer.items())
    if not whole:
        raise DataError(f'{path} has an entry that is not "expert": count, both whole numbers.')
    return {int(key): count for key, count in layer.items()}


IMPORTER = Importer(
    read,
    "Counts of AllenAI's routing analysis of OLMoE: a JSON list of {expert: count}, one per layer.",
    "olmoe expert_counts/*.json --top1 expert_counts_top1 --output olmoe.json",
    sequences=False,
)
