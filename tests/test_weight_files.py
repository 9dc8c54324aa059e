"""Which weight files of a folder are read: one whole set, or one sentence that names the files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from weight_files import Shapes, header_of, split, write, write_set

from mlx_moebench.checkpoints import NANO, find
from mlx_moebench.checkpoints.weights import INDEX, read_weights, tensors_of
from mlx_moebench.errors import ModelLoadError

A: Shapes = {"a": ("F32", (4, 2)), "b": ("BF16", (3,))}
C: Shapes = {"c": ("F32", (2, 2))}
D: Shapes = {"d": ("F32", (1,))}
TWO = {"model-00001-of-00002.safetensors": A, "model-00002-of-00002.safetensors": C}


def names_of(folder: Path) -> list[str]:
    return [file.name for file in read_weights(folder).files]


GOOD: dict[str, tuple[dict[str, Shapes], Any, dict[str, Shapes], list[str]]] = {
    # files, index, further files, what is read
    "one file": ({"model.safetensors": A | C}, False, {}, ["model.safetensors"]),
    "one file with its index": ({"model.safetensors": A | C}, True, {}, ["model.safetensors"]),
    "shards with their index": (TWO, True, {}, list(TWO)),
    "shards without an index": (TWO, False, {}, list(TWO)),
    "a stale index of shards that are gone": (
        {"model.safetensors": A | C},
        {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
        {},
        ["model.safetensors"],
    ),
    "a stale index of the same file": (
        {"model.safetensors": A | C},
        {"a": "model.safetensors", "z": "model.safetensors"},
        {},
        ["model.safetensors"],
    ),
    "a stale index of another number of shards": (
        TWO,
        {"a": "model-00001-of-00003.safetensors", "b": "model-00003-of-00003.safetensors"},
        {},
        list(TWO),
    ),
    "files of other names in the index": (
        {"part-1.safetensors": A, "part-2.safetensors": C},
        True,
        {},
        ["part-1.safetensors", "part-2.safetensors"],
    ),
    "another form of the same weights beside them": (TWO, True, {"consolidated.safetensors": A | C}, list(TWO)),
    "an adapter beside them": (
        {"model.safetensors": A},
        False,
        {"adapter_model.safetensors": C},
        ["model.safetensors"],
    ),
    "shards that count from 0": (
        {"model-00000-of-00002.safetensors": A, "model-00001-of-00002.safetensors": C},
        False,
        {},
        ["model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"],
    ),
}


@pytest.mark.parametrize("kind", list(GOOD))
def test_a_whole_set_is_read(kind: str, tmp_path: Path) -> None:
    files, index, more, expected = GOOD[kind]
    write_set(tmp_path, files, index)
    write_set(tmp_path, more, index=False)
    weights = read_weights(tmp_path)
    assert [file.name for file in weights.files] == expected
    with weights.laid_out() as place:  # where both libraries find these files and no others
        seen = {tensor for file in place.glob("model*.safetensors") for tensor in tensors_of(file)}
        single, listed = place / "model.safetensors", place / INDEX
        if single.exists():
            assert set(tensors_of(single)) == seen
        else:
            named = json.loads(listed.read_text())["weight_map"]
            assert {tensor for file in named.values() for tensor in tensors_of(place / file)} == seen
    assert seen == set(weights.tensors) == {tensor for name in expected for tensor in files[name]}


BAD: dict[str, tuple[dict[str, Shapes], Any, dict[str, Shapes], str]] = {
    "a whole file beside shards": (
        TWO,
        True,
        {"model.safetensors": A | C},
        r"holds model\.safetensors, which .*index\.json does not name beside model-00001-of-00002",
    ),
    "an older set beside the shards": (
        TWO,
        True,
        {"model-00001-of-00003.safetensors": A, "model-00003-of-00003.safetensors": C},
        r"holds model-00001-of-00003\.safetensors, model-00003-of-00003\.safetensors, which",
    ),
    "a file with tensors of its own that no index names": (TWO, True, {"model-mtp.safetensors": D}, "holds model-mtp"),
    "two sets without an index": (
        TWO,
        False,
        {"model.safetensors": A},
        r"holds 2 tensors twice, such as 'a' in model-00001-of-00002\.safetensors and in model\.safetensors",
    ),
    "a variant beside the file": (
        {"model.safetensors": A},
        False,
        {"model.fp16.safetensors": A},
        r"twice, such as 'a' in model\.fp16\.safetensors and in model\.safetensors",
    ),
    "a tensor in two shards": (
        {"model-00001-of-00002.safetensors": A, "model-00002-of-00002.safetensors": {**C, "b": ("F32", (3,))}},
        True,
        {},
        r"holds 1 tensors twice, such as 'b' in model-00001-of-00002",
    ),
    "a shard of the index is missing": (
        {"model-00001-of-00002.safetensors": A},
        {"a": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"},
        {},
        r"lacks 1 of 2 weight files named in .*\(model-00002-of-00002\.safetensors\)",
    ),
    "a shard of the sequence is missing": (
        {"model-00001-of-00003.safetensors": A, "model-00003-of-00003.safetensors": C},
        False,
        {},
        r"holds 2 of 3 shards and lacks model-00002-of-00003\.safetensors",
    ),
    "the last of a sequence that claims to be endless": (
        {"model-00001-of-99999999999.safetensors": A},
        False,
        {},
        r"holds 1 of 99999999999 shards and lacks model-00002-of-99999999999",
    ),
    "an index that puts a tensor elsewhere": (
        TWO,
        {"a": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"},
        {},
        r"names 2 tensors in files that do not hold them, such as 'a' in model-00002-of-00002\.safetensors \(and "
        r"model-00001-of-00002\.safetensors does\)",
    ),
    "an index with a tensor of nowhere": (
        TWO,
        {"a": "model-00001-of-00002.safetensors", "z": "model-00002-of-00002.safetensors"},
        {},
        r"'z' in model-00002-of-00002\.safetensors \(nor does any other\)",
    ),
    "an index that leads out of the folder": (TWO, {"a": "../model.safetensors"}, {}, "puts 'a' into '../model"),
    "an index of no names": (TWO, {"a": 3}, {}, "puts 'a' into 3, which is no safetensors file"),
    "another library's form only": (
        {"consolidated.safetensors": A},
        False,
        {},
        r"but consolidated\.safetensors, which neither mlx-lm nor transformers reads",
    ),
    "mlx-lm's old names": ({"weights.00.safetensors": A}, False, {}, r"but weights\.00\.safetensors, .*or rename"),
    "an adapter only": (
        {"adapters.safetensors": A},
        False,
        {},
        r"an adapter \(adapters\.safetensors\).*--adapter-",
    ),
    "nothing": ({}, False, {}, "only safetensors are read"),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_a_mixed_or_incomplete_set_is_refused(kind: str, tmp_path: Path) -> None:
    files, index, more, message = BAD[kind]
    write_set(tmp_path, files, index)
    write_set(tmp_path, more, index=False)
    with pytest.raises(ModelLoadError, match=message) as caught:
        read_weights(tmp_path)
    assert "\n" not in str(caught.value)


def test_two_names_of_one_file_are_one(tmp_path: Path) -> None:
    write_set(tmp_path, TWO)
    (tmp_path / "model.safetensors").symlink_to("model-00001-of-00002.safetensors")
    assert names_of(tmp_path) == list(TWO)


def test_a_link_to_nothing_a_pipe_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("gone")
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is no file, or a link to one that is gone"):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match="is no file"):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ModelLoadError, match="only safetensors are read"):
        read_weights(tmp_path)


def overlapping(header: dict[str, Any]) -> Any:
    header["b"]["data_offsets"][0] -= 4


def with_a_gap(header: dict[str, Any]) -> Any:
    header["a"]["data_offsets"][1] -= 4


def of_another_shape(header: dict[str, Any]) -> Any:
    header["a"]["shape"] = [2, 2]


def negative(header: dict[str, Any]) -> Any:
    header["a"]["shape"] = [-4, -2]


def of_text(header: dict[str, Any]) -> Any:
    header["a"]["shape"] = "8"


def without_a_dtype(header: dict[str, Any]) -> Any:
    del header["a"]["dtype"]


@pytest.mark.parametrize("damage", [overlapping, with_a_gap, of_another_shape, negative, of_text, without_a_dtype])
def test_a_header_that_contradicts_itself_is_refused(damage: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    """mlx reads what a header says, and so bytes of one tensor as another's."""
    header = header_of(A)
    damage(header)
    write(tmp_path / "model.safetensors", A, header)
    with pytest.raises(ModelLoadError, match="broken safetensors header"):
        read_weights(tmp_path)


