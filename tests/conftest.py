"""Fixtures: a tiny random model of every family, and the OLMoE among them as a checkpoint folder."""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from inspect import ismodule
from pathlib import Path
from typing import Any

import pytest
from chromium import browser, open_page  # noqa: F401  # fixtures of the tests in browser/
from family_rows import CONFIGS

from mlx_moebench.blas import load_fast_blas

# mx.compile on a CPU calls a C++ compiler at run time; tests that are about compiling switch it on themselves.
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

# Before any test imports MLX: in-process results are compared with those of the command line, bit by bit.
load_fast_blas()

EXTRAS = ("torch", "gradio", "lm_eval", "bitsandbytes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of modules that import what only an extra brings."""
    for item in items:
        names = vars(getattr(item, "module", None) or object)
        if any(getattr(value, "__name__", "").split(".")[0] in EXTRAS for value in names.values() if ismodule(value)):
            item.add_marker("extra")


TINY_CONFIG: dict[str, Any] = CONFIGS["olmoe"]


@pytest.fixture
def tiny_config() -> dict[str, Any]:
    """The config of the tiny OLMoE: 3 layers, 8 experts, top-2."""
    return dict(TINY_CONFIG)


@pytest.fixture
def make_tiny() -> Callable[..., Any]:
    """``make_tiny(seed=0, **config)``: a tiny random OLMoE in float32, with logits spread enough to choose."""
    return build_tiny


@pytest.fixture
def tiny_model() -> Any:
    """A fresh tiny OLMoE."""
    return build_tiny()


@pytest.fixture(params=list(CONFIGS))
def make_any(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``make_any(seed=0, **config)``: as ``make_tiny``; a test that uses it runs once per family."""
    return partial(build_tiny, model_type=request.param)


@pytest.fixture
def any_model(make_any: Callable[..., Any]) -> Any:
    """A fresh tiny model; a test that uses it runs once per family."""
    return make_any()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny OLMoE in bfloat16 and a tokenizer. Shared: copy it before changing anything."""
    import mlx.core as mx

    model = build_tiny()
    model.set_dtype(mx.bfloat16)
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", model, TINY_CONFIG)


@pytest.fixture
def cpu() -> Iterator[None]:
    """MLX on the CPU, and back to what it was."""
    from mlx_moebench.models import select_device

    import mlx.core as mx  # isort: skip

    before = mx.default_device()
    select_device("cpu")
    yield
    mx.set_default_device(before)


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt; a shell starts what runs in the background deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """torch on one thread: beside MLX's, more of them only wait for each other."""
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_tiny(seed: int = 0, model_type: str = "olmoe", **config: Any) -> Any:
    from mlx_moebench.families import families
    from mlx_moebench.families.base import module_at
    from mlx_moebench.models.loading import PORTS

    import mlx.core as mx  # isort: skip

    mx.random.seed(seed)
    module = PORTS.get(model_type) or importlib.import_module(f"mlx_lm.models.{model_type}")
    model = module.Model(module.ModelArgs.from_dict(CONFIGS[model_type] | config))
    family = families()[model_type]
    for spec in family.specs(CONFIGS[model_type] | config):
        layer, form = model.layers[spec.layer], family.form(spec.router)
        gate = module_at(layer, form.gate)
        gate.weight = 8 * gate.weight
        if "bias" in (block := module_at(layer, form.gate.rpartition(".")[0])):
            block.bias = mx.random.normal(block.bias.shape)
    model.eval()
    mx.eval(model.parameters())
    return model


def save_checkpoint(folder: Path, model: Any, config: dict[str, Any]) -> Path:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    folder.mkdir(parents=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_tokenizer(folder, config["vocab_size"])
    return folder


def save_tokenizer(folder: Path, vocab_size: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "a router sends every token to the experts that score it highest and the others stay idle " * 4
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
