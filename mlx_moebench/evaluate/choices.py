"""How likely a model finds a continuation: tokens in context, and their log-probabilities with shared prefixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache

from ..data import encode_text
from ..errors import EvaluationError
from ..families.base import count
from ..instrument import config_of
from ..measure.facts import check_vocabulary
from ..routing.record import Array

Ids = tuple[int, ...]

PREFILL = 512
"""Tokens of a shared prefix that run at once."""

MEMORY = 1 << 30
"""Bytes that the logits and the copied cache of one batch may take; a model returns logits of every position."""


class Request(NamedTuple):
    """A continuation of one or more tokens, and the one or more tokens before it."""

    context: Ids
    continuation: Ids


class Score(NamedTuple):
    """log_likelihood: sum of the continuation's log-probabilities, nats. greedy: all its tokens were the likeliest."""

    log_likelihood: float
    greedy: bool


def encode_choices(tokenizer: Any, prompt: str, continuations: Sequence[str]) -> list[Request]:
    """One request for each continuation of ``prompt``, all with the same context.

    Prompt and continuation are tokenised together, as one text. Where a token spans the boundary, for any of the
    continuations, the context ends before that token, so that the same text is scored for all of them. A prompt
    without tokens is the beginning-of-text token, or the end-of-text token where there is none.
    """
    before = encode_text(tokenizer, prompt)
    whole = [encode_text(tokenizer, prompt + continuation) for continuation in continuations]
    shared = min(common_prefix([before, ids]) for ids in whole)
    shared = min(shared, *(len(ids) - 1 for ids in whole))
    if shared <= 0:
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return [Request((start,), ids) for ids in whole]
    return [Request(ids[:shared], ids[shared:]) for ids in whole]


def fitted(requests: Sequence[Request], length: int | None, bos: int | None) -> tuple[list[Request], bool]:
    """Requests of one context within ``length`` tokens, and whether the context had to be cut, from the front.

    A beginning-of-text token stays. Raises EvaluationError where the longest continuation leaves no room for context.
    """
    context = requests[0].context
    over = 0 if length is None else len(context) + max(len(r.continuation) for r in requests) - length
    if over <= 0:
        return list(requests), False
    head = context[:1] if context[0] == bos else ()
    if over + len(head) >= len(context):
        raise EvaluationError(f"{length} tokens leave no room for a question: allow more.")
    context = head + context[over + len(head) :]
    return [Request(context, r.continuation) for r in requests], True


def common_prefix(rows: Sequence[Ids]) -> int:
    """Length of the longest prefix that all rows share."""
    first, last = min(rows), max(rows)  # the two that differ earliest
    return next((i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), min(len(first), len(last)))


def score(
    model: nn.Module,
    requests: Sequence[Request],
    batch_size: int = 8,
    step: Callable[[int], None] = lambda done: None,
) -> list[Score]:
    """The log-likelihood of every request, in order.

    Requests that feed the model the same tokens, as the choices of a question do, are one row. What all rows start
    with runs once; the rest of each row runs in batches on copies of its cache, longest rows first, padded on the
    right, which a causal model does not see. A batch has at most batch_size rows and `MEMORY` bytes. step(done) is told
    how many requests are scored.

    Raises EvaluationError where a log-likelihood is not finite, and DataError for ids that the model does not have.
    """
    if not requests:
        return []
    check_vocabulary(config_of(model), max(max(r.context + r.continuation) for r in requests))
    readers = _readers(requests)
    rows = list(readers)
    shared = min(common_prefix(rows), *(len(r.context) - 1 for r in requests))
    cache = _run_prefix(model, rows[0][:shared])
    if cache is None:
        shared = 0
    scores: dict[int, Score] = {}
    for batch in _batches(model, rows, shared, cache, batch_size):
        read = [(row, number) for row, ids in enumerate(batch) for number in readers[ids]]
        owners, numbers = zip(*read, strict=True)
        of_batch = _read(model, cache, [ids[shared:] for ids in batch], owners, [requests[n] for n in numbers], shared)
        scores |= zip(numbers, of_batch, strict=True)
        step(len(scores))
    return [scores[number] for number in range(len(requests))]


