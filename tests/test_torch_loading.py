"""Loading on torch as strangers do it: odd devices, maps and checkpoints, each measured right or refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_torch import run_without, texts
from transformers_models import random_transformers, torch

import torch_fallback
from mlx_moebench.checkpoints import NANO, find
from mlx_moebench.errors import ModelLoadError, MoebenchError, StatsError
from mlx_moebench.measure import analyze, analyze_generation
from torch_fallback import loading
from torch_fallback.environment import chosen_device

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def test_embeddings_that_wait_on_disk_get_their_ids(tmp_path: Path) -> None:
    random_transformers(tmp_path / "model", "mixtral")
    layers = {f"model.layers.{number}": "cpu" for number in range(3)}
    spread = layers | {"model.embed_tokens": "disk", "lm_head": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    pieces = torch_fallback.load_checkpoint(
        tmp_path / "model", device_map=spread, offload_folder=str(tmp_path / "offload")
    )
    assert pieces.model.get_input_embeddings().weight.device.type == "meta"
    data = texts(tmp_path, 6)
    other, whole = (analyze(model, data, backend="torch") for model in (pieces, tmp_path / "model"))
    for number in range(3):
        np.testing.assert_array_equal(other.sums(number).counts, whole.sums(number).counts)


def test_devices_by_name() -> None:
    assert torch_fallback.load_checkpoint(device="auto").model.device.type in ("cpu", "cuda", "mps")
    for name in ("cud", "cpu:1", "cuda:x", "mps:0", ""):
        with pytest.raises(MoebenchError, match="There is no device"):
            torch_fallback.load(device=name)
    if not torch.cuda.is_available():
        for name in ("cuda", "cuda:0", "cuda:7"):
            with pytest.raises(MoebenchError, match="torch sees no CUDA device here"):
                torch_fallback.load(device=name)


def test_a_second_gpu_is_named_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen_device("cuda:1") == torch.device("cuda", 1)
    assert chosen_device("auto") == torch.device("cuda", 0)
    with pytest.raises(MoebenchError, match="torch sees no cuda:2 here"):
        chosen_device("cuda:2")


def test_other_shapes_and_surplus_keys_are_named(tmp_path: Path) -> None:
    random_transformers(tmp_path, "olmoe")
    config = json.loads((tmp_path / "config.json").read_text())
    for change, words in (
        ({"intermediate_size": 56}, r"mismatched keys, such as .*experts.*fill in random ones"),
        ({"num_hidden_layers": 2}, r"unexpected keys, such as model\.layers\.2.*leave them out"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelLoadError, match=words):
            torch_fallback.load(tmp_path)


def test_in_4_bit_a_map_is_refused_and_not_ignored() -> None:
    with pytest.raises(ModelLoadError, match="leave offload_folder and device_map out"):
        torch_fallback.load(bits=4, offload_folder="x", device_map="auto")


@pytest.mark.slow
def test_without_accelerate_the_error_names_the_extra(tmp_path: Path) -> None:
    output = str(tmp_path / "o.json")
    done = run_without(("accelerate",), "torch_fallback", "analyze", "--quiet", "--output", output)
    assert done.returncode == 1
    assert done.stderr == (
        'Error: Loading models on torch needs an optional dependency: pip install "mlx-moebench[torch]"\n'
    )


@pytest.mark.usefixtures("cpu")
def test_texts_end_where_generation_config_says_on_either_backend(tmp_path: Path) -> None:
    """config.json of a chat model often names one of its ends, generation_config.json all of them."""
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    random_transformers(tmp_path / "model", "olmoe")
    data = texts(tmp_path, 6)
    options: dict[str, Any] = {"max_tokens": 6, "max_samples": 6}
    ends = json.loads((tmp_path / "model" / "generation_config.json").read_text()) | {"eos_token_id": [*range(200)]}
    made = []
    for content in (None, ends):
        if content:
            (tmp_path / "model" / "generation_config.json").write_text(json.dumps(content))
        made += [
            analyze_generation(tmp_path / "model", data, backend=backend, **options)["decode"].n_tokens
            for backend in ("mlx", "torch")
        ]
    assert made[0] == made[1] > made[2] == made[3]


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import torch_fallback
from mlx_moebench.errors import MissingExtraError
for name in torch_fallback.__all__:
    try:
        getattr(torch_fallback, name)
    except MissingExtraError as error:
        print(name, error)
"""


def test_without_torch_python_is_told_the_extra_too() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    assert done.stdout.count('pip install "mlx-moebench[torch]"') == len(torch_fallback.__all__) == 4


def test_a_run_on_another_torch_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"backend": "torch", "max_samples": 4, "max_length": 16, "output": tmp_path / "o.json"}
    analyze(None, "math", **options)
    analyze(None, "math", resume=True, **options)
    monkeypatch.setattr(torch, "__version__", "9.9.0")
    with pytest.raises(StatsError, match=r"its torch is .*, this run's is 9\.9\.0"):
        analyze(None, "math", resume=True, **options)


def test_what_mlx_computes_otherwise_is_sent_to_torch(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    random_transformers(tmp_path / "model", "mixtral", sliding_window=8)
    data = texts(tmp_path, 6)
    with pytest.raises(ModelLoadError, match=r"sliding_window = 8.*measure it with the backend torch"):
        analyze(tmp_path / "model", data)
    assert analyze(tmp_path / "model", data, backend="torch").n_tokens > 20


def test_a_model_in_training_is_measured_without_its_noise(tmp_path: Path) -> None:
    model = random_transformers(tmp_path / "model", "mixtral", attention_dropout=0.5, router_jitter_noise=0.5)
    data, options = texts(tmp_path, 6), {"tokenizer": torch_fallback.load(tmp_path / "model")[1], "backend": "torch"}
    still = analyze(model, data, **options)
    model.train()
    model.base_model.norm.eval()
    moving = analyze(model, data, **options)
    generated = analyze_generation(model, data, max_tokens=2, **options)["prefill"]
    assert model.training
    assert [name for name, module in model.named_modules() if not module.training] == ["model.norm"]
    for number in range(3):
        np.testing.assert_array_equal(still.sums(number).p_sum, moving.sums(number).p_sum)
        np.testing.assert_allclose(still.sums(number).p_sum, generated.sums(number).p_sum, atol=1e-4)


def test_a_model_larger_than_the_gpu_is_spread_unless_others_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: what it says it has free is made up, what is done with it is not."""
    found, gpu = find(None, None, False, unquantised=False), torch.device("cuda", 0)
    size = (NANO / "model.safetensors").stat().st_size
    for free, expected in ((2 * size, {"": gpu}), (size, "auto")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 0))
        assert loading._map(found, gpu, None, 16) == expected
    assert loading._map(found, gpu, torch.float32, 16) == "auto"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ModelLoadError, match="without torchrun one process spreads it"):
        loading._map(found, gpu, None, 16)
