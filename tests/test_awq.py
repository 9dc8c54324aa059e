"""AWQ: mlx-lm loads it where experts are plain, with the numbers of the dequantised weights, and not in experts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import build_tiny, save_checkpoint
from family_rows import CONFIGS

pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench.errors import ModelLoadError
from mlx_moebench.models import load

import mlx.core as mx  # isort: skip

GROUP = 32
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbours each 4 bits of a packed number hold, lowest first."""


def packed(numbers: np.ndarray) -> mx.array:
    """[rows, columns / 8] of numbers [rows, columns] below 16."""
    rows, columns = numbers.shape
    eights = numbers.reshape(rows, columns // 8, 8)[:, :, ORDER].astype(np.uint32)
    return mx.array((eights << (4 * np.arange(8, dtype=np.uint32))).sum(axis=-1, dtype=np.uint32).view(np.int32))


def awq(weights: dict[str, mx.array], chosen: Callable[[str], bool]) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
    """(in AWQ form, dequantised again) of weights, where ``chosen``: random numbers of 4 bit, zeros and scales."""
    rng, form, plain = np.random.default_rng(5), dict(weights), dict(weights)
    for name in filter(chosen, weights):
        outer, inner = weights[name].shape
        q = rng.integers(0, 16, (inner, outer))
        zeros = rng.integers(4, 12, (inner // GROUP, outer))
        scales = (rng.random((inner // GROUP, outer)) / 20).astype(np.float16)
        stem = name.removesuffix("weight")
        del form[name]
        form |= {f"{stem}qweight": packed(q), f"{stem}qzeros": packed(zeros), f"{stem}scales": mx.array(scales)}
        wide = [np.repeat(x.astype(np.float32), GROUP, axis=0) for x in (zeros, scales)]
        plain[name] = mx.array(((q - wide[0]) * wide[1]).T)
    return form, plain


def written(folder: Path, weights: dict[str, mx.array], block: dict[str, object] | None) -> Path:
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | ({"quantization_config": block} if block else {})))
    return folder


@pytest.mark.usefixtures("cpu")
@pytest.mark.filterwarnings("ignore:Stock mlx-lm")
def test_awq_of_attention_is_loaded_and_of_experts_is_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "plain", build_tiny(), CONFIGS["olmoe"])
    other = Path(shutil.copytree(folder, tmp_path / "awq"))
    weights = dict(mx.load(str(folder / "model.safetensors")))
    mx.eval(weights)
    block = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    form, plain = awq(weights, lambda name: "self_attn" in name and name.endswith("proj.weight"))
    ids = mx.array([[5, 17, 250, 3, 88]])
    expected = load(written(folder, plain, None))[0](ids)
    np.testing.assert_allclose(load(written(other, form, block))[0](ids), expected, atol=2e-2)
    single = dict(weights)
    for name in [name for name in weights if ".switch_mlp." in name]:
        stack = single.pop(name)
        single |= {name.replace("switch_mlp", f"experts.{e}"): stack[e] for e in range(len(stack))}
    form, _ = awq(single, lambda name: ".experts." in name and name.endswith("proj.weight"))
    with pytest.raises(ModelLoadError, match="awq is quantised as AWQ, 4 bit, which mlx-lm does not load for"):
        load(written(other, form, block))
