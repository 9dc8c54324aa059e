"""One text through a loaded model, token by token: what the token view shows without a trace."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..checkpoints import Checkpoint
from ..data import Batch, encode_text
from ..data.pieces import piece_texts
from ..errors import DataError
from ..pair.stats import RoutingStats
from ..routing.tokens import Choices, TokenBlock, TokenSequence, ranked
from ..types import Json
from .backends import backend_named
from .facts import check_vocabulary

CHARACTERS = 64
"""Characters that are read for each token allowed: hardly a token has more, and a tokenizer need not see the rest."""


@dataclass(frozen=True)
class RoutedText:
    """A text, its statistics (one sequence, phase prefill), its tokens, and what was cut off, as a sentence or ''."""

    stats: RoutingStats
    tokens: TokenSequence
    cut: str


def route_text(checkpoint: Checkpoint, text: str, *, name: str = "text", max_tokens: int = 256) -> RoutedText:
    """Run the first ``max_tokens`` tokens of ``text`` through the model once; the model is left as it was.

    Raises `DataError` for a text without tokens, or ids that the model lacks.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    text = text.encode("utf-8", "replace").decode()  # tokenizers refuse lone surrogates
    read = text[: CHARACTERS * max_tokens]
    every = encode_text(tokenizer, read) if text.strip() else ()
    if not every:
        raise DataError("There is no token in an empty text: type some words.")
    runner = backend_named(checkpoint.backend)
    config = runner.config(model)
    positions = config.get("max_position_embeddings") or max_tokens
    kept = every[: min(max_tokens, positions)]
    check_vocabulary(config, max(kept))
    blocks: list[TokenBlock] = []
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    stats = runner.recorder(
        model,
        tokens=blocks.append,
        model=runner.facts(checkpoint),
        sources={sha256: {"name": name, "documents": 1, "truncated_sequences": int(len(kept) < len(every))}},
        environment=runner.environment(),
    )
    ids = np.array([kept], dtype=np.int32)
    with stats, stats.batch(ids=[0]):
        runner.forward(checkpoint, Batch(ids, np.ones(ids.shape, bool), (0,), (0,), 0), logits=False)
    words, continued = piece_texts(tokenizer, kept)
    total = len(every) if len(read) == len(text) else None
    tokens = TokenSequence(name, words, _choices(blocks), continued, total=total)
    return RoutedText(RoutingStats.merge([stats]), tokens, _cut(name, len(kept), len(every), total))


def _choices(blocks: Sequence[TokenBlock]) -> list[Choices]:
    """Of each router, in running order, of the one sequence that ran."""
    choices = []
    for block in sorted(blocks, key=lambda block: block.number):
        experts, weights = ranked(block.experts[0], block.p[0], block.weights[0])
        scalars: Json = block.scalars
        choices.append(Choices(experts, weights, scalars["entropy"][0], scalars["selection_margin"][0]))
    return choices


def _cut(name: str, kept: int, read: int, total: int | None) -> str:
    if total == kept:
        return ""
    had = f"{total:,} tokens" if total is not None else f"more than {read:,} tokens"
    return f"{name[:1].upper()}{name[1:]} has {had}; the first {kept:,} were run."
