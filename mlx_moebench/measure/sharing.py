"""What several processes share: the texts, of which each measures a part, or the model itself. Needs no MLX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints import Checkpoint
from ..errors import MoebenchError
from ..options import Options, Saving
from ..pair.storage import pair_paths
from .keep import check_replaceable


def shares_the_model(model: Any) -> bool:
    """Whether ``model`` is tensor parallel, as mlx-lm's ``sharded_load`` makes it: every rank holds a part of each
    layer, all run the same tokens, and each computes all gates.

    It is told by the group of processes that mlx-lm leaves in what it shards: ``sharding_group`` of an MoE block, and
    ``group`` of a sharded layer. Raises `MoebenchError` for a pipeline, of which a rank has some of the layers.
    """
    network = model.model if isinstance(model, Checkpoint) else model
    if not hasattr(network, "modules"):
        return False
    modules = list(network.modules())
    if any((getattr(module, "pipeline_size", 1) or 1) > 1 for module in modules):
        raise MoebenchError(
            "This model is a pipeline, of which each process has some of the layers: shard it by tensors "
            "(sharded_load(..., tensor_group=group)), or load it whole in every process."
        )
    groups = (getattr(module, name, None) for module in modules for name in ("sharding_group", "group"))
    return any(callable(size := getattr(group, "size", None)) and size() > 1 for group in groups)


def check_together(saving: Saving) -> None:
    """Raise `MoebenchError` for what is not kept of a model that several processes share."""
    if saving.trace is not None:
        raise MoebenchError("Several processes share this model, of which no trace is kept: leave it out.")


def rank_output(output: str | Path, rank: int, size: int) -> Path:
    """Where one of several processes keeps its part of the pair ``output``: OUT.rank-1-of-2.json."""
    stem = pair_paths(Path(output))[0].with_suffix("")
    return stem.with_name(f"{stem.name}.rank-{rank + 1}-of-{size}.json")


def of_rank(place: tuple[int, int], options: Options) -> Options:
    """The options of one of several processes: a shard, a pair and a trace of its own."""
    rank, size = place
    reading, saving = options.reading, options.saving
    if reading.shard is not None:
        raise MoebenchError(f"Each of {size} processes measures a shard of its own; leave out --shard {reading.shard}.")
    output = None if saving.output is None else rank_output(saving.output, rank, size)
    if output is not None and not saving.resume:
        check_replaceable(output)
    trace = None if saving.trace is None else Path(saving.trace) / f"rank-{rank + 1}-of-{size}"
    return replace(
        options,
        reading=replace(reading, shard=f"{rank + 1}/{size}"),
        saving=replace(saving, output=output, trace=trace),
    )
