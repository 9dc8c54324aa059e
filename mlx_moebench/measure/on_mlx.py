"""Measurements on MLX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from ..checkpoints import Checkpoint, LoadedModel, read_json
from ..data import Batch
from ..environment import environment
from ..instrument import LiveRoutingStats, config_of, model_facts, stream_generate
from ..models import load_checkpoint, select_device
from ..options import Loading, Step
from ..pair.model import named, origin
from ..pair.stats import RoutingStats
from ..routing.record import Array, Phase
from ..routing.recorder import Recorder
from ..types import HostArray, Json, Tokenizer
from .facts import loaded_facts
from .predictions import Places, log_likelihoods


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
    recorder = LiveRoutingStats

    def select_device(self, name: str) -> str:
        return select_device(name)

    def load(self, model: str | Path | None, loading: Loading, step: Step) -> Checkpoint:
        return load_checkpoint(model, loading)

    def config(self, model: Any) -> Json:
        return config_of(model)

    def facts(self, checkpoint: Any) -> Json:
        return checkpoint_facts(checkpoint.model, checkpoint)

    def environment(self) -> Json:
        return environment()

    def forward(self, checkpoint: Any, batch: Batch, logits: bool) -> Array | None:
        """Not evaluated: unless they are read, MLX never computes the output head nor the last layer's experts."""
        return checkpoint.model(mx.array(batch.ids))

    def generate(self, checkpoint: Any, stats: Recorder, batch: Batch, max_tokens: int) -> HostArray:
        prompt = batch.ids[0][batch.mask[0]].tolist()
        made = stream_generate(checkpoint.model, checkpoint.tokenizer, prompt, max_tokens, row=batch.rows[0])
        return np.array([[*prompt, *(response.token for response in made)]])

    def new_prefix(self, checkpoint: Any) -> list[Any] | None:
        prefix: list[Any] = make_prompt_cache(checkpoint.model)
        return prefix if all(type(layer) is KVCache for layer in prefix) else None

    def extend(self, checkpoint: Any, prefix: list[Any], ids: Sequence[int]) -> None:
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
        return None

    def gather(self, statistics: Mapping[Phase, RoutingStats]) -> dict[Phase, RoutingStats]:
        return dict(statistics)


def _copies(model: Any, prefix: list[Any], rows: int) -> list[Any]:
    """A fresh cache that holds what ``prefix`` holds, for each of ``rows`` rows."""
    fresh: list[Any] = make_prompt_cache(model)
    for new, old in zip(fresh, prefix, strict=True):
        new.update_and_fetch(*(mx.repeat(part[..., : old.offset, :], rows, axis=0) for part in (old.keys, old.values)))
    return fresh


BACKEND = MLX()
