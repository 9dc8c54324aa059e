"""What the demo shows of a text that the model goes on with: tokens as they come, and both phases apart at the end."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX to route texts")

import mlx_moebench
from mlx_moebench.demo.growing import grow
from mlx_moebench.demo.routed import Models
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


def test_what_is_told_of_two_texts_is_a_header_and_a_line_a_token() -> None:
    told: list[str] = []
    shown = grow(
        Models(), "moebench-nano", "two texts", ("A farmer has", "def f(x):"), 32, lambda t: told.append(t) or True, 6
    )
    header, *lines = map(json.loads, "".join(told).splitlines())
    assert header["growing"] == ["text A", "text B"]
    assert [router["n_experts"] for router in header["routers"]] == [16] * 6
    data = json.loads(shown.tokens)
    assert [s["name"] for s in data["sequences"]] == ["text A", "text A, generated", "text B", "text B, generated"]
    assert [s["after"] for s in data["sequences"]] == [None, 0, None, 2]
    sizes = [s["n_tokens"] for s in data["sequences"]]
    assert sizes[1] == sizes[3] == 6
    assert [(side, made) for side, _, made, _, _ in lines] == [
        *[(0, 0)] * sizes[0], *[(0, 1)] * 6, *[(1, 0)] * sizes[2], *[(1, 1)] * 6,
    ]  # fmt: skip
    assert [text for _, text, *_ in lines][: sizes[0]] == list(
        route_text(load_checkpoint(None), "A farmer has").tokens.texts
    )
    experts = np.frombuffer(base64.b64decode(data["routers"][3]["experts"]), np.uint8).reshape(-1, 2)
    assert [first[3] for _, _, _, first, _ in lines] == experts[:, 0].tolist()


def test_one_text_has_prompt_and_what_was_generated_beside_each_other() -> None:
    shown = grow(Models(), "moebench-nano", "one text", ("A farmer has", ""), 32, lambda told: True, 5)
    assert "generated minus the text" in shown.heatmap
    assert "generated: 5 tokens" in shown.message
    assert "at most 5 tokens" in shown.message


def test_an_empty_text_cannot_be_continued() -> None:
    with pytest.raises(DataError, match=r"^Text B: There is no token"):
        grow(Models(), "moebench-nano", "two texts", ("a", " "), 32, lambda told: True, 5)
