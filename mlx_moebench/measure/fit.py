"""How many sequences a forward pass has, where that is left to their lengths and to memory."""

from __future__ import annotations

from typing import Any

from ..checkpoints.size import SLACK, widest
from ..data import RowsOf
from ..families.settings import HEADS, VOCABULARY, value_of
from ..options import AUTO, Reading
from .backends import Backend

MEMORY = 2**29
"""Bytes that what a batch is computed with may take. A number, not a share of what is free: a run that goes on must
cut the same batches."""

TOKENS = 2048
"""Padded tokens of a batch, at most: with more of them a small model is slower, since what it computes leaves the cache
of the processor (docs/benchmarks.md)."""

NUMBER = 4
"""Bytes of a number, at most; most of what is computed is float32 on a CPU, and half of that elsewhere."""


def rows_of(runner: Backend, checkpoint: Any, reading: Reading, logits: bool = False) -> RowsOf:
    """The sequences of a batch: as ``reading`` says, or by the length of the longest, so that what they are computed
    with fits into `MEMORY`: padded tokens, `TOKENS` at most, times what a token takes, which is the input and output of
    every matrix of the largest block and its attention scores. logits: whether those of the whole vocabulary are held,
    too."""
    if reading.batch_size != AUTO:
        return int(reading.batch_size)
    config = runner.config(checkpoint.model)
    numbers = widest(runner.parts(checkpoint)) + (int(value_of(config, VOCABULARY) or 0) if logits else 0)
    heads = int(value_of(config, HEADS))

    def rows(length: int) -> int:
        # Scores are there before and after their softmax.
        of_token = SLACK * NUMBER * (numbers + 2 * heads * length)
        return max(1, min(TOKENS // length, int(MEMORY / (of_token * length))))

    return rows
