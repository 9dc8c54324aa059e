"""Generation: prompt and continuation apart, however mlx-lm cuts the prompt; outputs as without taps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from family_rows import BY_TYPE

import mlx_moebench
from mlx_moebench.errors import MoebenchError
from mlx_moebench.instrument import attach, detach
from mlx_moebench.routing import Routing, tally

import mlx.core as mx  # isort: skip
import mlx_lm  # isort: skip
from mlx_lm.generate import generate_step  # isort: skip

STEP = 4


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return mlx_moebench.load()[1]


@pytest.fixture
def model(make_form: Callable[..., Any]) -> Any:
    """A tiny model of each form of routing with the vocabulary of the embedded model's tokenizer."""
    return wide(make_form)


def wide(make: Callable[..., Any]) -> Any:
    """A tiny model that knows every token of the embedded model's tokenizer."""
    row = BY_TYPE[make.keywords["model_type"]]  # type: ignore[attr-defined]
    changed = {key: 4096 for key in ("vocab_size", "num_vocab") if key in row.config}
    if section := row.config.get("text_config"):
        changed["text_config"] = section | {key: 4096 for key in ("vocab_size", "num_vocab") if key in section}
    return make(**changed)


def untapped(model: Any, tokenizer: Any, prompt: list[int], n: int) -> list[tuple[int, np.ndarray]]:
    responses = mlx_lm.stream_generate(model, tokenizer, mx.array(prompt), n, prefill_step_size=STEP)
    return [(r.token, np.array(r.logprobs)) for r in responses]


@pytest.mark.parametrize("length", [1, STEP + 1, pytest.param(3 * STEP, marks=pytest.mark.slow)])
def test_prompt_and_yielded_tokens_are_counted_apart(model: Any, tokenizer: Any, length: int) -> None:
    prompt = list(range(40, 40 + length))
    expected = untapped(model, tokenizer, prompt, 7)
    stats = attach(model)
    responses = list(mlx_moebench.stream_generate(model, tokenizer, prompt, 7, prefill_step_size=STEP))
    stats.close()
    assert [r.token for r in responses] == [token for token, _ in expected]
    for response, (_, logprobs) in zip(responses, expected, strict=True):
        np.testing.assert_array_equal(np.array(response.logprobs), logprobs)
    decode = stats.phase_stats("decode")
    for number in range(len(stats.specs)):
        assert int(stats.totals(number).n_tokens) == length
        assert int(decode.totals(number).n_tokens) == len(responses)
    assert (stats.phase, decode.phase) == ("prefill", "decode")
    assert len(stats.clusters) == len(decode.clusters) == 1
    assert stats.phase_stats("unsplit").clusters == []
    stats.check()
    decode.check()


def test_a_prompt_in_chunks_counts_as_in_one_piece(model: Any, tokenizer: Any) -> None:
    """Adjacent tokens too, across the edges of the chunks; and a decoded sequence as if it had been a prompt."""
    prompt = [int(i) for i in np.random.default_rng(0).integers(1, 4000, 14)]
    with attach(model) as stats:
        tokens = [r.token for r in mlx_moebench.stream_generate(model, tokenizer, prompt, 9, prefill_step_size=STEP)]
    with attach(model) as whole:
        model(mx.array([prompt + tokens]))
    with attach(model) as alone:
        model(mx.array([prompt]))
    decode = stats.phase_stats("decode")
    for number in range(len(stats.specs)):
        a, b, c = (s.totals(number) for s in (stats, decode, whole))
        np.testing.assert_array_equal(a.counts + b.counts, c.counts)
        np.testing.assert_array_equal(a.top1_counts + b.top1_counts, c.top1_counts)
        np.testing.assert_allclose(a.p_sum + b.p_sum, c.p_sum, rtol=1e-4)
        for name in ("adjacent_shared", "adjacent_pairs"):
            assert a.scalar(name) == alone.totals(number).scalar(name)
        assert a.scalar("adjacent_pairs") == 13
        assert b.scalar("adjacent_pairs") == len(tokens) - 1
    np.testing.assert_array_equal(stats.transition_counts(0), alone.transition_counts(0))


def test_a_reader_that_stops_early_loses_nothing(model: Any, tokenizer: Any) -> None:
    with attach(model) as stats:
        stream = mlx_moebench.stream_generate(model, tokenizer, [5, 6, 7], 20)
        for _ in range(4):
            next(stream)
        stream.close()
    assert int(stats.totals(0).n_tokens) == 3
    assert int(stats.phase_stats("decode").totals(0).n_tokens) == 4


def test_two_generations_at_a_time_and_one_left_open(model: Any, tokenizer: Any) -> None:
    """Each counts its own tokens, and what the reader runs in between is not theirs."""
    with attach(model) as stats:
        first = mlx_moebench.stream_generate(model, tokenizer, [4, 5, 6], 6, row=0)
        second = mlx_moebench.stream_generate(model, tokenizer, [4, 5, 6, 7], 6, row=1)
        for _ in zip(first, second, strict=True):
            pass
        left_open = mlx_moebench.stream_generate(model, tokenizer, [4, 5], 20, row=2)
        next(left_open)
        with stats.batch(ids=[3]):
            model(mx.array([[7, 8, 9, 10]]))
        next(left_open)
        model(mx.array([[7, 8, 9]]))
    assert stats.sums(0).n_tokens.tolist() == [3, 4, 2, 4, 3]
    assert stats.phase_stats("decode").sums(0).n_tokens.tolist() == [6, 6, 2]


