"""Real models at their real size: routers and parameter counts, without one weight in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from family_rows import ROWS

pytest.importorskip("mlx.core", reason="needs MLX")

REAL = {f"{row.model_type}, {name}": real for row in ROWS for name, real in row.real.items()}

# Runs in a process of its own, so that its memory is that of the models alone.
BUILD = """
import importlib, json, resource, sys
from pathlib import Path
from mlx_moebench.instrument import routers_of
from mlx_moebench.families import families
import mlx.core as mx
from mlx.utils import tree_flatten

built = {}
for name, config in json.load(sys.stdin).items():
    name_of = families()[config["model_type"]].module or "mlx_lm.models." + config["model_type"]
    module = importlib.import_module(name_of)
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


def test_nothing_is_evaluated(report: dict[str, Any]) -> None:
    assert report["evaluated"] < 1e6, "bytes that MLX allocated"
    assert report["peak"] < 1e9, "bytes of resident memory"
