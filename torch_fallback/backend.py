"""Measurements on torch: what `mlx_moebench.analysis` asks of a backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from mlx_moebench.checkpoints import Checkpoint, LoadedModel
from mlx_moebench.data import Batch
from mlx_moebench.errors import needed
from mlx_moebench.measure.facts import loaded_facts
from mlx_moebench.options import Loading, Step
from mlx_moebench.pair.stats import RoutingStats
from mlx_moebench.routing.record import Array, Phase
from mlx_moebench.routing.recorder import Recorder
from mlx_moebench.types import HostArray, Json, Network, Tokenizer

from . import ranks
from .caches import cache_argument, returned_cache
from .capture import config_of, transformers_model
from .environment import chosen_device, environment
from .live import TorchRoutingStats, model_facts
from .loading import load_checkpoint


class Torch:
    """See `mlx_moebench.measure.backends.Backend`."""

    name = "torch"
    recorder = TorchRoutingStats

    def __init__(self) -> None:
        self._device = torch.device("cpu")

    def select_device(self, name: str) -> str:
        self._device = chosen_device(name)
        return "cpu" if self._device.type == "cpu" else "gpu"

    def load(self, model: str | Path | None, loading: Loading, step: Step) -> Checkpoint:
        return load_checkpoint(model, loading, device=self._device, step=step)

    def config(self, model: Network) -> Json:
        return config_of(model)

    def facts(self, checkpoint: Checkpoint | LoadedModel) -> Json:
        loaded = loaded_facts(checkpoint) if isinstance(checkpoint, Checkpoint) else {}
        return model_facts(checkpoint.model) | loaded

    def environment(self) -> Json:
        return environment(self._device)

    def forward(self, checkpoint: Checkpoint | LoadedModel, batch: Batch, logits: bool) -> Array | None:
        """Without the output head unless its logits are read. Padding is on the right, where causal attention
        keeps it from every token that counts."""
        model = checkpoint.model if logits else checkpoint.model.base_model
        with torch.inference_mode(), _evaluating(checkpoint.model):
            output = model(input_ids=_ids(checkpoint.model, batch.ids), use_cache=False)
        return _logits(output) if logits else None

    def generate(
        self, checkpoint: Checkpoint | LoadedModel, stats: Recorder, batch: Batch, max_tokens: int
    ) -> HostArray:
        """As mlx-lm does: every token that is made is run through the model, the last one and an end of text, too."""
        model = checkpoint.model
        ends = _ends(model, checkpoint.tokenizer)
        ids = batch.ids[:1, : int(batch.mask[0].sum())]
        made: list[int] = []
        name = cache_argument(transformers_model(model))
        described = stats.batch(prompt_lengths=[ids.shape[1]], ids=[batch.rows[0]])
        with torch.inference_mode(), _evaluating(model), described:
            output = model(input_ids=_ids(model, ids), use_cache=True)
            while len(made) < max_tokens and not (made and made[-1] in ends):
                made.append(int(_logits(output)[0, -1].argmax()))
                step = _ids(model, np.array([made[-1:]]))
                output = model(input_ids=step, use_cache=True, **{name: returned_cache(output)})
        return np.concatenate([ids, np.array([made], dtype=ids.dtype)], axis=1)

    def ranks(self) -> tuple[int, int] | None:
        place = ranks.of_this_process()
        if place is not None:
            ranks.group()
        return place

    def gather(self, statistics: Mapping[Phase, RoutingStats]) -> dict[Phase, RoutingStats]:
        return ranks.gather(statistics)


@contextmanager
def _evaluating(model: Network) -> Iterator[None]:
    """Without dropout and router noise, which a model that is being trained has; afterwards as before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _ids(model: Network, ids: HostArray) -> torch.Tensor:
    """On the embedding's device; where that waits on the CPU or on disk, accelerate moves them on."""
    device = model.get_input_embeddings().weight.device
    return torch.as_tensor(ids, dtype=torch.long, device="cpu" if device.type == "meta" else device)


def _logits(output: object) -> torch.Tensor:
    logits: torch.Tensor = needed(output, "logits", "transformers", "the model's predictions are read from")
    return logits


def _ends(model: Network, tokenizer: Tokenizer) -> set[int]:
    """Ids that end a text: as in mlx-lm those of generation_config.json, else the config's, else the tokenizer's."""
    why = "says where a text ends"
    generation = needed(transformers_model(model), "generation_config", "transformers", why)
    named = None if generation is None else needed(generation, "eos_token_id", "transformers", why)
    if named is None:
        named = getattr(model.config, "eos_token_id", None)  # not every config has one
    if named is None:
        named = needed(tokenizer, "eos_token_id", "transformers", why)
    return set(named if isinstance(named, list) else [named]) - {None}


BACKEND = Torch()
