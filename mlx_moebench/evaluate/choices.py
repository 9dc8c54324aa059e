"""How likely a model finds a continuation: tokens in context, and their log-probabilities with shared prefixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data import encode_text
from ..errors import EvaluationError
from ..families.settings import VOCABULARY, count
from ..measure.backends import Backend
from ..measure.facts import check_vocabulary
from ..measure.predictions import Places
from ..types import HostArray

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
    runner: Backend,
    checkpoint: Any,
    requests: Sequence[Request],
    batch_size: int = 8,
    step: Callable[[int], None] = lambda done: None,
) -> list[Score]:
    """The log-likelihood of every request, in order, from a checkpoint that ``runner`` loaded.

    Requests that feed the model the same tokens, as the choices of a question do, are one row. What all rows start
    with runs once; the rest of each row runs in batches on copies of its cache, longest rows first, padded on the
    right, which a causal model does not see. A batch has at most batch_size rows and `MEMORY` bytes. step(done) is told
    how many requests are scored.

    Raises EvaluationError where a log-likelihood is not finite, and DataError for ids that the model does not have.
    """
    if not requests:
        return []
    config = runner.config(checkpoint.model)
    check_vocabulary(config, max(max(r.context + r.continuation) for r in requests))
    readers = _readers(requests)
    rows = list(readers)
    shared = min(common_prefix(rows), *(len(r.context) - 1 for r in requests))
    prefix = _run_prefix(runner, checkpoint, rows[0][:shared])
    if prefix is None:
        shared = 0
    kept = 0.0 if prefix is None else runner.bytes_per_token(prefix)
    scores: dict[int, Score] = {}
    for batch in _batches(rows, shared, 4 * count(config, VOCABULARY.keys), kept, batch_size):
        read = [(row, number) for row, ids in enumerate(batch) for number in readers[ids]]
        owners, numbers = zip(*read, strict=True)
        asked = [requests[number] for number in numbers]
        logs, best = runner.log_likelihoods(checkpoint, _padded(batch, shared), _places(owners, asked, shared), prefix)
        scores |= zip(numbers, _summed(logs, best, asked), strict=True)
        step(len(scores))
    return [scores[number] for number in range(len(requests))]


def _readers(requests: Sequence[Request]) -> dict[Ids, list[int]]:
    """The rows that the model must be fed, longest first, each with the numbers of the requests that read it."""
    readers: dict[Ids, list[int]] = {}
    for number, request in enumerate(requests):
        readers.setdefault(request.context + request.continuation[:-1], []).append(number)
    return dict(sorted(readers.items(), key=lambda row: (-len(row[0]), row[0])))


def _run_prefix(runner: Backend, checkpoint: Any, ids: Ids) -> Any:
    """The cache after ``ids``; None for no ids, or for a model whose cache cannot be copied to several rows."""
    prefix = runner.new_prefix(checkpoint) if ids else None
    if prefix is not None:
        for start in range(0, len(ids), PREFILL):
            runner.extend(checkpoint, prefix, ids[start : start + PREFILL])
    return prefix


def _batches(rows: Sequence[Ids], shared: int, logits: int, kept: float, batch_size: int) -> Iterator[Sequence[Ids]]:
    """``rows``, longest first, in batches of bounded size and memory: bytes of ``logits`` and ``kept`` for a token."""
    start = 0
    while start < len(rows):
        length = len(rows[start])
        bytes_per_row = logits * (length - shared) + kept * length
        size = max(1, min(batch_size, int(MEMORY / max(bytes_per_row, 1))))
        yield rows[start : start + size]
        start += size


def _padded(rows: Sequence[Ids], shared: int) -> HostArray:
    """The rows [B, S] without their first ``shared`` tokens."""
    ids = np.zeros((len(rows), max(map(len, rows)) - shared), dtype=np.int32)
    for number, tokens in enumerate(rows):
        ids[number, : len(tokens) - shared] = tokens[shared:]
    return ids


def _places(owners: Sequence[int], requests: Sequence[Request], shared: int) -> Places:
    """Where the tokens of each continuation are predicted; request i in row owners[i], without ``shared`` tokens."""
    lengths = [len(r.continuation) for r in requests]
    starts = np.repeat([len(r.context) - 1 - shared for r in requests], lengths)
    firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Places(
        row=np.repeat(np.array(owners), lengths),
        position=starts + np.arange(len(firsts)) - firsts,
        token=np.concatenate([r.continuation for r in requests]),
    )


def _summed(log_p: HostArray, best: HostArray, requests: Sequence[Request]) -> Iterator[Score]:
    """The score of each continuation, of what its tokens got."""
    ends = np.cumsum([len(r.continuation) for r in requests])[:-1]
    for logs, greedy in zip(np.split(log_p, ends), np.split(best, ends), strict=True):
        total = float(logs.astype(np.float64).sum())
        if not np.isfinite(total):
            raise EvaluationError(
                "The model's log-likelihoods are not finite: its weights are damaged, or its numbers overflow; fetch "
                "it again, or use --dtype float32."
            )
        yield Score(total, bool(greedy.all()))
