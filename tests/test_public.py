"""What the packages offer at their top: every name there, in `dir`, and importable without MLX or torch."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
from without import without

import mlx_moebench
from mlx_moebench import MoebenchError, StatsError, errors
from mlx_moebench.routing import RouterSpec
from mlx_moebench.routing.recorder import Recorder

torch_fallback = pytest.importorskip("torch_fallback", reason="the extra `torch` is not installed")


def test_every_error_comes_from_the_package_itself() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert "DataError" in classes
    assert classes <= set(mlx_moebench.__all__)
    assert all(getattr(mlx_moebench, name) is getattr(errors, name) for name in classes)
    code = f"{without('mlx', 'torch')}from mlx_moebench import {', '.join(sorted(classes))}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ["mlx_moebench", "torch_fallback"])
def test_dir_and_all_name_what_can_be_imported(package: str) -> None:
    if package == "torch_fallback":
        pytest.importorskip("torch", reason="the extra `torch` is not installed")
    module: Any = sys.modules[package]
    assert {"attach", "load"} <= set(module.__all__) <= set(dir(module))
    assert set(module._HOME) <= set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense


def test_a_phase_that_there_is_not_is_one_sentence() -> None:
    stats = Recorder([RouterSpec(layer=0, moe_layer=0, router="mlp", n_experts=4, top_k=2, distribution="softmax")])
    with pytest.raises(StatsError, match=r"^There is no phase 'decoding'\. Did you mean 'decode'\?$"):
        stats.phase_stats("decoding")  # type: ignore[arg-type]
    with pytest.raises(MoebenchError, match=r"'nonsense'\. Known: prefill, decode, unsplit\.$"):
        stats.phase_stats("nonsense")  # type: ignore[arg-type]
