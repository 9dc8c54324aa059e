"""Measurements on MLX."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from ..checkpoints import Checkpoint, LoadedModel, read_json
from ..checkpoints import size as sizes
from ..data import Batch
from ..environment import environment
from ..errors import MoebenchError
from ..instrument import LiveRoutingStats, config_of, model_facts, stream_generate
from ..instrument.capture import routers_of
from ..instrument.cpu_path import only_routing
from ..instrument.models import family_of
from ..models import load_checkpoint, open_checkpoint, select_device
from ..options import Loading, Step, Tell
from ..pair.model import named, origin
from ..pair.stats import RecordedStats, RoutingStats
from ..pair.storage import stats_of_blob, sums_blob
from ..routing.record import Array, Phase
from ..routing.recorder import Recorder
from ..types import HostArray, Json, Tokenizer
from .facts import loaded_facts
from .predictions import Places, log_likelihoods

LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""What mlx.launch, or its mpirun, sets for each rank. Without it MLX is not asked: it would start MPI to find out."""

MESSAGE = 2**26
"""Bytes of a rank that travel at once."""


def checkpoint_facts(model: Any, checkpoint: Any = None) -> Json:
    """The ``model`` section of a report; of an object that no one knows, by the folder of its tokenizer."""
    facts = model_facts(model)
    if isinstance(checkpoint, Checkpoint):
        return facts | loaded_facts(checkpoint)
    if isinstance(checkpoint, LoadedModel) and not origin(model):
        return facts | folder_of(checkpoint.tokenizer, facts["model_type"])
    return facts


def folder_of(tokenizer: Tokenizer, model_type: str) -> Json:
    """The id and revision of the folder that a tokenizer came from, if a model of that type lies there: mlx-lm loads
    both from one folder, and its models do not say from which."""
    place = str(getattr(tokenizer, "name_or_path", ""))
    config = Path(place) / "config.json"
    if not place or not config.is_file() or read_json(config).get("model_type") != model_type:
        return {}
    return named(place)


class MLX:
    """See `Backend`."""

    name = "mlx"
    recorder: Callable[..., RecordedStats] = LiveRoutingStats

    def __init__(self, alone: bool = False) -> None:
        """alone: this process measures by itself, whatever other ranks do."""
        self._alone = alone

    def select_device(self, name: str) -> str:
        return select_device(name)

    def load(self, model: str | Path | None, loading: Loading, step: Step) -> Checkpoint:
        return load_checkpoint(model, loading)

    def open(self, model: str | Path | None, loading: Loading, step: Step, tell: Tell) -> Checkpoint:
        return open_checkpoint(model, loading, tell)

    def config(self, model: Any) -> Json:
        return config_of(model)

    def facts(self, checkpoint: Any) -> Json:
        return checkpoint_facts(checkpoint.model, checkpoint)

    def parts(self, checkpoint: Any) -> list[sizes.Part]:
        model = checkpoint.model
        places = sizes.Places.of(family_of(model), routers_of(model))
        found = []
        for path, module in model.named_modules():
            for name, array in module.items():
                if isinstance(array, mx.array) and not ("scales" in module and name in ("scales", "biases")):
                    role, layer, share = places.role(f"{path}.{name}")
                    found.append(sizes.Part(f"{path}.{name}", role, layer, _shape(module, name), 0, share))
        return found

    def environment(self) -> Json:
        return environment()

    def forward(self, checkpoint: Any, batch: Batch, logits: bool) -> Array | None:
        """Not evaluated: unless they are read, MLX never computes the output head nor the last layer's experts."""
        ids = mx.array(batch.ids)
        if logits:
            return checkpoint.model(ids)
        with only_routing():
            return checkpoint.model(ids)

    def generate(self, checkpoint: Any, stats: Recorder, batch: Batch, max_tokens: int) -> HostArray:
        return np.array([[*_prompt(batch), *self.generating(checkpoint, stats, batch, max_tokens)]])

    def generating(self, checkpoint: Any, stats: Recorder, batch: Batch, max_tokens: int) -> Generator[int, None, None]:
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        for response in stream_generate(model, tokenizer, _prompt(batch), max_tokens, row=batch.rows[0]):
            yield int(response.token)

    def new_prefix(self, checkpoint: Any) -> list[Any] | None:
        prefix: list[Any] = make_prompt_cache(checkpoint.model)
        return prefix if all(type(layer) is KVCache for layer in prefix) else None

    def extend(self, checkpoint: Any, prefix: list[Any], ids: Sequence[int]) -> None:
        with only_routing():
            checkpoint.model(mx.array([list(ids)]), cache=prefix)
        mx.eval([(layer.keys, layer.values) for layer in prefix])  # and so neither logits nor the last experts

    def bytes_per_token(self, prefix: list[Any]) -> float:
        return float(sum(layer.nbytes / layer.keys.shape[2] for layer in prefix))

    def log_likelihoods(
        self, checkpoint: Any, ids: HostArray, places: Places, prefix: list[Any] | None = None
    ) -> tuple[HostArray, HostArray]:
        cache = None if prefix is None else _copies(checkpoint.model, prefix, len(ids))
        logits: Array = checkpoint.model(mx.array(ids), cache=cache)
        row, position, token = map(mx.array, places)
        log_p, best = log_likelihoods(logits[row, position], token)
        return np.array(log_p), np.array(best)

    def tokens_after(
        self, checkpoint: Any, ids: Sequence[int], max_tokens: int, temperature: float = 0.0
    ) -> Iterator[int]:
        tokenizer, sampler = checkpoint.tokenizer, make_sampler(temp=temperature)
        for response in mlx_lm.stream_generate(checkpoint.model, tokenizer, list(ids), max_tokens, sampler=sampler):
            if response.token in tokenizer.eos_token_ids:
                return
            yield int(response.token)

    def forget(self) -> None:
        mx.clear_cache()

    def ranks(self) -> tuple[int, int] | None:
        if self._alone or not any(name in os.environ for name in LAUNCHED):
            return None
        try:
            group = mx.distributed.init()
        except (ValueError, RuntimeError) as error:
            raise MoebenchError(
                f"{' and '.join(n for n in LAUNCHED if n in os.environ)} in the environment says that other processes "
                f"share the work, but they do not find each other ({error}): start them with mlx.launch, or unset it."
            ) from error
        return None if group.size() == 1 else (group.rank(), group.size())

    def gather(self, statistics: Mapping[Phase, RoutingStats]) -> dict[Phase, RoutingStats]:
        """They travel as stats pairs do, so that what arrives is exactly what was sent."""
        try:
            blobs = {phase: of_all_ranks(sums_blob(stats)) for phase, stats in statistics.items()}
        except RuntimeError as error:
            raise MoebenchError(
                "Another process ended before its part was measured; its own message says why. What this one measured "
                "is saved where the command has an output, and --resume continues from it."
            ) from error
        return {phase: RoutingStats.merge(_read(parts)) for phase, parts in blobs.items()}


