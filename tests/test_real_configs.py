"""Real models at their real size: routers and parameter counts, without one weight in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

pytest.importorskip("mlx.core", reason="needs MLX")


class Real(NamedTuple):
    """config: the numbers that shape the model. routers: (router, E, K) of a block. parameters: of the whole model."""

    config: dict[str, Any]
    routers: list[tuple[str, int, int]]
    parameters: int


REAL = {
    # config.json of allenai/OLMoE-1B-7B-0924
    "OLMoE-1B-7B": Real(
        {
            "model_type": "olmoe",
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "vocab_size": 50304,
        },
        [("mlp", 64, 8)],
        6_919_161_856,
    ),
    # Qwen2MoeConfig of transformers without arguments; its docstring names Qwen/Qwen1.5-MoE-A2.7B
    "Qwen1.5-MoE-A2.7B": Real(
        {
            "model_type": "qwen2_moe",
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "rms_norm_eps": 1e-6,
            "vocab_size": 151936,
        },
        [("mlp", 60, 4)],
        14_315_784_192,
    ),
    # config.json of mistralai/Mixtral-8x7B-Instruct-v0.1
    "Mixtral-8x7B": Real(
        {
            "model_type": "mixtral",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "vocab_size": 32000,
        },
        [("mlp", 8, 2)],
        46_702_792_704,
    ),
    # JetMoeConfig of transformers with num_hidden_layers=24; its docstring names jetmoe/jetmoe-8b
    "JetMoE-8B": Real(
        {
            "model_type": "jetmoe",
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_key_value_heads": 16,
            "kv_channels": 128,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "vocab_size": 32000,
        },
        [("attention", 8, 2), ("mlp", 8, 2)],
        8_522_237_952,
    ),
}

# Runs in a process of its own, so that its memory is that of the models alone.
BUILD = """
import importlib, json, resource, sys
from pathlib import Path
from mlx_moebench.instrument import routers_of
from mlx_moebench.models.loading import PORTS
import mlx.core as mx
from mlx.utils import tree_flatten

built = {}
for name, config in json.load(sys.stdin).items():
    module = PORTS.get(config["model_type"]) or importlib.import_module("mlx_lm.models." + config["model_type"])
    model = module.Model(module.ModelArgs.from_dict(config))
    specs = [[s.layer, s.router, s.n_experts, s.top_k] for s in routers_of(model)]
    built[name] = {"routers": specs, "parameters": sum(p.size for _, p in tree_flatten(model.parameters()))}
try:  # of this program only; ru_maxrss would count what the process that started it held
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    peak = int(status.split()[0]) * 1024
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
print(json.dumps({"built": built, "peak": peak, "evaluated": mx.get_peak_memory()}))
"""


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    configs = json.dumps({name: real.config for name, real in REAL.items()})
    run = subprocess.run([sys.executable, "-c", BUILD], input=configs, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


@pytest.mark.parametrize("name", list(REAL))
def test_routers_and_parameters(report: dict[str, Any], name: str) -> None:
    real, built = REAL[name], report["built"][name]
    layers = range(real.config["num_hidden_layers"])
    assert built["routers"] == [[layer, *router] for layer in layers for router in real.routers]
    assert built["parameters"] == real.parameters


def test_number_of_routers(report: dict[str, Any]) -> None:
    assert [len(built["routers"]) for built in report["built"].values()] == [16, 24, 32, 48]


def test_nothing_is_evaluated(report: dict[str, Any]) -> None:
    assert report["evaluated"] < 1e6, "bytes that MLX allocated"
    assert report["peak"] < 1e9, "bytes of resident memory"
