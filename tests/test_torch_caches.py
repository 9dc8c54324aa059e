"""KV caches under whatever name: transformers has renamed them once, and models bring caches of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers_models import random_transformers, torch, transformers

import torch_fallback
from mlx_moebench.errors import RenamedError
from mlx_moebench.measure import analyze_generation
from torch_fallback.caches import NAMES, cache_among, cache_argument, returned_cache, unknown_cache

pytestmark = pytest.mark.usefixtures("one_torch_thread")

OlmoeModel, OlmoeForCausalLM = transformers.OlmoeModel, transformers.OlmoeForCausalLM


class MemoryModel(OlmoeModel):  # type: ignore[misc]
    """A transformers to come, in which the cache is called otherwise again."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, memory: Any = None, **kwargs: Any) -> Any:
        cache = memory if isinstance(memory, transformers.Cache) else None
        return super().forward(input_ids, attention_mask, None, cache, **kwargs)


class MemoryForCausalLM(OlmoeForCausalLM):  # type: ignore[misc]
    def forward(self, input_ids: Any = None, memory: Any = None, **kwargs: Any) -> Any:
        return super().forward(input_ids, **kwargs)


class RenamedIds(OlmoeModel):  # type: ignore[misc]
    def forward(self, tokens: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        return super().forward(tokens, attention_mask, **kwargs)


class RenamedMask(OlmoeModel):  # type: ignore[misc]
    def forward(self, input_ids: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        return super().forward(input_ids, mask, **kwargs)


class OwnCache:
    """As a model's own code may bring one."""

    def get_seq_length(self) -> int:
        return 0


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("model")
    random_transformers(folder, "olmoe")
    return torch_fallback.load(folder)


@pytest.fixture
def model(loaded: tuple[Any, Any]) -> Iterator[Any]:
    model, _ = loaded
    classes = type(model), type(model.model)
    yield model
    model.__class__, model.model.__class__ = classes


@pytest.fixture
def ids() -> Any:
    return torch.tensor(np.random.default_rng(1).integers(1, 320, (2, 9)))


def test_a_cache_is_seen_under_any_name_and_by_place(model: Any, ids: Any) -> None:
    model.model.__class__ = MemoryModel
    by_name, by_place = (transformers.DynamicCache(config=model.config) for _ in range(2))
    with torch_fallback.attach(model) as stats, torch.no_grad():
        model.model(ids, memory=by_name)
        model.model(ids[:, :1], memory=by_name)
        model.model(ids, None, by_place)
    assert stats.n_tokens == 0
    assert stats.phase_stats("unsplit").n_tokens == 18 + 2 + 18
    assert len(stats.phase_stats("unsplit").clusters) == 4


@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")  # the caller's, not ours
@pytest.mark.parametrize("name", NAMES)
def test_a_cache_is_seen_under_either_name(model: Any, ids: Any, name: str) -> None:
    with torch_fallback.attach(model) as stats, torch.no_grad():
        model.model(ids, **{name: transformers.DynamicCache(config=model.config)})
    assert stats.n_tokens == 0
    assert stats.phase_stats("unsplit").n_tokens == 18


@pytest.mark.parametrize("memory", [OwnCache(), ((torch.zeros(2, 1, 1, 4),) * 2,) * 3], ids=["own class", "tuples"])
def test_a_cache_of_another_kind_is_said_and_not_recorded(model: Any, ids: Any, memory: Any) -> None:
    model.model.__class__ = MemoryModel
    with torch_fallback.attach(model) as stats, torch.no_grad():
        with pytest.warns(RuntimeWarning, match=r"a KV cache \(memory\) that is not one of transformers'"):
            model.model(ids, memory=memory)
        assert stats.n_tokens == stats.phase_stats("unsplit").n_tokens == 0
        with stats.batch(prompt_lengths=[4, 4]):  # who says what runs is believed
            model.model(ids, memory=memory)
        model.model(ids)
    assert stats.n_tokens == 8 + 18
    assert stats.phase_stats("decode").n_tokens == 10


def test_what_resembles_a_cache() -> None:
    rows = ((torch.zeros(1), torch.zeros(1)),)
    for name, value in {"a": OwnCache(), "b": rows, "past": {}, "cache_params": object(), "my_cache": [1]}.items():
        assert unknown_cache({"input_ids": torch.zeros(1), name: value}) == name
    known = transformers.DynamicCache()
    plain = {"use_cache": True, "cache_position": torch.zeros(1), "past_key_values": None, "cache": known}
    plain |= {"cache_implementation": "static", "position_embeddings": (torch.zeros(1), torch.zeros(1)), "labels": ()}
    assert unknown_cache(plain) is None
    assert cache_among(plain) is known


@pytest.mark.parametrize(("kind", "name"), [(RenamedIds, "input_ids"), (RenamedMask, "attention_mask")])
def test_renamed_arguments_are_refused_before_anything_is_touched(model: Any, kind: Any, name: str) -> None:
    model.model.__class__ = kind
    with pytest.raises(
        RenamedError, match=rf"^transformers [\d.]+ has no argument '{name}' of {kind.__name__}.forward"
    ):
        torch_fallback.attach(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_generation_says_that_a_cache_was_renamed(loaded: tuple[Any, Any], model: Any, tmp_path: Path) -> None:
    model.__class__ = MemoryForCausalLM
    (tmp_path / "texts.jsonl").write_text('{"text": "a router"}\n')
    with pytest.raises(RenamedError, match=r"no KV cache among the arguments of MemoryForCausalLM.forward"):
        analyze_generation(model, tmp_path / "texts.jsonl", tokenizer=loaded[1], backend="torch", max_tokens=2)


def test_the_installed_names(model: Any, ids: Any) -> None:
    assert cache_argument(model) == cache_argument(model.model)
    with torch.no_grad():
        assert isinstance(returned_cache(model(ids, use_cache=True)), transformers.DynamicCache)
        with pytest.raises(RenamedError, match="no KV cache in MoeCausalLMOutputWithPast"):
            returned_cache(model(ids, use_cache=False))