def _prompt(batch: Batch) -> list[int]:
    """The ids of the one row of a batch."""
    ids: list[int] = batch.ids[0][batch.mask[0]].tolist()
    return ids


def _shape(module: Any, name: str) -> tuple[int, ...]:
    """Of a parameter, as it is when it is unpacked."""
    shape = tuple(module[name].shape)
    packed = name == "weight" and "scales" in module
    return (*shape[:-1], module.scales.shape[-1] * module.group_size) if packed else shape


def of_all_ranks(blob: bytes) -> list[bytes]:
    """``blob`` of every rank, on every rank."""
    sizes = np.array(mx.distributed.all_gather(mx.array([len(blob)], dtype=mx.int64), stream=mx.cpu))
    parts = [bytearray() for _ in sizes]
    for start in range(0, int(sizes.max()), MESSAGE):
        piece = np.zeros(min(MESSAGE, int(sizes.max()) - start), dtype=np.uint8)
        mine = np.frombuffer(blob[start : start + len(piece)], dtype=np.uint8)
        piece[: len(mine)] = mine
        every = np.array(mx.distributed.all_gather(mx.array(piece)[None], stream=mx.cpu))
        for part, row in zip(parts, every, strict=True):
            part += row.tobytes()
    return [bytes(part[:size]) for part, size in zip(parts, sizes.tolist(), strict=True)]


def _read(parts: list[bytes]) -> list[RoutingStats]:
    return [stats_of_blob(RoutingStats, part, f"the statistics of rank {rank}") for rank, part in enumerate(parts)]


def _copies(model: Any, prefix: list[Any], rows: int) -> list[Any]:
    """A fresh cache that holds what ``prefix`` holds, for each of ``rows`` rows."""
    fresh: list[Any] = make_prompt_cache(model)
    for new, old in zip(fresh, prefix, strict=True):
        new.update_and_fetch(*(mx.repeat(part[..., : old.offset, :], rows, axis=0) for part in (old.keys, old.values)))
    return fresh


BACKEND = MLX()
