"""Safetensors files made by hand, right or wrong, without a library that would refuse to write them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_moebench.checkpoints.weights import BITS, INDEX
from mlx_moebench.files import read_header

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


def header_of(tensors: Shapes) -> dict[str, Any]:
    """A header for tensors {name: (dtype, shape)}, one behind the other."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    return header


def write(path: Path, tensors: Shapes, header: Mapping[str, Any] | str | None = None) -> Path:
    """A file of zeros. header: another one than belongs to these tensors."""
    right = header_of(tensors)
    text = header if isinstance(header, str) else json.dumps(right if header is None else header)
    data = bytes(max((entry["data_offsets"][1] for entry in right.values()), default=0))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + data)
    return path


def split(file: Path, parts: Mapping[str, list[str]]) -> None:
    """Beside ``file`` further ones, each with some of its tensors, bytes as they are."""
    header, data = read_header(file), file.read_bytes()
    for name, tensors in parts.items():
        entries = {tensor: header.tensors[tensor] for tensor in tensors}
        text = json.dumps(header_of({t: (entry["dtype"], tuple(entry["shape"])) for t, entry in entries.items()}))
        body = b"".join(data[header.start :][slice(*entry["data_offsets"])] for entry in entries.values())
        (file.parent / name).write_bytes(len(text).to_bytes(8, "little") + text.encode() + body)


def write_set(folder: Path, files: Mapping[str, Shapes], index: Mapping[str, str] | bool = True) -> None:
    """Several files, and an index of them or another one."""
    for name, tensors in files.items():
        write(folder / name, tensors)
    if index:
        named = {tensor: name for name, tensors in files.items() for tensor in tensors} if index is True else index
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": named}), encoding="utf-8")