def _readers(requests: Sequence[Request]) -> dict[Ids, list[int]]:
    """The rows that the model must be fed, longest first, each with the numbers of the requests that read it."""
    readers: dict[Ids, list[int]] = {}
    for number, request in enumerate(requests):
        readers.setdefault(request.context + request.continuation[:-1], []).append(number)
    return dict(sorted(readers.items(), key=lambda row: (-len(row[0]), row[0])))


def _run_prefix(model: nn.Module, ids: Ids) -> list[Any] | None:
    """The cache after ``ids``; None for no ids, or for a model whose cache cannot be copied to several rows."""
    cache: list[Any] = make_prompt_cache(model)
    if not ids or not all(type(layer) is KVCache for layer in cache):
        return None
    for start in range(0, len(ids), PREFILL):
        model(mx.array([ids[start : start + PREFILL]]), cache=cache)
        mx.eval([(layer.keys, layer.values) for layer in cache])  # and so neither logits nor the last experts
    return cache


def _copies(model: nn.Module, cache: list[Any], rows: int) -> list[Any]:
    """A fresh cache that holds what ``cache`` holds, for each of ``rows`` rows."""
    fresh: list[Any] = make_prompt_cache(model)
    for new, old in zip(fresh, cache, strict=True):
        new.update_and_fetch(*(mx.repeat(part[..., : old.offset, :], rows, axis=0) for part in (old.keys, old.values)))
    return fresh


def _batches(
    model: nn.Module, rows: Sequence[Ids], shared: int, cache: list[Any] | None, batch_size: int
) -> Iterator[Sequence[Ids]]:
    """``rows``, longest first, in batches of bounded size and memory."""
    vocabulary = count(config_of(model), "vocab_size")
    per_token = sum(layer.nbytes / layer.keys.shape[2] for layer in cache) if cache else 0.0
    start = 0
    while start < len(rows):
        length = len(rows[start])
        bytes_per_row = 4 * vocabulary * (length - shared) + per_token * length
        size = max(1, min(batch_size, int(MEMORY / max(bytes_per_row, 1))))
        yield rows[start : start + size]
        start += size


def _read(
    model: nn.Module,
    cache: list[Any] | None,
    rows: Sequence[Ids],
    owners: Sequence[int],
    requests: Sequence[Request],
    shared: int,
) -> Iterable[Score]:
    """Scores of ``requests``, request i of row owners[i]; rows [B, S] follow the ``shared`` tokens in the cache."""
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int32)
    for number, tokens in enumerate(rows):
        ids[number, : len(tokens)] = tokens
    logits = model(mx.array(ids), cache=None if cache is None else _copies(model, cache, len(rows)))
    lengths = [len(r.continuation) for r in requests]
    row = np.repeat(np.array(owners), lengths)
    starts = np.repeat([len(r.context) - 1 - shared for r in requests], lengths)
    firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    position = starts + np.arange(len(firsts)) - firsts
    token = np.concatenate([r.continuation for r in requests])
    picked: Array = logits[mx.array(row), mx.array(position)].astype(mx.float32)
    chosen = mx.take_along_axis(picked, mx.array(token)[:, None], axis=-1)[:, 0]
    log_p = chosen - mx.logsumexp(picked, axis=-1)
    best = mx.argmax(picked, axis=-1) == mx.array(token)
    ends = np.cumsum(lengths)[:-1]
    for logs, greedy in zip(np.split(np.array(log_p), ends), np.split(np.array(best), ends), strict=True):
        total = float(logs.astype(np.float64).sum())
        if not np.isfinite(total):
            raise EvaluationError(
                "The model's log-likelihoods are not finite: its weights are damaged, or its numbers overflow; fetch "
                "it again, or use --dtype float32."
            )
        yield Score(total, bool(greedy.all()))
