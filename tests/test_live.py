"""Statistics of a model in use: batches, drafts, quantised caches, threads, recomputation, copies."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_tiny
from rich.console import Console

import mlx_moebench
from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.errors import RoutingError
from mlx_moebench.instrument import attach, detach
from mlx_moebench.show.tables.routers import print_report

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
import mlx_lm  # isort: skip
from mlx.utils import tree_flatten  # isort: skip
from mlx_lm.generate import BatchGenerator, speculative_generate_step  # isort: skip
from mlx_lm.models.cache import BatchKVCache, RotatingKVCache, make_prompt_cache  # isort: skip

pytestmark = pytest.mark.usefixtures("cpu")

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12], [20, 21, 22, 23, 24, 25, 26, 27, 28]]


class Tokens:
    """A tokenizer that ends nothing."""

    eos_token_ids: tuple[int, ...] = ()
    bos_token = None

    def decode(self, ids: Any) -> str:
        return " ".join(map(str, ids))


@pytest.fixture
def model() -> Any:
    return build_tiny()


def phases(stats: Any) -> dict[str, list[int]]:
    """Tokens of each sequence, by phase."""
    every = {"prefill": stats, "decode": stats.phase_stats("decode"), "unsplit": stats.phase_stats("unsplit")}
    return {name: one.sums(0).n_tokens.tolist() for name, one in every.items() if one.clusters}


def counted(stats: Any) -> np.ndarray:
    """Selections [L, E] of all routers, over all phases."""
    every = (stats, stats.phase_stats("decode"), stats.phase_stats("unsplit"))
    return np.array([sum(one.totals(n).counts for one in every if one.clusters) for n in range(len(stats.specs))])


def of_text(model: Any, ids: list[int]) -> np.ndarray:
    """The same of a text that is run whole."""
    with attach(model) as stats:
        model(mx.array([ids]))
    return counted(stats)


def greedy(model: Any, prompt: list[int], n: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model(mx.array([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


# -- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 8])
def test_batched_generation_counts_every_token_of_every_request_once(model: Any, size: int) -> None:
    plain = mlx_lm.batch_generate(model, Tokens(), PROMPTS, max_tokens=[6, 3, 9, 1], return_token_ids=True)
    with attach(model) as stats:
        made = mlx_lm.batch_generate(
            model, Tokens(), PROMPTS, max_tokens=[6, 3, 9, 1], return_token_ids=True, completion_batch_size=size,
            prefill_batch_size=size, prefill_step_size=4,
        )  # fmt: skip
    assert made.token_ids == plain.token_ids
    assert sorted(phases(stats)["prefill"]) == sorted(map(len, PROMPTS))
    assert sorted(phases(stats)["decode"]) == [1, 3, 6, 9]
    expected = sum(of_text(model, p + t) for p, t in zip(PROMPTS, made.token_ids, strict=True))
    np.testing.assert_array_equal(counted(stats), expected)
    assert not stats.dropped


def test_batched_and_single_generation_agree_sequence_by_sequence(model: Any) -> None:
    """All sums, adjacent tokens across joins and leaves among them; rows named by the caller."""
    rows = [7, 3, 9, 1]
    with attach(model) as batched:
        made = mlx_moebench.batch_generate(model, Tokens(), PROMPTS, [6, 3, 9, 2], rows=rows, return_token_ids=True)
    with attach(model) as single:
        for row, prompt, n in zip(rows, PROMPTS, [6, 3, 9, 2], strict=True):
            list(mlx_moebench.stream_generate(model, mlx_lm_tokenizer(), prompt, n, row=row))
    assert [len(t) for t in made.token_ids] == [6, 3, 9, 2]
    for phase in ("prefill", "decode"):
        a, b = batched.phase_stats(phase), single.phase_stats(phase)
        assert [row for _, row in a.clusters] == [row for _, row in b.clusters] == sorted(rows)
        for number in range(len(a.specs)):
            x, y = a.sums(number), b.sums(number)
            np.testing.assert_array_equal(x.counts, y.counts)
            np.testing.assert_array_equal(x.top1_counts, y.top1_counts)
            np.testing.assert_allclose(x.scalars, y.scalars, rtol=1e-4, atol=1e-4)


def mlx_lm_tokenizer() -> Any:
    from mlx_moebench.models import load

    return load()[1]


def test_rows_join_and_leave_and_one_is_cancelled(model: Any) -> None:
    with attach(model) as stats:
        generator = BatchGenerator(model, max_tokens=12, prefill_step_size=2)
        first = generator.insert([PROMPTS[0], PROMPTS[3]])
        made: Counter[int] = Counter()
        for step in range(30):
            if step == 4:
                second = generator.insert([PROMPTS[1]])
            if step == 6:
                generator.remove([first[1]])
            made.update(response.uid for response in generator.next()[1])
        generator.close()
    assert set(made) == {first[0], first[1], second[0]}
    decoded = phases(stats)["decode"]
    assert sorted(decoded) == sorted(made.values())
    assert sorted(phases(stats)["prefill"]) == sorted(len(p) for p in (PROMPTS[0], PROMPTS[3], PROMPTS[1]))


def test_all_that_listen_hear_of_batches(model: Any) -> None:
    with attach(model) as first, attach(model) as second:
        mlx_lm.batch_generate(model, Tokens(), PROMPTS[:2], max_tokens=3, prefill_step_size=2)
    assert phases(first) == phases(second) == {"prefill": [5, 2], "decode": [3, 3]}


def test_two_generators_have_requests_of_their_own(model: Any) -> None:
    with attach(model) as stats:
        for _ in range(2):
            mlx_lm.batch_generate(model, Tokens(), PROMPTS[:2], max_tokens=3)
    assert phases(stats) == {"prefill": [5, 2, 5, 2], "decode": [3, 3, 3, 3]}


def test_a_batched_cache_without_a_generator_is_said(model: Any) -> None:
    cache = [BatchKVCache([0, 2]) for _ in model.layers]
    with attach(model) as stats:
        with pytest.warns(RuntimeWarning, match="rows of several prompts"):
            model(mx.array([[1, 2, 3], [0, 0, 4]]), cache=cache)
        model(mx.array([[1], [2]]), cache=cache)
    assert stats.n_tokens == 0
    ((why, lost),) = stats.dropped.items()
    assert "batch_generate" in why
    assert (lost.forwards, lost.positions) == (2, 8)


def test_what_is_not_recorded_stands_in_the_report(model: Any, tmp_path: Path) -> None:
    cache = [BatchKVCache([0, 2]) for _ in model.layers]
    with attach(model) as stats:
        model(mx.array([PROMPTS[0]]))
        assert "unrecorded" not in stats.report()["data"]
        with pytest.warns(RuntimeWarning, match="rows of several prompts"):
            model(mx.array([[1, 2, 3], [0, 0, 4]]), cache=cache)
    (lost,) = stats.report()["data"]["unrecorded"]
    assert (lost["forwards"], lost["positions"]) == (1, 6)
    assert "batch_generate" in lost["why"]
    stats.save(tmp_path / "live")  # checks the report against its schema
    loaded = RoutingStats.load(tmp_path / "live")
    assert loaded.dropped == stats.dropped
    report = loaded.report()
    assert report["data"]["unrecorded"] == [lost]
    said = "1 forward pass is not in these numbers (6 positions): A forward with rows of several prompts"
    print_report(report, console := Console(record=True, width=400, file=io.StringIO()))
    assert said in console.export_text()
    main(["report", str(tmp_path / "live.json"), "-o", str(tmp_path / "page.html")])
    assert said in (tmp_path / "page.html").read_text(encoding="utf-8")


# -- drafts, caches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft_seed", [0, 1])
@pytest.mark.parametrize("announced", [False, True])
def test_what_a_draft_model_guessed_wrong_does_not_count(model: Any, draft_seed: int, announced: bool) -> None:
    draft, prompt = build_tiny(seed=draft_seed), PROMPTS[3]
    expected = greedy(model, prompt, 8)
    options: dict[str, Any] = {"draft_model": draft, "num_draft_tokens": 3, "prefill_step_size": 4}
    with attach(model) as stats, attach(draft) as of_draft:
        if announced:
            steps = mlx_moebench.stream_generate(model, mlx_lm_tokenizer(), prompt, 8, **options)
            made = [(response.token, response.from_draft) for response in steps]
        else:
            steps = speculative_generate_step(mx.array(prompt), model, max_tokens=8, **options)
            made = [(int(token), from_draft) for token, _, from_draft in steps]
    assert [token for token, _ in made] == expected
    assert any(from_draft for _, from_draft in made) == (draft_seed == 0)
    kept = sum(sum(tokens) for tokens in phases(stats).values())
    # The last token that the model itself gave was never run.
    assert kept in (len(prompt) + 7, len(prompt) + 8)
    np.testing.assert_array_equal(counted(stats), of_text(model, (prompt + expected)[:kept]))
    if announced:
        assert phases(stats)["prefill"] == [len(prompt)]
    assert sum(sum(tokens) for tokens in phases(of_draft).values()) >= len(prompt)


def test_a_reading_between_tokens_does_not_count_a_draft_before_it_is_decided(model: Any) -> None:
    steps = speculative_generate_step(mx.array(PROMPTS[3]), model, build_tiny(seed=1), max_tokens=8, num_draft_tokens=3)
    with attach(model) as stats:
        made, seen = [], []
        for token, _, _ in steps:
            made.append(int(token))
            seen.append(stats.phase_stats("unsplit").n_tokens)
            assert seen[-1] <= len(PROMPTS[3]) + len(made)
        kept = stats.phase_stats("unsplit").n_tokens
        assert kept in (len(PROMPTS[3]) + 7, len(PROMPTS[3]) + 8)
        assert seen == sorted(seen)
    np.testing.assert_array_equal(counted(stats), of_text(model, (PROMPTS[3] + made)[:kept]))


@pytest.mark.parametrize("start", [0, 6])
def test_a_quantised_cache_stays_one_sequence(model: Any, start: int) -> None:
    options: dict[str, Any] = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": start}
    with attach(model) as stats:
        list(mlx_lm.stream_generate(model, mlx_lm_tokenizer(), mx.array(PROMPTS[3]), 6, **options))
        list(mlx_lm.stream_generate(model, mlx_lm_tokenizer(), mx.array(PROMPTS[0]), 6, **options))
    assert phases(stats) == {"unsplit": [15, 11]}


def test_a_rotating_cache_and_one_that_holds_a_prompt_already(model: Any) -> None:
    tokenizer = mlx_lm_tokenizer()
    with attach(model) as stats:
        list(mlx_moebench.stream_generate(model, tokenizer, PROMPTS[3], 6, max_kv_size=8))
        cache = make_prompt_cache(model)
        list(mlx_moebench.stream_generate(model, tokenizer, PROMPTS[0], 3, prompt_cache=cache))
        list(mlx_moebench.stream_generate(model, tokenizer, PROMPTS[1], 3, prompt_cache=cache))
    assert isinstance(make_prompt_cache(model, 8)[0], RotatingKVCache)
    assert phases(stats) == {"prefill": [9, 5, 2], "decode": [6, 3, 3]}


# -- threads -------------------------------------------------------------------------------------------------------


def in_thread(work: Callable[[], Any]) -> Any:
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(work())
        except BaseException as error:  # noqa: BLE001  # handed on
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(120)
    assert box, "the thread did not end"
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]


def test_read_from_another_thread_than_the_one_that_ran_the_model(model: Any) -> None:
    expected = of_text(model, PROMPTS[3])
    with attach(model) as stats:
        for run in range(1, 4):
            in_thread(lambda: model(mx.array([PROMPTS[3]])))
            np.testing.assert_array_equal(counted(stats), run * expected)
            assert in_thread(lambda: stats.report()["data"]["n_tokens"]) == run * 9


def test_generation_in_one_thread_is_read_by_others_all_the_while(model: Any) -> None:
    """Every reading is of whole forwards: all routers have the same tokens, and never fewer than before."""
    tokenizer, stop, seen, wrong = mlx_lm_tokenizer(), threading.Event(), [], []

    def read() -> None:
        before = 0
        while not stop.is_set():
            decode = stats.phase_stats("decode")
            totals = [int(decode.totals(n).n_tokens) for n in range(len(decode.specs))]
            report = stats.report() if stats.n_tokens else {"routers": []}
            counts = {sum(router["selection_counts"]) for router in report["routers"]}
            if len(set(totals)) != 1 or totals[0] < before or len(counts) > 1:
                wrong.append((totals, before, counts))
            before = totals[0]
            seen.append(before)

    with attach(model) as stats:
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        in_thread(lambda: list(mlx_moebench.stream_generate(model, tokenizer, PROMPTS[3], 90)))
        stop.set()
        for reader in readers:
            reader.join(120)
        assert not wrong
        assert seen
        assert phases(stats) == {"prefill": [9], "decode": [90]}


def test_one_model_in_several_threads_at_once(model: Any) -> None:
    expected = sum(of_text(model, prompt) for prompt in PROMPTS)
    with attach(model) as stats:
        barrier = threading.Barrier(len(PROMPTS))

        def run(prompt: list[int]) -> None:
            barrier.wait(60)
            for _ in range(5):
                mx.eval(model(mx.array([prompt])))

        threads = [threading.Thread(target=run, args=(prompt,)) for prompt in PROMPTS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    np.testing.assert_array_equal(counted(stats), 5 * expected)


def test_what_one_thread_announces_is_not_about_another(model: Any) -> None:
    with attach(model) as stats, stats.batch(ids=[40]):
        in_thread(lambda: model(mx.array([[1, 2, 3]])))
        model(mx.array([[1, 2]]))
    assert stats.sums(0).n_tokens.tolist() == [2, 3]
    assert min(row for _, row in stats.clusters) == 40


# -- recomputation, forwards that do not add up ----------------------------------------------------------------------


@pytest.fixture
def checkpointed(model: Any) -> Iterator[Any]:
    from mlx_lm.tuner.trainer import grad_checkpoint

    kind = type(model.layers[0])
    before = kind.__call__
    grad_checkpoint(model.layers[0])
    yield model
    kind.__call__ = before


def test_gradient_checkpointing_counts_once(checkpointed: Any) -> None:
    ids = mx.array([PROMPTS[3], PROMPTS[3][::-1]])
    with attach(checkpointed) as plain:
        checkpointed(ids)
    with attach(checkpointed) as stats:
        step = nn.value_and_grad(checkpointed, lambda: checkpointed(ids).square().sum())
        for _ in range(2):
            mx.eval(step())
    np.testing.assert_array_equal(counted(stats), 2 * counted(plain))
    assert not stats.dropped


def test_checkpointing_around_the_whole_model_counts_once(model: Any) -> None:
    ids = mx.array([PROMPTS[3]])
    expected = of_text(model, PROMPTS[3])
    forward = nn.utils.checkpoint(model, lambda: model(ids).square().mean())  # made before and used after
    with attach(model) as stats:
        for _ in range(2):
            mx.eval(nn.value_and_grad(model, forward)())
        mx.eval(forward())
    np.testing.assert_array_equal(counted(stats), 3 * expected)


def test_a_layer_that_is_used_twice_is_said(model: Any) -> None:
    model.model.layers.append(model.model.layers[0])
    with attach(model) as stats, pytest.warns(RuntimeWarning, match="out of its turn"):
        model(mx.array([PROMPTS[0]]))
    assert stats.n_tokens == 0
    assert [lost.positions for lost in stats.dropped.values()] == [5]


def test_compiled_layers_are_said(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    monkeypatch.delenv("MLX_DISABLE_COMPILE", raising=False)
    mx.enable_compile()
    try:
        run = mx.compile(lambda ids: model(ids))
        with attach(model) as stats:
            with pytest.warns(RuntimeWarning, match=r"mx\.compile"):
                mx.eval(run(mx.array([PROMPTS[0]])))
            mx.eval(run(mx.array([PROMPTS[0]])))
        assert stats.n_tokens == 0
        assert sum(lost.forwards for lost in stats.dropped.values()) == 1  # the second time no Python runs
    finally:
        mx.disable_compile()


def test_an_error_in_the_middle_counts_nothing_and_leaves_all_in_order(model: Any) -> None:
    class Fails(nn.Module):
        def __call__(self, x: mx.array) -> mx.array:
            raise ValueError("no")

    with attach(model) as stats:
        kept, model.model.norm = model.model.norm, Fails()
        with pytest.raises(ValueError, match="no"):
            model(mx.array([PROMPTS[0]]))
        model.model.norm = kept
        model(mx.array([PROMPTS[1]]))
    assert phases(stats) == {"prefill": [2]}
    assert not stats.dropped


def test_one_forward_that_is_no_number_does_not_take_others_with_it(model: Any) -> None:
    with attach(model) as stats:
        model(mx.array([PROMPTS[0]]))
        gate = model.layers[1].mlp.gate
        kept, gate.weight = gate.weight, gate.weight * float("nan")
        model(mx.array([PROMPTS[1]]))
        gate.weight = kept
        model(mx.array([PROMPTS[2]]))
        with pytest.raises(RoutingError, match="non-finite"):
            stats.report()
        assert phases(stats) == {"prefill": [5, 1]}


# -- copies, conversions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_have_no_taps(model: Any, duplicate: Callable[[Any], Any]) -> None:
    plain = model(mx.array([PROMPTS[0]]))
    with attach(model) as stats:
        other = duplicate(model)
        assert not [m for m in other.modules() if "Tapped" in type(m).__name__]
        assert [k for k, _ in tree_flatten(other.parameters())] == [k for k, _ in tree_flatten(model.parameters())]
        assert mx.array_equal(other(mx.array([PROMPTS[0]])), plain)
        assert stats.n_tokens == 0
        model(mx.array([PROMPTS[0]]))
    assert stats.n_tokens == 5
    detach(other)


def test_quantising_after_attaching_is_seen(model: Any) -> None:
    with attach(model) as stats:
        nn.quantize(model, group_size=32, bits=4)
        model(mx.array([PROMPTS[0]]))
        assert {spec.router_bits for spec in stats.specs} == {4}
        assert {router["router_bits"] for router in stats.report()["routers"]} == {4}
        stats.phase_stats("decode")


def test_quantising_between_tokens_is_warned_of(model: Any) -> None:
    with attach(model) as stats:
        model(mx.array([PROMPTS[0]]))
        nn.quantize(model, group_size=32, bits=4)
        with pytest.warns(RuntimeWarning, match="hold both"):
            model(mx.array([PROMPTS[0]]))
        assert stats.n_tokens == 10
