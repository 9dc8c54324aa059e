"""Generation whose prompt and continuation are measured apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm

from ..errors import MoebenchError
from ..routing.stats import Cluster
from ..types import Tokenizer
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
    mlx-lm (sampler, prefill_step_size, max_kv_size, ...). Yields mlx-lm's responses, the same as without taps. Read the
    result in ``stats.phase_stats("decode")``. Where several are attached, ``row`` is for the last one.

    Raises `MoebenchError` if the model is not tapped, and for a draft model, whose rejected tokens would count.
    """
    attached = [getattr(sink, "__self__", None) for sink in sinks_of(model)]
    stats = next((one for one in reversed(attached) if isinstance(one, LiveRoutingStats)), None)
    if stats is None:
        raise MoebenchError("The model is not tapped: call stats = mlx_moebench.attach(model) first.")
    if any(isinstance(value, nn.Module) for value in options.values()):  # whatever it is called
        raise MoebenchError("Speculative decoding runs tokens that are thrown away; generate without a draft model.")
    if isinstance(prompt, str):
        bos = tokenizer.bos_token
        prompt = tokenizer.encode(prompt, add_special_tokens=bos is None or not prompt.startswith(bos))
    ids = prompt if isinstance(prompt, mx.array) else mx.array(list(prompt), dtype=mx.int32)
    if ids.ndim != 1 or ids.size == 0:
        raise MoebenchError(f"A prompt is a list of one or more token ids, got an array of shape {tuple(ids.shape)}.")
    span = stats.describe(prompt_lengths=[ids.size], ids=None if row is None else [row])
    responses = mlx_lm.stream_generate(model, tokenizer, ids, max_tokens, **options)
    while True:
        # Only while mlx-lm runs: between two tokens the reader may run the model for something else.
        with stats.within(span):
            response = next(responses, None)
        if response is None:
            return
        yield response
