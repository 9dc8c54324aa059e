"""Quantised checkpoints by their headers: what config.json says of them, and whether it is so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from weight_files import Shapes, write

from mlx_moebench.checkpoints.packing import (
    check_for_mlx,
    check_packing,
    packing_of,
    unread_by_mlx,
    unread_by_torch,
    whole_numbers,
)
from mlx_moebench.checkpoints.weights import Weights, read_weights
from mlx_moebench.errors import ModelLoadError

PLAIN: Shapes = {"model.embed_tokens.weight": ("BF16", (320, 64)), "model.norm.weight": ("F32", (64,))}
Q = "model.layers.0.mlp.experts.0.up_proj"
AWQ: Shapes = {f"{Q}.qweight": ("I32", (64, 4)), f"{Q}.qzeros": ("I32", (2, 4)), f"{Q}.scales": ("F16", (2, 32))}
GPTQ: Shapes = {
    f"{Q}.qweight": ("I32", (8, 32)),
    f"{Q}.qzeros": ("I32", (2, 4)),
    f"{Q}.scales": ("F16", (2, 32)),
    f"{Q}.g_idx": ("I32", (64,)),
}
FP8: Shapes = {f"{Q}.weight": ("F8_E4M3", (32, 64)), f"{Q}.weight_scale_inv": ("F32", (1, 1))}
MLX: Shapes = {f"{Q}.weight": ("U32", (32, 8)), f"{Q}.scales": ("BF16", (32, 2)), f"{Q}.biases": ("BF16", (32, 2))}
MXFP4: Shapes = {
    "model.layers.0.mlp.experts.up_proj_blocks": ("U8", (8, 32, 2, 16)),
    "model.layers.0.mlp.experts.up_proj_scales": ("U8", (8, 32, 2)),
}
CT: Shapes = {
    f"{Q}.weight_packed": ("I32", (32, 8)),
    f"{Q}.weight_scale": ("BF16", (32, 2)),
    f"{Q}.weight_shape": ("I64", (2,)),
}
BNB: Shapes = {f"{Q}.weight": ("U8", (1024, 1)), f"{Q}.weight.absmax": ("U8", (32,))}
INT8: Shapes = {f"{Q}.weight": ("I8", (32, 64)), f"{Q}.SCB": ("F32", (32,))}
HQQ: Shapes = {f"{Q}.W_q": ("U8", (16, 64)), f"{Q}.scale": ("F16", (32, 1)), f"{Q}.zero": ("F16", (32, 1))}
QUANTO: Shapes = {f"{Q}.weight._data": ("I8", (32, 64)), f"{Q}.weight._scale": ("F16", (32, 1))}
EETQ: Shapes = {f"{Q}.weight": ("I8", (64, 32)), f"{Q}.weight_scales": ("F16", (32,))}


def stored(folder: Path, *parts: Shapes) -> Weights:
    tensors: dict[str, Any] = {}
    for part in parts:
        tensors |= part
    write(folder / "model.safetensors", tensors)
    return read_weights(folder)


GOOD: list[tuple[str, Shapes, dict[str, Any] | None]] = [
    ("AWQ", AWQ, {"quant_method": "awq", "bits": 4, "group_size": 32}),
    ("GPTQ", GPTQ, {"quant_method": "gptq", "bits": 4, "group_size": 32}),
    ("FP8 (fine-grained float8)", FP8, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    ("FP8 (fine-grained float8)", FP8, None),
    ("MXFP4", MXFP4, {"quant_method": "mxfp4"}),
    ("MXFP4", MXFP4, None),
    ("compressed-tensors", CT, {"quant_method": "compressed-tensors", "format": "pack-quantized"}),
    ("bitsandbytes", BNB, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("bitsandbytes", INT8, {"load_in_8bit": True, "load_in_4bit": False}),
    ("bitsandbytes", INT8, None),
    ("HQQ", HQQ, {"quant_method": "hqq"}),
    ("quanto", QUANTO, {"quant_method": "quanto", "weights": "int8"}),
    ("EETQ", EETQ, {"quant_method": "eetq"}),
    ("torchao", INT8, {"quant_method": "torchao"}),
    ("GGUF", BNB, {"quant_method": "gguf"}),
    ("'sevenbit'", INT8, {"quant_method": "sevenbit"}),
]


@pytest.mark.parametrize(("called", "tensors", "block"), GOOD)
def test_a_format_is_named_where_a_library_does_not_load_it(
    called: str, tensors: Shapes, block: dict[str, Any] | None, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"model_type": "olmoe"} | ({} if block is None else {"quantization_config": block})
    weights = stored(tmp_path, PLAIN, tensors)
    check_packing(config, weights, "some")
    check_for_mlx(config, weights, "some")
    error = unread_by_mlx(config, weights, "some", "Received 3 parameters not in model")
    assert str(error).startswith(f"some is quantised as {called}")
    assert "give the unquantised model, with --bits 4" in str(error)
    error = unread_by_torch(config, weights, "some", "requires optimum")
    assert str(error).startswith(f"some is quantised as {called}")


def test_mlx_and_plain_weights_are_no_foreign_format(tmp_path: Path) -> None:
    config = {"model_type": "olmoe", "quantization": {"bits": 4, "group_size": 32}}
    weights = stored(tmp_path, PLAIN, MLX)
    check_packing(config, weights, "some")
    check_for_mlx(config, weights, "some")
    assert unread_by_mlx(config, weights, "some", "") is None
    plain = stored(tmp_path, PLAIN)
    check_packing({}, plain, "some")
    check_for_mlx({}, plain, "some")
    assert unread_by_mlx({}, plain, "some", "") is unread_by_torch({}, plain, "some", "") is None


LEFT_OVER: list[tuple[dict[str, Any], str]] = [
    (
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
        r"quantised \(quantization_config: GPTQ, 4 bit\), and they are plain BF16/F32: remove quantization_config from "
        r"config\.json",
    ),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes.*plain"),
    (
        {"quantization": {"bits": 4, "group_size": 64}, "quantization_config": {"bits": 4, "group_size": 64}},
        r"MLX's own, 4 bit\), .*: remove quantization and quantization_config from",
    ),
    (
        {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
        r"remove text_config\.quantization_config from config\.json",
    ),
    ({"quantization_config": {"quant_method": "mxfp4"}}, "MXFP4"),
]


@pytest.mark.parametrize(("config", "message"), LEFT_OVER)
def test_a_block_that_was_left_behind_is_named(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=message):
        check_packing(config, stored(tmp_path, PLAIN), "some")


def test_a_block_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}', encoding="utf-8")
    with pytest.raises(ModelLoadError, match=r"NVIDIA ModelOpt\), .* remove hf_quant_config\.json"):
        check_packing({}, stored(tmp_path, PLAIN), "some")


CONTRADICTIONS: list[tuple[Shapes, dict[str, Any], str]] = [
    (
        AWQ,
        {"quant_method": "awq", "bits": 8, "group_size": 32},
        "which are not 8 bit in groups of 32",
    ),
    (
        AWQ,
        {"quant_method": "awq", "bits": 4, "group_size": 128},
        r"is \[64, 4\] .* not 4 bit in groups of 128",
    ),
    (
        GPTQ,
        {"quant_method": "gptq", "bits": 4, "group_size": 64},
        r"is \[8, 32\] .* not 4 bit in groups of 64",
    ),
    (GPTQ, {"quant_method": "gptq", "bits": 8, "group_size": 32}, "not 8 bit in groups of 32"),
    (
        FP8,
        {"quant_method": "fp8", "weight_block_size": [16, 128]},
        r"and blocks of 16 x 128 imply \[2, 1\]",
    ),
    (MLX, {"bits": 4, "group_size": 32, Q: {"bits": 8, "group_size": 64}}, "which are not 8 bit in groups of 64"),
    (
        {**MLX, "model.gate.weight": ("F32", (8, 64))},
        {"bits": 4, "group_size": 32, "model.gate": {"bits": 8, "group_size": 32}},
        r"'model\.gate\.weight' is plain F32, and has bits in the block: remove 'model\.gate' from the block",
    ),
]


@pytest.mark.parametrize(("tensors", "block", "message"), CONTRADICTIONS)
def test_a_block_of_other_numbers_than_the_headers(
    tensors: Shapes, block: dict[str, Any], message: str, tmp_path: Path
) -> None:
    key = "quantization_config" if "quant_method" in block else "quantization"
    with pytest.raises(ModelLoadError, match=message):
        check_packing({key: block}, stored(tmp_path, PLAIN, tensors), "some")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("4bit", "has quantization = '4bit', where a section of settings belongs"),
        ({"bits": 4}, "has quantization without quant_method, group_size and bits"),
        ({"bits": "4", "group_size": 64}, r"has quantization\.bits = '4'; it must be a whole number from 1 to 16"),
        ({"bits": 4, "group_size": 0}, r"has quantization\.group_size = 0; it must be"),
        ({"bits": 4, "group_size": True}, r"has quantization\.group_size = True; it must be"),
        ({"quant_method": 3}, "has quantization without quant_method"),
    ],
)
def test_a_block_that_says_nothing(block: Any, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        packing_of({"quantization": block})


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8", "U8", "I16", "F4"])
def test_a_dtype_that_mlx_reads_as_whole_numbers_is_named(dtype: str, tmp_path: Path) -> None:
    weights = stored(tmp_path, PLAIN, {f"{Q}.weight": (dtype, (32, 64)), "up": ("I64", (4, 4))})
    check_packing({}, weights, "some")  # torch measures it
    with pytest.raises(ModelLoadError, match=rf"stores 1 weights \({dtype}, such as '{Q}\.weight'\) without a scale"):
        check_for_mlx({}, weights, "some")


def test_whole_numbers_are_said_where_a_library_computes_with_them(tmp_path: Path) -> None:
    said = whole_numbers(stored(tmp_path, PLAIN, {f"{Q}.weight": ("I8", (32, 64))}), "some")
    assert said
    assert said.startswith(f"some stores 1 weights (I8, such as '{Q}.weight') without a scale")
    for scaled in (FP8, MLX, INT8, AWQ, {f"{Q}.weight": ("F8_E4M3", (32, 64))}):
        assert whole_numbers(stored(tmp_path, PLAIN, scaled), "some") is None


def test_float8_whose_scales_were_dropped(tmp_path: Path) -> None:
    weights = stored(tmp_path, PLAIN, {f"{Q}.weight": ("F8_E4M3", (32, 64))})
    with pytest.raises(ModelLoadError, match=r"\(F8_E4M3, .*without a scale"):
        check_for_mlx({"quantization_config": {"quant_method": "fp8"}}, weights, "some")


def test_packed_weights_of_mlx_without_a_block(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"in MLX's form \(U32, .*no 'quantization'"):
        check_packing({}, stored(tmp_path, PLAIN, MLX), "some")