def test_batched_generation_counts_every_request_in_every_family(make_any: Callable[..., Any], tokenizer: Any) -> None:
    """Whichever layers have a cache, or are told of the padding, and when the first prompts have ended."""
    model, prompts = wide(make_any), [[5, 6, 7], [8, 9, 10, 11, 12]]

    def texts() -> list[str]:
        return list(mlx_lm.batch_generate(model, tokenizer, prompts, max_tokens=[2, 4]).texts)

    try:
        expected = texts()
    except ValueError as error:
        assert "does not yet support batching" in str(error)  # noqa: PT017
        pytest.skip(str(error))
    with attach(model) as stats:
        assert texts() == expected
    assert sorted(stats.sums(0).n_tokens.tolist()) == [3, 5]
    assert sorted(stats.phase_stats("decode").sums(0).n_tokens.tolist()) == [2, 4]
    assert stats.phase_stats("unsplit").clusters == []


def test_bare_generation_is_unsplit_and_one_sequence_each(model: Any) -> None:
    with attach(model) as stats:
        for prompt in ([5, 6, 7, 8, 9], [10, 11, 12]):
            steps = generate_step(mx.array(prompt), model, max_tokens=6, prefill_step_size=2)
            assert len(list(steps)) == 6
        model(mx.array([[1, 2, 3]]))  # without a cache: a prompt
    unsplit = stats.phase_stats("unsplit")
    assert unsplit.sums(0).n_tokens.tolist() == [11, 9]
    assert stats.sums(0).n_tokens.tolist() == [3]
    assert stats.phase_stats("decode").clusters == []
    assert unsplit.report()["data"]["phase"] == "unsplit"


def test_prompts_of_different_lengths_in_one_batch(model: Any) -> None:
    """Positions decide: a forward that crosses the end of a prompt is shared out between the phases."""
    ids = mx.array(np.random.default_rng(1).integers(1, 4000, (2, 8)))
    mask = np.array([[True] * 6 + [False] * 2, [True] * 8])
    with attach(model) as stats, stats.batch(mask=mask, prompt_lengths=[4, 8], ids=[3, 9]):
        model(ids)
    assert stats.sums(0).n_tokens.tolist() == [4, 8]
    decode = stats.phase_stats("decode")
    assert decode.sums(0).n_tokens.tolist() == [2, 0]
    assert [row for _, row in decode.clusters] == [3, 9]


def test_rows_and_mistakes(model: Any, tokenizer: Any) -> None:
    with attach(model) as stats:
        for row in (4, 2):
            list(mlx_moebench.stream_generate(model, tokenizer, "what is two and two", 3, row=row))
        with pytest.raises(MoebenchError, match="one or more token ids"):
            list(mlx_moebench.stream_generate(model, tokenizer, [], 3))
        with pytest.raises(MoebenchError, match="2 prompts were given with 1 rows"):
            mlx_moebench.batch_generate(model, tokenizer, [[1], [2]], 3, rows=[5])
    assert [row for _, row in stats.clusters] == [2, 4]
    detach(model)
    with pytest.raises(MoebenchError, match="attach"):
        list(mlx_moebench.stream_generate(model, tokenizer, [1], 3))


def test_tally_of_pieces_adds_up_to_the_whole() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2, 9, 6)).astype(np.float32)
    indices = np.argsort(-logits, axis=-1)[..., :2]
    weights, mask = np.ones(indices.shape, np.float32), np.ones((2, 9), bool)
    mask[1, 7:] = False
    whole = tally(Routing(logits, indices, weights, mask))
    parts, before = [], None
    for cut in (slice(0, 4), slice(4, 5), slice(5, 9)):
        parts.append(tally(Routing(logits[:, cut], indices[:, cut], weights[:, cut], mask[:, cut]), before))
        before = parts[-1].selected[:, -1]
    for name in ("n_tokens", "counts", "top1_counts"):
        np.testing.assert_array_equal(sum(getattr(p, name) for p in parts), getattr(whole, name))
    np.testing.assert_allclose(sum(p.scalars for p in parts), whole.scalars, rtol=1e-5)
    np.testing.assert_allclose(sum(p.p_sum for p in parts), whole.p_sum, rtol=1e-5)


def test_generation_inside_two_attached_is_split_in_both(model: Any, tokenizer: Any) -> None:
    with attach(model) as outer, attach(model) as inner:
        made = list(mlx_moebench.stream_generate(model, tokenizer, [40, 41, 42], 4, row=9))
    for stats in (outer, inner):
        assert (stats.n_tokens, stats.phase_stats("decode").n_tokens) == (3, len(made))
        assert stats.phase_stats("unsplit").n_tokens == 0
    assert [row for _, row in inner.clusters] == [9]
