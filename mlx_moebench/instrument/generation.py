"""Generation whose prompt and continuation are measured apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm

from ..errors import MoebenchError
from ..routing.stats import Cluster
from ..types import Tokenizer
from .batches import Key, claiming
from .capture import sinks_of
from .live import LiveRoutingStats


def stream_generate(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int] | mx.array,
    max_tokens: int = 256,
    *,
    row: int | Cluster | None = None,
    **options: Any,
) -> Iterator[Any]:
    """`mlx_lm.stream_generate` on a model that `attach` tapped: prompt tokens are prefill, yielded ones decode.

    prompt: a text, or its token ids. row: the sequence's id in the statistics; by default a new one. options: as for
    mlx-lm (sampler, prefill_step_size, max_kv_size, draft_model, kv_bits, ...). Yields mlx-lm's responses, the same as
    without taps. Read the result in ``stats.phase_stats("decode")``. Where several are attached, ``row`` is for the
    last one. Tokens of a draft model that this model rejects do not count; the draft model's own routing is that of
    another model, and is recorded where that is tapped.

    Raises `MoebenchError` if the model is not tapped.
    """
    stats = _attached(model)
    ids = _ids_of(prompt, tokenizer)
    span = stats.describe(prompt_lengths=[ids.size], ids=None if row is None else [row])
    responses = mlx_lm.stream_generate(model, tokenizer, ids, max_tokens, **options)
    while True:
        # Only while mlx-lm runs: between two tokens the reader may run the model for something else.
        with stats.within(span):
            response = next(responses, None)
        if response is None:
            return
        yield response


def batch_generate(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    max_tokens: int | Sequence[int] = 128,
    *,
    rows: Sequence[int | Cluster] | None = None,
    **options: Any,
) -> Any:
    """`mlx_lm.batch_generate` on a model that `attach` tapped: each prompt is one sequence, its tokens apart by phase.

    prompts: texts, or their token ids. rows: the sequences' ids in the statistics; by default new ones. options: as for
    mlx-lm. Returns mlx-lm's response, the same as without taps. Padding is not counted. Read the result in
    ``stats.phase_stats("decode")``. Where several are attached, ``rows`` are for the last one.

    Raises `MoebenchError` if the model is not tapped, or there are more or fewer rows than prompts.
    """
    stats = _attached(model)
    if rows is not None and len(rows) != len(prompts):
        raise MoebenchError(f"{len(prompts)} prompts were given with {len(rows)} rows.")
    ids = [_ids_of(prompt, tokenizer).tolist() for prompt in prompts]

    def name(keys: Mapping[Key, int]) -> None:
        if rows is not None:
            stats.name_requests({key: rows[place] for key, place in keys.items()})

    with claiming(len(ids), name):
        limits = max_tokens if isinstance(max_tokens, int) else list(max_tokens)
        return mlx_lm.batch_generate(model, tokenizer, ids, max_tokens=limits, **options)


def _attached(model: nn.Module) -> LiveRoutingStats:
    """The statistics that were attached last."""
    attached = [getattr(sink, "__self__", None) for sink in sinks_of(model)]
    stats = next((one for one in reversed(attached) if isinstance(one, LiveRoutingStats)), None)
    if stats is None:
        raise MoebenchError("The model is not tapped: call stats = mlx_moebench.attach(model) first.")
    return stats


def _ids_of(prompt: str | Sequence[int] | mx.array, tokenizer: Tokenizer) -> mx.array:
    """The token ids of a prompt, [S]."""
    if isinstance(prompt, str):
        bos = tokenizer.bos_token
        prompt = tokenizer.encode(prompt, add_special_tokens=bos is None or not prompt.startswith(bos))
    ids = prompt if isinstance(prompt, mx.array) else mx.array(list(prompt), dtype=mx.int32)
    if ids.ndim != 1 or ids.size == 0:
        raise MoebenchError(f"A prompt is a list of one or more token ids, got an array of shape {tuple(ids.shape)}.")
    return ids
