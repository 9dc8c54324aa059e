"""A model against a smaller one made from it: the same logits, and how fast each generates."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np

from ..instrument.interventions import Change, changing
from ..routing.record import Array
from ..types import HostArray, Json

ROUNDS, TOKENS = 12, 32


def logits_apart(model: Any, change: Change, other: Any, ids: Array) -> Json:
    """How far the logits of ``other`` are from those of ``model`` under ``change``, at ids [B, S]: the largest absolute
    difference, and the largest absolute logit."""
    with changing(model, change):
        masked = model(ids)
        mx.eval(masked)
    masked, made = (z.astype(mx.float32) for z in (masked, other(ids)))
    return {"difference": float(mx.abs(masked - made).max()), "largest": float(mx.abs(masked).max())}


def generation_speed(first: Any, second: Any, prompt: HostArray) -> Json:
    """Tokens a second of both models, greedy, one sequence; the models take turns, after a round that does not count.

    ratio: of the second over the first, median over rounds with quartiles: above 1 the second is faster. control: the
    same of the first over itself, which runs twice a round: as far as that is from 1, chance and the machine go.
    """
    arms = (first, second, first)
    rates: list[list[float]] = []
    for number in range(-1, ROUNDS):
        of_round = dict.fromkeys(range(len(arms)), 0.0)
        for place in range(len(arms)):
            arm = (place + number) % len(arms)
            of_round[arm] = _rate(arms[arm], prompt)
        if number >= 0:
            rates.append(list(of_round.values()))
    before, after, again = np.array(rates).T
    return {
        "tokens_per_second": float(np.median(before)),
        "tokens_per_second_after": float(np.median(after)),
        "ratio": _quartiles(after / before),
        "control": _quartiles(again / before),
        "rounds": ROUNDS,
        "max_tokens": TOKENS,
    }


def _quartiles(ratios: HostArray) -> Json:
    low, value, high = np.percentile(ratios, (25, 50, 75))
    return {"value": float(value), "low": float(low), "high": float(high)}


def _rate(checkpoint: Any, prompt: HostArray) -> float:
    """Tokens a second after the first one, whose time is that of the prompt."""
    made, start = 0, 0.0
    for made, _ in enumerate(
        mlx_lm.stream_generate(checkpoint.model, checkpoint.tokenizer, prompt.tolist(), max_tokens=TOKENS)
    ):
        if made == 0:
            start = perf_counter()
    return made / max(perf_counter() - start, 1e-9) if made else float("nan")
