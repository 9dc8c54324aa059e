"""Hooks on transformers models in other hands: trainings, wrappers, compiled code, generation, mistakes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers_models import random_transformers, torch

import torch_fallback
from mlx_moebench.allocator import ENVIRONMENT_VARIABLE
from mlx_moebench.checkpoints import LoadedModel
from mlx_moebench.data import Batch
from mlx_moebench.errors import UnsupportedModelError
from torch_fallback.backend import BACKEND
from torch_fallback.capture import until_last_router

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return random_transformers(tmp_path_factory.mktemp("model"), "olmoe")


@pytest.fixture
def ids() -> Any:
    return torch.tensor(np.random.default_rng(1).integers(1, 320, (2, 9)))


class Adapted(torch.nn.Module):
    """As PEFT wraps a model: what it calls its base model is no base model of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model = torch.nn.Sequential(model)
        self.config = model.config

    def forward(self, ids: Any) -> Any:
        return self.base_model(ids)


@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_that_gradient_checkpointing_runs_again_do_not_count(tmp_path: Path, reentrant: bool, ids: Any) -> None:
    model = random_transformers(tmp_path, "mixtral")
    model.train()
    newer = hasattr(model, "activation_checkpointing_enable")  # which deprecates the other name
    enable = model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    with torch_fallback.attach(model) as stats:
        for _ in range(2):
            model(ids, labels=ids, use_cache=False).loss.backward()
    model.eval()
    with torch_fallback.attach(model) as plain, torch.no_grad():
        model(ids)
    assert stats.n_tokens == 2 * plain.n_tokens == 36
    for number in range(3):
        np.testing.assert_array_equal(stats.totals(number).counts, 2 * plain.totals(number).counts)


def test_a_block_that_runs_alone_does_not_count(model: Any, ids: Any) -> None:
    with torch_fallback.attach(model) as stats, torch.no_grad():
        model(ids)
        model.base_model.layers[0].mlp(torch.randn(2, 9, 64))
        model.base_model.layers[2].mlp.gate(torch.randn(18, 64))
        model(ids)
    assert stats.n_tokens == 36


def test_a_forward_that_fails_does_not_count_and_the_next_one_does(model: Any, ids: Any) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    with torch_fallback.attach(model) as stats, torch.no_grad():
        handle = model.base_model.layers[1].mlp.experts.register_forward_pre_hook(fails)
        with pytest.raises(ZeroDivisionError):
            model(ids)
        handle.remove()
        model.base_model.layers[0].mlp.gate(torch.randn(18, 64))
        model(ids[:1])
    assert stats.n_tokens == 9


def test_wrapped_models_are_measured(model: Any, ids: Any) -> None:
    with torch_fallback.attach(Adapted(model)) as stats, torch.no_grad():
        Adapted(model)(ids)
    assert stats.n_tokens == 18
    assert stats.model["model_type"] == "olmoe"


def test_models_that_hooks_would_not_hear_are_refused(model: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="DataParallel runs copies"):
        torch_fallback.attach(torch.nn.DataParallel(model))
    with pytest.raises(UnsupportedModelError, match="This model is compiled"):
        torch_fallback.attach(torch.compile(model, backend="eager"))
    model.base_model.layers[1].compile(backend="eager")
    try:
        with pytest.raises(UnsupportedModelError, match="This model is compiled"):
            torch_fallback.attach(model)
    finally:
        model.base_model.layers[1]._compiled_call_impl = None
    with pytest.raises(UnsupportedModelError, match="Linear is not a model of transformers"):
        torch_fallback.attach(torch.nn.Linear(2, 2))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_masks_and_caches_are_seen_by_place_too(model: Any, ids: Any) -> None:
    from transformers import DynamicCache

    cache, mask = DynamicCache(config=model.config), torch.ones_like(ids)
    with torch_fallback.attach(model) as stats, torch.no_grad():
        model.base_model(ids, None, None, cache)
        model.base_model(ids[:, :1], None, None, cache)
        assert stats.n_tokens == 0
        assert stats.phase_stats("unsplit").n_tokens == 20
        assert len(stats.phase_stats("unsplit").clusters) == 2
        mask[0, :3] = 0
        with pytest.warns(RuntimeWarning, match="leaves out positions"):
            model.base_model(ids, mask)


