"""What a report says of a model that was handed over as an object: what it is, and where it came from."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
from routing_reference import validate

import mlx_moebench
from mlx_moebench.checkpoints import NANO
from mlx_moebench.instrument import attach, model_facts
from mlx_moebench.models import load_checkpoint
from mlx_moebench.pair import model as pair_model
from mlx_moebench.pair.model import named, origin, remember

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
import mlx_lm  # isort: skip

FEW = {"max_samples": 2, "max_length": 16}
TOLD = ("id", "revision", "dtype", "weight_bits")


def test_what_load_gave_is_still_known_as_what_it_was() -> None:
    model, tokenizer = mlx_moebench.load()
    stats = mlx_moebench.analyze(model, "math", tokenizer=tokenizer, **FEW)
    checkpoint = load_checkpoint()
    expected = {"id": "moebench-nano", "revision": None, "dtype": checkpoint.dtype, "weight_bits": 16}
    assert {key: stats.model[key] for key in TOLD} == expected
    with attach(model) as live:
        model(mx.array([[1, 2, 3]]))
    assert {key: live.model[key] for key in TOLD} == expected
    validate(stats.report())


def test_what_was_done_to_a_model_since_is_seen() -> None:
    model, _ = mlx_moebench.load()
    model.set_dtype(mx.bfloat16)
    assert {key: model_facts(model)[key] for key in TOLD[2:]} == {"dtype": "bfloat16", "weight_bits": 16}
    nn.quantize(
        model, group_size=32, bits=4, class_predicate=lambda path, m: path.endswith("_proj") and "switch" in path
    )
    assert model_facts(model)["weight_bits"] == 4
    assert model_facts(model)["id"] == "moebench-nano"


def test_an_adapter_stays_known() -> None:
    model, _ = mlx_moebench.load()
    remember(model, origin(model) | {"adapter": {"name": "mine"}})
    assert model_facts(model)["adapter"] == {"name": "mine"}
    assert "adapter" not in model_facts(mlx_moebench.load()[0])


def test_a_model_of_mlx_lm_is_named_by_the_folder_of_its_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "models--some--one" / "snapshots" / "abc123"
    shutil.copytree(NANO, folder)
    model, tokenizer = mlx_lm.load(str(folder))
    model.set_dtype(mx.float32)  # what MLX runs experts in on a CPU
    facts = mlx_moebench.analyze(model, "math", tokenizer=tokenizer, **FEW).model
    assert (facts["id"], facts["revision"]) == ("some/one", "abc123")
    assert (facts["dtype"], facts["weight_bits"]) == ("float32", 32)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"olmoe"', '"mixtral"'))  # another model's tokenizer names no one
    assert mlx_moebench.analyze(model, "math", tokenizer=tokenizer, **FEW).model["id"] == "olmoe"


def test_places_name_models(tmp_path: Path) -> None:
    assert named("") == {}
    assert named("allenai/OLMoE-1B-7B-0924") == {"id": "allenai/OLMoE-1B-7B-0924"}
    assert named(str(tmp_path / "mine")) == {"id": "mine"}
    assert named("/x/models--a--b--c/snapshots/0f") == {"id": "a/b--c", "revision": "0f"}


def test_a_model_that_is_gone_is_forgotten() -> None:
    class Model:
        pass

    first = Model()
    remember(first, {"id": "first"})
    assert origin(first) == {"id": "first"}
    kept = id(first)
    del first
    gc.collect()

    assert kept not in pair_model._ORIGINS


def test_on_torch_the_config_names_it(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    transformers: Any = pytest.importorskip("transformers", reason="needs transformers")
    import torch_fallback

    facts = torch_fallback.attach(torch_fallback.load()[0]).model
    assert {key: facts[key] for key in TOLD} == {
        "id": "moebench-nano", "revision": None, "dtype": "float32", "weight_bits": 16,
    }  # fmt: skip
    folder = tmp_path / "mine"
    shutil.copytree(NANO, folder)
    facts = torch_fallback.attach(transformers.AutoModelForCausalLM.from_pretrained(folder)).model
    assert (facts["id"], facts["weight_bits"]) == ("mine", None)
    assert facts["dtype"] in ("float32", "bfloat16")
