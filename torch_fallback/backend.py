"""Measurements on torch: what `mlx_moebench.analysis` asks of a backend."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import Cache

from mlx_moebench.allocator import keep_freed_memory
from mlx_moebench.checkpoints import Checkpoint, LoadedModel
from mlx_moebench.checkpoints import size as sizes
from mlx_moebench.data import Batch
from mlx_moebench.errors import needed
from mlx_moebench.families import family_for
from mlx_moebench.measure.facts import loaded_facts
from mlx_moebench.measure.predictions import Places, log_likelihoods
from mlx_moebench.options import Loading, Step, Tell
from mlx_moebench.pair.stats import RoutingStats
from mlx_moebench.routing.record import Array, Phase
from mlx_moebench.routing.recorder import Recorder
from mlx_moebench.types import HostArray, Json, Network, Tokenizer

from . import ranks
from .caches import bytes_per_token, cache_argument, copies, empty_cache, returned_cache
from .capture import config_of, locate, transformers_model, until_last_router
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
        if self._device.type != "cpu":
            return "gpu"
        keep_freed_memory()  # a third of a forward of a few thousand tokens would be the system clearing pages
        return "cpu"

    def load(self, model: str | Path | None, loading: Loading, step: Step) -> Checkpoint:
        return load_checkpoint(model, loading, device=self._device, step=step)

    def config(self, model: Network) -> Json:
        return config_of(model)

    def facts(self, checkpoint: Checkpoint | LoadedModel) -> Json:
        loaded = loaded_facts(checkpoint) if isinstance(checkpoint, Checkpoint) else {}
        return model_facts(checkpoint.model) | loaded

    def parts(self, checkpoint: Checkpoint | LoadedModel) -> list[sizes.Part]:
        """Of a model in 4 bit the packed shapes, of which a token is thought to take less than it does."""
        family, specs = family_for(config_of(checkpoint.model)), [one.spec for one in locate(checkpoint.model)]
        places, found = sizes.Places.of(family, specs, torch=True), []
        for name, value in checkpoint.model.named_parameters():
            role, layer, share = places.role(name, value.shape)
            found.append(sizes.Part(name, role, layer, tuple(value.shape), 0, share))
        return found

    def environment(self) -> Json:
        return environment(self._device)

    def open(self, model: str | Path | None, loading: Loading, step: Step, tell: Tell) -> Checkpoint:
        """Whole: transformers' models are not streamed."""
        return self.load(model, loading, step)

    def forward(self, checkpoint: Checkpoint | LoadedModel, batch: Batch, logits: bool) -> Array | None:
        """Without the output head, the experts of the last router and what follows them unless logits are read. Padding
        is on the right, where causal attention keeps it from every token that counts."""
        model, ids = checkpoint.model, _ids(checkpoint.model, batch.ids)
        with torch.inference_mode(), _evaluating(model):
            if logits:
                return _logits(model(input_ids=ids, use_cache=False))
            with until_last_router(model):
                model.base_model(input_ids=ids, use_cache=False)
        return None

    def generate(
        self, checkpoint: Checkpoint | LoadedModel, stats: Recorder, batch: Batch, max_tokens: int
    ) -> HostArray:
        """As mlx-lm does: every token that is made is run through the model, the last one and an end of text, too."""
        ids = _prompt(batch)
        with stats.batch(prompt_lengths=[ids.shape[1]], ids=[batch.rows[0]]):  # all of it counts, or nothing
            made = list(_continuation(checkpoint, ids, max_tokens, 0.0))
        return np.concatenate([ids, np.array([made], dtype=ids.dtype)], axis=1)

    def generating(
        self, checkpoint: Checkpoint | LoadedModel, stats: Recorder, batch: Batch, max_tokens: int
    ) -> Generator[int, None, None]:
        ids = _prompt(batch)
        span = stats.describe(prompt_lengths=[ids.shape[1]], ids=[batch.rows[0]])
        made = _continuation(checkpoint, ids, max_tokens, 0.0)
        while True:
            with stats.within(span):  # and not while the reader has a token
                token = next(made, None)
            if token is None:
                return
            yield token

    def new_prefix(self, checkpoint: Checkpoint | LoadedModel) -> Cache | None:
        return empty_cache(checkpoint.model)

    def extend(self, checkpoint: Checkpoint | LoadedModel, prefix: Cache, ids: Sequence[int]) -> None:
        model = checkpoint.model
        base = transformers_model(model).base_model
        with torch.inference_mode(), _evaluating(model):
            base(input_ids=_ids(model, np.array([ids])), use_cache=True, **{cache_argument(base): prefix})

    def bytes_per_token(self, prefix: Cache) -> float:
        return bytes_per_token(prefix)

    def log_likelihoods(
        self, checkpoint: Checkpoint | LoadedModel, ids: HostArray, places: Places, prefix: Cache | None = None
    ) -> tuple[HostArray, HostArray]:
        model = checkpoint.model
        with torch.inference_mode(), _evaluating(model):
            cache: Json = {"use_cache": False}
            if prefix is not None:
                cache = {"use_cache": True, cache_argument(transformers_model(model)): copies(prefix, len(ids))}
            logits = _logits(model(input_ids=_ids(model, ids), **cache))
            row, position, token = (torch.as_tensor(place, device=logits.device) for place in places)
            log_p, best = log_likelihoods(logits[row, position], token)
        return log_p.cpu().numpy(), best.cpu().numpy()

    def tokens_after(
        self, checkpoint: Checkpoint | LoadedModel, ids: Sequence[int], max_tokens: int, temperature: float = 0.0
    ) -> Iterator[int]:
        ends = _ends(checkpoint.model, checkpoint.tokenizer)
        return (
            token for token in _continuation(checkpoint, np.array([ids]), max_tokens, temperature) if token not in ends
        )

    def forget(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def ranks(self) -> tuple[int, int] | None:
        place = ranks.of_this_process()
        if place is not None:
            ranks.group()
        return place

    def gather(self, statistics: Mapping[Phase, RoutingStats]) -> dict[Phase, RoutingStats]:
        return ranks.gather(statistics)


def _prompt(batch: Batch) -> HostArray:
    """The ids [1, S] of the one row of a batch."""
    return batch.ids[:1, : int(batch.mask[0].sum())]


def _continuation(
    checkpoint: Checkpoint | LoadedModel, ids: HostArray, max_tokens: int, temperature: float
) -> Iterator[int]:
    """The tokens after ``ids`` [1, S], that which ends the text included; each has been run when it is given."""
    model = checkpoint.model
    ends = _ends(model, checkpoint.tokenizer)
    name = cache_argument(transformers_model(model))
    with _evaluating(model):
        output = _run(model, ids)
        for _ in range(max_tokens):
            token = _chosen(_logits(output)[0, -1], temperature)
            output = _run(model, np.array([[token]]), **{name: returned_cache(output)})
            yield token
            if token in ends:
                return


def _run(model: Network, ids: HostArray, **cache: Cache) -> object:
    with torch.inference_mode():  # ends before a token is given, for what its reader does
        return model(input_ids=_ids(model, ids), use_cache=True, **cache)


def _chosen(logits: torch.Tensor, temperature: float) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits.float() / temperature, dim=-1), 1))


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
    """Ids that end a text: as in mlx-lm those of generation_config.json, else the config's, and the tokenizer's."""
    why = "says where a text ends"
    generation = needed(transformers_model(model), "generation_config", "transformers", why)
    named = None if generation is None else needed(generation, "eos_token_id", "transformers", why)
    if named is None:
        named = getattr(model.config, "eos_token_id", None)  # not every config has one
    ends = named if isinstance(named, list) else [named]
    return {*ends, needed(tokenizer, "eos_token_id", "transformers", why)} - {None}


BACKEND = Torch()
