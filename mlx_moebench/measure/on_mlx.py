"""Measurements on MLX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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
        import mlx.core as mx

        return checkpoint.model(mx.array(batch.ids))

    def generate(self, checkpoint: Any, stats: Recorder, batch: Batch, max_tokens: int) -> HostArray:
        prompt = batch.ids[0][batch.mask[0]].tolist()
        made = stream_generate(checkpoint.model, checkpoint.tokenizer, prompt, max_tokens, row=batch.rows[0])
        return np.array([[*prompt, *(response.token for response in made)]])

    def ranks(self) -> tuple[int, int] | None:
        return None

    def gather(self, statistics: Mapping[Phase, RoutingStats]) -> dict[Phase, RoutingStats]:
        return dict(statistics)


BACKEND = MLX()
