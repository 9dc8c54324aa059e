"""Fixtures: a tiny random OLMoE, as a model object and as a checkpoint folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# mx.compile on a CPU calls a C++ compiler at run time; tests that are about compiling switch it on themselves.
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

TINY_CONFIG: dict[str, Any] = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 320,
    "eos_token_id": 0,
}


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


def build_tiny(seed: int = 0, **config: Any) -> Any:
    from mlx_moebench.blas import load_fast_blas

    load_fast_blas()
    import mlx.core as mx
    from mlx_lm.models import olmoe

    mx.random.seed(seed)
    model = olmoe.Model(olmoe.ModelArgs.from_dict(TINY_CONFIG | config))
    for layer in model.layers:
        layer.mlp.gate.weight = 8 * layer.mlp.gate.weight
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
