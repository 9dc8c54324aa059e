"""Checkpoints: config.json and the headers of weights, as both backends find them; some are loaded, too. Adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIGS, build_tiny, save_checkpoint
from hypothesis import strategies as st
from mmlu_files import write_adapter

pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench.checkpoints import find, read_adapter
from mlx_moebench.checkpoints.adapters import CONFIG, WEIGHTS
from mlx_moebench.models import load_checkpoint

from .mutations import changed_bytes, changed_json, json_bytes
from .outcomes import ACCEPTED, REFUSED, reading

FAMILIES = ("olmoe", "mixtral", "deepseek_v3", "qwen3_moe")


def inputs(whole: bytes) -> st.SearchStrategy[bytes]:
    """Bytes and fields."""
    return changed_bytes(whole) | changed_json(json.loads(whole)).map(json_bytes)


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fuzzed") / "x"
    return save_checkpoint(place, build_tiny(model_type=request.param), CONFIGS[request.param])


def test_config(checkpoint: Path, tried: Callable[..., None], cpu: None) -> None:
    """On MLX; what passes every check of headers is built, and put through its first tokens."""
    path = checkpoint / "config.json"
    whole = path.read_bytes()

    def check(blob: bytes) -> str:
        path.write_bytes(blob)
        return reading(lambda: load_checkpoint(checkpoint))

    assert check(whole) == ACCEPTED
    try:
        tried(inputs(whole), check, 1 / 4)
    finally:
        path.write_bytes(whole)


def test_header_of_weights(checkpoint: Path, tried: Callable[..., None]) -> None:
    path = checkpoint / "model.safetensors"
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])

    def written(content: Any) -> bytes:
        text = json_bytes(content)
        return len(text).to_bytes(8, "little") + text

    def check(blob: bytes) -> str:
        path.write_bytes(blob + whole[end:])
        return reading(lambda: find(checkpoint, None, False, unquantised=False))

    assert check(whole[:end]) == ACCEPTED
    try:
        tried(changed_bytes(whole[:end]) | changed_json(header).map(written), check, 1 / 25)
    finally:
        path.write_bytes(whole)


def test_config_on_torch(tmp_path: Path, tried: Callable[..., None], one_torch_thread: None) -> None:
    """What transformers wrote, loaded by the other backend."""
    from transformers_models import random_transformers

    from mlx_moebench.measure.backends import backend_named
    from mlx_moebench.options import Loading

    random_transformers(tmp_path / "model", "mixtral")
    path = tmp_path / "model" / "config.json"
    whole = path.read_bytes()
    backend = backend_named("torch")

    def check(blob: bytes) -> str:
        path.write_bytes(blob)
        loading = Loading(backend="torch", device="cpu")
        return reading(lambda: backend.load(str(tmp_path / "model"), loading, lambda *_: None))

    assert check(whole) == ACCEPTED
    tried(inputs(whole), check, 1 / 4)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_adapters(name: str, adapter: Path, tried: Callable[..., None], cpu: None) -> None:
    """Those that are read are put on the model, too."""
    path = adapter / name
    whole = path.read_bytes()
    end = len(whole) if name == CONFIG else 8 + int.from_bytes(whole[:8], "little")

    def check(blob: bytes) -> str:
        path.write_bytes(blob + whole[end:])
        if reading(lambda: read_adapter(adapter)) == REFUSED:
            return REFUSED
        return reading(lambda: load_checkpoint(None, adapter_path=adapter))

    assert check(whole[:end]) == ACCEPTED
    tried(inputs(whole) if name == CONFIG else changed_bytes(whole[:end]), check, 1 / 2)