@pytest.mark.filterwarnings("error:Rows that start alike")
def test_beams_are_said_to_be_no_sequences(model: Any, ids: Any) -> None:
    options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    with torch_fallback.attach(model) as stats:
        model.generate(ids, **options)
        with pytest.warns(RuntimeWarning, match="Rows that start alike, as beams"):
            model.generate(ids[:1], num_beams=3, **options)
        with stats.batch(ids=[7, 7, 7], prompt_lengths=[9, 9, 9]):
            model.generate(ids[:1], num_beams=3, **options)
    assert stats.n_tokens == 27
    assert [row for _, row in stats.clusters] == [7]


def heard_by_each(model: Any, ids: Any) -> list[int]:
    """Tokens that two recorders hear of three measured forwards, of which all but the first are cut short."""
    batch = Batch(ids.numpy(), np.ones(ids.shape, bool), (0, 1), (0, 0), 0)
    with torch_fallback.attach(model) as one, torch_fallback.attach(model) as other:
        for _ in range(3):
            with one.batch(mask=batch.mask, ids=batch.rows):
                BACKEND.forward(LoadedModel(model, None), batch, logits=False)
    assert not one.dropped
    return [one.n_tokens, other.n_tokens]


def test_a_forward_that_ends_early_is_heard_by_all(model: Any, ids: Any) -> None:
    assert heard_by_each(model, ids) == [54, 54]


def test_after_one_that_ended_early_models_run_whole(model: Any, ids: Any) -> None:
    heard_by_each(model, ids)
    with torch.no_grad():
        assert model(ids).logits.shape == (2, 9, 320)
    assert not model.base_model.layers[-1].mlp.gate._forward_hooks


def test_an_error_on_the_way_to_the_last_router_is_raised(model: Any, ids: Any) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    heard_by_each(model, ids)
    handle = model.base_model.layers[1].mlp.experts.register_forward_pre_hook(fails)
    with torch_fallback.attach(model) as stats, pytest.raises(ZeroDivisionError), until_last_router(model):
        model(ids)
    handle.remove()
    assert stats.n_tokens == 0


def test_a_model_that_runs_its_last_router_twice_is_not_cut_short(tmp_path: Path, ids: Any) -> None:
    model = random_transformers(tmp_path, "olmoe")
    last = model.base_model.layers[-1]
    last.register_forward_hook(lambda _layer, _inputs, output: last.mlp(output))
    outputs = []
    with torch.no_grad():
        for _ in range(3):
            with until_last_router(model):
                outputs.append(model(ids).logits)
    assert len(outputs) == 3


def test_a_model_whose_weights_are_moved_is_not_cut_short(tmp_path: Path, ids: Any) -> None:
    model = random_transformers(tmp_path, "olmoe")
    outputs = []
    with torch.no_grad():
        for _ in range(3):
            layers = model.base_model.layers
            layers[0]._hf_hook = None  # as accelerate marks them
            with until_last_router(model):
                outputs.append(model(ids).logits)
    assert len(outputs) == 3


FAULTS = """
import resource
import torch
from torch_fallback.backend import BACKEND

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(2**24).fill_(1)  # 64 MiB, which the C library takes from the system and gives back each time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
BACKEND.select_device("cpu")
faults()
print(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep what is freed")
@pytest.mark.parametrize("choice", ["", "off"])
def test_memory_is_kept_on_a_cpu(choice: str) -> None:
    environment = os.environ | {ENVIRONMENT_VARIABLE: choice}
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=environment)
    before, after = map(int, done.stdout.split())
    assert before > 100
    assert after > before / 2 if choice else after < before / 10
