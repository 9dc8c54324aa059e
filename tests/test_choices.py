"""Log-likelihoods of continuations equal those of one plain forward each, however prefixes and batches are shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_tiny

pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench.checkpoints import LoadedModel
from mlx_moebench.data import encode_text
from mlx_moebench.errors import DataError, EvaluationError
from mlx_moebench.evaluate import choices
from mlx_moebench.evaluate.choices import Request, common_prefix, encode_choices, fitted
from mlx_moebench.measure import on_mlx
from mlx_moebench.models import load_checkpoint
from mlx_moebench.models.precision import quantise

import mlx.core as mx  # isort: skip

pytestmark = pytest.mark.usefixtures("cpu")


def score(model: Any, requests: list[Request], *options: Any) -> list[choices.Score]:
    """On MLX; tests/test_torch_scoring.py has torch."""
    return choices.score(on_mlx.BACKEND, LoadedModel(model, None), requests, *options)  # type: ignore[arg-type]


def plain(model: Any, request: Request) -> tuple[float, bool]:
    """One forward over all tokens, without cache, batch or padding, in float64 after the logits."""
    context, continuation = request
    logits = np.array(model(mx.array([context + continuation]))[0].astype(mx.float32), np.float64)
    rows = logits[len(context) - 1 : -1]
    logs = (
        rows - np.log(np.exp(rows - rows.max(-1, keepdims=True)).sum(-1, keepdims=True)) - rows.max(-1, keepdims=True)
    )
    likely = [int(row.argmax()) for row in rows]
    return float(sum(logs[i, t] for i, t in enumerate(continuation))), likely == list(continuation)


def random_requests(shared: int = 7, n: int = 9, vocabulary: int = 320, seed: int = 0) -> list[Request]:
    """Contexts of different lengths behind one prefix; continuations of one to three tokens, several to a context."""
    rng = np.random.default_rng(seed)

    def draw(size: int) -> tuple[int, ...]:
        return tuple(int(x) for x in rng.integers(1, vocabulary, size=size))

    prefix, found = draw(shared), []
    for number in range(n):
        context = prefix + draw(int(rng.integers(1, 12)))
        found += [Request(context, draw(1)), Request(context, draw(1)), Request(context, draw(1 + number % 3))]
    return found


def logs(scores: list[choices.Score]) -> np.ndarray:
    return np.array([s.log_likelihood for s in scores])


@pytest.mark.parametrize("shared", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_scores_equal_one_forward_per_continuation(make_form: Callable[..., Any], shared: int) -> None:
    model = make_form()
    requests = random_requests(shared)
    expected = [plain(model, request) for request in requests]
    for batch_size in (1, 4, 100):
        found = score(model, requests, batch_size)
        np.testing.assert_allclose(logs(found), [log for log, _ in expected], atol=1e-4)
        assert [s.greedy for s in found] == [greedy for _, greedy in expected]
    assert len({round(log, 3) for log, _ in expected}) > 20, "the numbers differ at all"


def test_a_quantised_model() -> None:
    model = build_tiny()
    quantise(model, [layer.mlp.gate for layer in model.layers], 4, 8)
    requests = random_requests()
    expected = [plain(model, request)[0] for request in requests]
    np.testing.assert_allclose(logs(score(model, requests, 4)), expected, atol=1e-4)


def test_a_greedy_continuation_is_recognised(tiny_model: Any) -> None:
    context = (5, 17, 250)
    tokens: tuple[int, ...] = ()
    for _ in range(3):
        tokens += (int(mx.argmax(tiny_model(mx.array([context + tokens]))[0, -1]).item()),)
    other = (*tokens[:2], (tokens[2] + 1) % 320)
    found = score(tiny_model, [Request(context, tokens), Request(context, other)])
    assert [s.greedy for s in found] == [True, False]


def test_a_long_prefix_runs_in_parts(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "PREFILL", 3)
    requests = random_requests(8)
    expected = [plain(tiny_model, request)[0] for request in requests]
    np.testing.assert_allclose(logs(score(tiny_model, requests)), expected, atol=1e-4)


class Counted:
    """A model that notes the shapes it is run on; not a mock, the model computes."""

    def __init__(self, model: Any) -> None:
        self._model, self.shapes = model, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, ids: Any, cache: Any = None) -> Any:
        self.shapes.append(tuple(ids.shape))
        return self._model(ids, cache=cache)


def test_the_prefix_runs_once_and_choices_of_one_token_share_a_row(tiny_model: Any) -> None:
    counted = Counted(tiny_model)
    prefix = tuple(range(1, 31))
    requests = [Request((*prefix, 40 + q, 50), (60 + c,)) for q in range(6) for c in range(4)]
    score(counted, requests, 4)
    assert counted.shapes == [(1, 30), (4, 2), (2, 2)]


def test_memory_bounds_a_batch(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Request((1, 2, 3 + q), (9,)) for q in range(8)]
    expected = logs(score(tiny_model, requests))
    monkeypatch.setattr(choices, "MEMORY", 1)
    counted = Counted(tiny_model)
    np.testing.assert_allclose(logs(score(counted, requests)), expected, atol=1e-5)
    assert counted.shapes == [(1, 2), *[(1, 1)] * 8]


def test_a_cache_that_cannot_be_copied_is_not_shared(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_lm.models.cache import RotatingKVCache

    monkeypatch.setattr(on_mlx, "make_prompt_cache", lambda model: [RotatingKVCache(64) for _ in model.layers])
    requests = random_requests()
    counted = Counted(tiny_model)
    expected = [plain(tiny_model, request)[0] for request in requests]
    np.testing.assert_allclose(logs(score(counted, requests, 4)), expected, atol=1e-4)
    assert counted.shapes[0][0] == 4, "no prefix ran alone"


def test_progress_is_told(tiny_model: Any) -> None:
    told: list[int] = []
    score(tiny_model, random_requests(n=5), 2, told.append)
    assert told == sorted(told)
    assert told[-1] == 15
    assert score(tiny_model, []) == []


def test_damaged_weights_are_one_sentence(tiny_model: Any) -> None:
    tiny_model.lm_head.weight = tiny_model.lm_head.weight * mx.nan
    with pytest.raises(EvaluationError, match="not finite"):
        score(tiny_model, random_requests())


def test_ids_beyond_the_vocabulary(tiny_model: Any) -> None:
    with pytest.raises(DataError, match="another model's"):
        score(tiny_model, [Request((1, 2), (320,))])


# -- tokens ------------------------------------------------------------------------------------------------------


class Words:
    """A tokenizer of whole words from a list, longest first, else characters; ``merges`` may cross the boundary."""

    def __init__(self, *merges: str, bos: int | None = None, eos: int | None = None, append_eos: bool = False) -> None:
        self.merges, self.bos_token_id, self.eos_token_id, self.append = list(merges), bos, eos, append_eos

    def encode(self, text: str) -> list[int]:
        ids = [] if self.bos_token_id is None else [self.bos_token_id]
        while text:
            word = next((m for m in self.merges if text.startswith(m)), text[0])
            ids.append(1000 + self.merges.index(word) if word in self.merges else ord(word))
            text = text[len(word) :]
        return [*ids, self.eos_token_id] if self.append and self.eos_token_id is not None else ids


def test_one_token_and_several_tokens_per_choice() -> None:
    context = (ord("x"), ord(":"))
    assert encode_choices(Words(" A", " B"), "x:", [" A", " B"]) == [
        Request(context, (1000,)),
        Request(context, (1001,)),
    ]
    two = encode_choices(Words(), "x:", [" A", " B"])
    assert two == [Request(context, (32, ord("A"))), Request(context, (32, ord("B")))]
    mixed = encode_choices(Words(" A"), "x:", [" A", " B"])
    assert [r.continuation for r in mixed] == [(1000,), (32, ord("B"))]


def test_a_token_across_the_boundary_moves_the_context_of_all_choices() -> None:
    """': A' is one token: the same text ': A' and ': B' is scored, after the same context."""
    found = encode_choices(Words(": A"), "ab:", [" A", " B"])
    assert [r.context for r in found] == [(97, 98), (97, 98)]
    assert [r.continuation for r in found] == [(1000,), (58, 32, ord("B"))]


def test_special_tokens() -> None:
    with_bos = encode_choices(Words(bos=1), "x", ["y"])
    assert with_bos == [Request((1, ord("x")), (ord("y"),))]
    assert encode_text(Words(eos=2, append_eos=True), "xy") == (ord("x"), ord("y"))
    assert encode_choices(Words(eos=2, append_eos=True), "x", ["y"]) == [Request((ord("x"),), (ord("y"),))]
    # Nothing before the continuation: the beginning of a text.
    assert encode_choices(Words(bos=1), "", ["y"]) == [Request((1,), (ord("y"),))]
    assert encode_choices(Words(eos=2), "", ["y"]) == [Request((2,), (ord("y"),))]
    assert encode_choices(Words("xy", eos=2), "x", ["y"]) == [Request((2,), (1000,))]


def test_the_tokenizer_of_the_embedded_model_agrees_with_the_whole_text() -> None:
    tokenizer = load_checkpoint(None).tokenizer
    for request, ending in zip(encode_choices(tokenizer, "It is:\nAnswer:", [" A", " D"]), [" A", " D"], strict=True):
        assert tokenizer.decode([*request.context, *request.continuation]) == "It is:\nAnswer:" + ending


def test_cutting_from_the_front_keeps_the_beginning_token() -> None:
    requests = [Request((1, 5, 6, 7, 8), (9,)), Request((1, 5, 6, 7, 8), (9, 10))]
    assert fitted(requests, 7, 1) == (requests, False)
    assert fitted(requests, None, 1) == (requests, False)
    cut, was = fitted(requests, 5, 1)
    assert was
    assert [r.context for r in cut] == [(1, 7, 8)] * 2
    assert [r.context for r in fitted(requests, 5, None)[0]] == [(6, 7, 8)] * 2
    with pytest.raises(EvaluationError, match="leave no room"):
        fitted(requests, 3, 1)


def test_common_prefix() -> None:
    assert common_prefix([(1, 2, 3)]) == 3
    assert common_prefix([(1, 2, 3), (1, 2)]) == 2
    assert common_prefix([(1, 2, 3), (1, 9), (1, 2, 4)]) == 1
    assert common_prefix([(1,), (2,)]) == 0


def test_adapters(tmp_path: Path) -> None:
    from mmlu_files import write_adapter

    adapted = load_checkpoint(None, adapter_path=write_adapter(tmp_path / "adapter")).model
    requests = random_requests(vocabulary=4096)
    expected = [plain(adapted, request)[0] for request in requests]
    np.testing.assert_allclose(logs(score(adapted, requests, 4)), expected, atol=1e-4)
    base = load_checkpoint(None).model
    assert np.abs(logs(score(base, requests, 4)) - expected).max() > 0.1