def test_a_name_twice_in_one_header_and_a_header_without_end(tmp_path: Path) -> None:
    header = json.dumps(header_of({"a": ("F32", (1,)), "b": ("F32", (1,))})).replace('"b"', '"a"')
    write(tmp_path / "model.safetensors", {"a": ("F32", (1,)), "b": ("F32", (1,))}, header)
    with pytest.raises(ModelLoadError, match="broken safetensors header"):
        read_weights(tmp_path)
    write(tmp_path / "model.safetensors", {}, "[" * 200_000)
    with pytest.raises(ModelLoadError, match="broken safetensors header"):
        read_weights(tmp_path)


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_both_backends_read_the_same_files(backend: str, tmp_path: Path) -> None:
    """Shards without an index, under an index of other files, and beside a set that neither means."""
    load = loader(backend)
    shutil.copytree(NANO, tmp_path / "nano")
    folder = tmp_path / "nano"
    expected = load(folder).fingerprint
    names = sorted(tensors_of(folder / "model.safetensors"))
    split(folder / "model.safetensors", dict(zip(TWO, (names[::2], names[1::2]), strict=True)))
    with pytest.raises(ModelLoadError, match="tensors twice"):
        load(folder)
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {names[0]: "model-00001-of-00004.safetensors"}}))
    (folder / "adapter_config.json").write_text("{}")
    sharded = load(folder)
    assert sharded.path == folder.resolve()
    assert sharded.fingerprint != expected  # of other files
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"lacks model-00002-of-00002"):
        load(folder)


def loader(backend: str) -> Callable[..., Any]:
    if backend == "mlx":
        pytest.importorskip("mlx.core", reason="needs MLX")
        from mlx_moebench.models import load_checkpoint as load
    else:
        pytest.importorskip("torch", reason="the extra `torch` is not installed")
        from torch_fallback import load_checkpoint as load
    return load


def test_what_find_says_of_a_folder_comes_before_any_library(tmp_path: Path) -> None:
    shutil.copytree(NANO, tmp_path / "nano")
    located = find(tmp_path / "nano", None, False, unquantised=False)
    assert set(located.weights.tensors) == set(tensors_of(NANO / "model.safetensors"))
