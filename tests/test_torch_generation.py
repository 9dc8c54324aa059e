"""Generation on torch: the text, the phases and the experts of MLX, token for token."""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers_models import random_transformers, torch

import torch_fallback
from mlx_moebench.data import Batch
from mlx_moebench.routing.tokens import TokenBlock
from torch_fallback.backend import BACKEND
from torch_fallback.live import TorchRoutingStats

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
mlx_lm = pytest.importorskip("mlx_lm", reason="MLX is not installed")

import mlx_moebench  # noqa: E402
from mlx_moebench.instrument import LiveRoutingStats  # noqa: E402
from mlx_moebench.models import load_checkpoint  # noqa: E402

pytestmark = pytest.mark.usefixtures("cpu", "one_torch_thread")

MOST = 12
CLOSE = 1e-5
"""What rounding may decide: the next token where the two likeliest are as near, or the last expert chosen."""

GREEDY_TIES: dict[str, list[tuple[int, int]]] = {"nano": [], "olmoe": []}
"""(prompt, token) at which the two likeliest tokens are that close; after one, texts may part. There is none."""


class Seen:
    """What a `Recorder` tells of every token, by phase and router: experts [T, K] by id, selection margins [T]."""

    def __init__(self) -> None:
        self._experts: dict[tuple[str, int], list[Any]] = defaultdict(list)
        self._margins: dict[tuple[str, int], list[Any]] = defaultdict(list)

    def __call__(self, block: TokenBlock) -> None:
        self._experts[block.phase, block.number].append(np.sort(block.experts[block.mask], axis=-1))
        self._margins[block.phase, block.number].append(block.scalars["selection_margin"][block.mask])

    def tokens(self) -> dict[tuple[str, int], int]:
        return {key: sum(map(len, parts)) for key, parts in self._experts.items()}

    def assert_same(self, other: Seen) -> None:
        """As many tokens in every phase of every router, and the same experts but where scores are a near tie."""
        assert self.tokens() == other.tokens()
        for key, parts in self._experts.items():
            differ = (np.concatenate(parts) != np.concatenate(other._experts[key])).any(axis=-1)
            assert (np.concatenate(self._margins[key])[differ] < CLOSE).all(), key


@pytest.fixture(scope="module", params=list(GREEDY_TIES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    """(name, the model on MLX, the same on torch)."""
    folder: Path | None = None
    if request.param == "olmoe":
        folder = tmp_path_factory.mktemp("olmoe")
        random_transformers(folder, "olmoe")
    return request.param, load_checkpoint(folder, dtype="float32"), torch_fallback.load_checkpoint(folder)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(8)
    return [[int(i) for i in rng.integers(5, 300, length)] for length in (1, 2, 7, 13)]


def test_phases_and_experts_are_those_of_mlx(pair: tuple[str, Any, Any], prompts: list[list[int]]) -> None:
    name, ours, theirs = pair
    ties, by_mlx, by_backend, by_generate = [], Seen(), Seen(), Seen()
    with LiveRoutingStats(ours.model, tokens=by_mlx):
        for number, prompt in enumerate(prompts):
            options: dict[str, Any] = {"row": number, "prefill_step_size": 4}
            responses = list(mlx_moebench.stream_generate(ours.model, ours.tokenizer, prompt, MOST, **options))
            made = [response.token for response in responses]
            best = [np.sort(np.array(response.logprobs))[-2:] for response in responses]
            ties += [(number, token) for token, (second, first) in enumerate(best) if first - second < CLOSE]
            batch = Batch(np.array([prompt]), np.ones((1, len(prompt)), bool), (number,), (0,), 0)
            with TorchRoutingStats(theirs.model, tokens=by_backend) as stats:
                assert BACKEND.generate(theirs, stats, batch, MOST).tolist() == [prompt + made]
            assert with_generate(theirs.model, prompt, len(made), by_generate, described=True) == prompt + made
    assert ties == GREEDY_TIES[name]
    assert {phase for phase, _ in by_mlx.tokens()} == {"prefill", "decode"}
    by_mlx.assert_same(by_backend)
    by_mlx.assert_same(by_generate)


def test_what_nobody_described_is_unsplit_on_both(pair: tuple[str, Any, Any], prompts: list[list[int]]) -> None:
    _, ours, theirs = pair
    by_mlx, by_generate = Seen(), Seen()
    with LiveRoutingStats(ours.model, tokens=by_mlx) as stats:
        for prompt in prompts:
            made = [r.token for r in mlx_lm.stream_generate(ours.model, ours.tokenizer, prompt, MOST)]
            with_generate(theirs.model, prompt, len(made), by_generate, described=False)
    assert stats.n_tokens == 0
    assert {phase for phase, _ in by_mlx.tokens()} == {"unsplit"}
    by_mlx.assert_same(by_generate)


def with_generate(model: Any, prompt: list[int], made: int, seen: Seen, described: bool) -> list[int]:
    """Ids of transformers' own generation, as many as MLX made, each run through the model.

    It does not run the last token, so that one more is asked for.
    """
    options: dict[str, Any] = {"max_new_tokens": made + 1, "do_sample": False, "eos_token_id": None}
    description: dict[str, Any] = {"prompt_lengths": [len(prompt)], "ids": [0]}
    with TorchRoutingStats(model, tokens=seen) as stats, stats.batch(**description) if described else nullcontext():
        ids = model.generate(torch.tensor([prompt]), **options)
    return [int(i) for i in ids[0, :-1]]
