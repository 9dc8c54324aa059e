"""What the demo shows of a text that the model goes on with: tokens as they come, and both phases apart at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX to route texts")

import mlx_moebench
from mlx_moebench.errors import DataError
from mlx_moebench.measure.text import continue_text, route_text
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.routing.tokens import TokenSequence

TEXT = "A farmer has 3 sheep, and é"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None)


def test_the_prompt_is_routed_as_without_going_on_and_the_rest_as_by_generate(checkpoint: Checkpoint) -> None:
    heard: list[TokenSequence] = []
    prompt, made = continue_text(checkpoint, TEXT, new_tokens=12, heard=lambda new: heard.append(new.tokens) or True)
    alone = route_text(checkpoint, TEXT)
    assert list(prompt.tokens.texts) == list(alone.tokens.texts)
    for one, other in zip(prompt.tokens.choices, alone.tokens.choices, strict=True):
        np.testing.assert_array_equal(one.experts, other.experts)
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-5)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    with mlx_moebench.attach(model) as stats:
        ids = [r.token for r in mlx_moebench.stream_generate(model, tokenizer, tokenizer.encode(TEXT), 12)]
    assert len(ids) == len(made.tokens.texts) == made.stats.n_tokens
    decoded = stats.phase_stats("decode")
    for number in range(6):
        np.testing.assert_array_equal(made.stats.totals(number).counts, decoded.totals(number).counts)
        chosen = np.bincount(made.tokens.choices[number].experts.ravel(), minlength=16)
        np.testing.assert_array_equal(chosen, decoded.totals(number).counts)
    assert (prompt.stats.phase, made.stats.phase) == ("prefill", "decode")
    assert (made.tokens.start, made.tokens.after) == (len(prompt.tokens.texts), 0)


def test_tokens_are_told_once_each_and_in_order(checkpoint: Checkpoint) -> None:
    heard: list[TokenSequence] = []
    prompt, made = continue_text(checkpoint, TEXT, new_tokens=9, heard=lambda new: heard.append(new.tokens) or True)
    assert [new.start for new in heard] == [0, *range(len(prompt.tokens.texts) + 1, len(prompt.tokens.texts) + 9)]
    for number in range(6):
        told = np.concatenate([new.choices[number].experts for new in heard])
        whole = np.concatenate([part.tokens.choices[number].experts for part in (prompt, made)])
        np.testing.assert_array_equal(told, whole)


def test_it_stops_when_it_is_told_and_leaves_the_model_as_it_was(checkpoint: Checkpoint) -> None:
    _, made = continue_text(checkpoint, TEXT, new_tokens=50, heard=lambda new: len(new.tokens.texts) > 1)
    assert made.stats.n_tokens == len(made.tokens.texts) == 2
    alone = route_text(checkpoint, TEXT)
    assert alone.stats.n_tokens == len(alone.tokens.texts)


def test_a_model_without_a_position_left_is_one_sentence(checkpoint: Checkpoint) -> None:
    most = int(checkpoint.model.args.max_position_embeddings)
    _, made = continue_text(checkpoint, "word " * most, max_tokens=most - 2, new_tokens=5)
    assert made.stats.n_tokens == 2
    with pytest.raises(DataError, match=r"positions, and the text takes all"):
        continue_text(checkpoint, "word " * most, max_tokens=most, new_tokens=5)


@pytest.mark.usefixtures("cpu")
def test_torch_goes_on_as_mlx_does(checkpoint: Checkpoint) -> None:
    torch_fallback: Any = pytest.importorskip("torch_fallback", reason="the extra `torch` is not installed")
    theirs = torch_fallback.load_checkpoint(None)
    ours, others = (continue_text(one, TEXT, new_tokens=8) for one in (checkpoint, theirs))
    for a, b in zip(ours, others, strict=True):
        assert list(a.tokens.texts) == list(b.tokens.texts)
        for x, y in zip(a.tokens.choices, b.tokens.choices, strict=True):
            np.testing.assert_array_equal(x.experts, y.experts)
