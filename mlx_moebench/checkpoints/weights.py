"""The weight files of a checkpoint: which of those in its folder are meant, proven whole by their headers alone.

mlx-lm reads every ``model*.safetensors``, transformers ``model.safetensors`` or else what the index names: where the
two would read different files, or one a tensor twice, the folder is refused here, so that both measure the same.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ModelLoadError
from ..files import HEADER_BROKEN, MAX_HEADER, read_header
from ..types import Json
from .hub import WEIGHTS

INDEX = "model.safetensors.index.json"

BITS: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of a value of each dtype of the safetensors format."""

_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl")
_ADAPTERS = ("adapters.safetensors", "adapter_model.safetensors")


class Tensor(NamedTuple):
    """A stored tensor, by the header of its file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint. files: in the order of their names. tensors: by name, each in one file only."""

    folder: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @contextmanager
    def laid_out(self) -> Iterator[Path]:
        """A path to the checkpoint under which mlx-lm and transformers alike read these files, and no others.

        Mostly the folder itself. Else one of links: where its name is a pattern for mlx-lm's search, where files lie
        in it that are not meant, or where shards lack the index without which transformers does not find them.
        """
        if not has_magic(str(self.folder)) and self._found_by_both():
            yield self.folder
            return
        with tempfile.TemporaryDirectory() as aside:
            place = Path(aside) / "model"
            place.mkdir()
            for path in self.folder.iterdir():
                if path.suffix != ".safetensors" and path.name not in (INDEX, "adapter_config.json"):
                    (place / path.name).symlink_to(path.absolute())
            target = {file: str(file.absolute()) for file in self.files}
            for number, file in enumerate(self.files):
                (place / f"model-{number:05d}.safetensors").symlink_to(target[file])
            # Whole paths, because transformers goes on reading weights that it puts on disk when this folder is gone.
            index = {name: target[tensor.file] for name, tensor in self.tensors.items()}
            (place / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}), encoding="utf-8")
            yield place

    def _found_by_both(self) -> bool:
        names = {file.name for file in self.files}
        single = names == {"model.safetensors"}
        indexed = "model.safetensors" not in names and _index_files(self.folder) == names
        strange = (self.folder / "adapter_config.json").exists()  # transformers would apply it
        return (single or indexed) and names == {file.name for file in self.folder.glob(WEIGHTS)} and not strange


def read_weights(folder: Path) -> Weights:
    """The weights of ``folder``. Reads headers only.

    Raises ModelLoadError where there are none, one is missing, damaged or of another set, or a tensor stands in two.
    """
    there = _without_links([path for path in sorted(folder.glob(WEIGHTS)) if not path.is_dir()])
    index = _weight_map(folder)
    if index is not None and not _stale(index, there):
        files = _named_by(index, folder, there)
    else:
        index, files = None, there
        _check_sequence(folder, files)
    if not files:
        raise ModelLoadError(_none_there(folder))
    tensors: dict[str, Tensor] = {}
    twice: dict[str, tuple[Path, Path]] = {}
    for file in files:
        for name, entry in tensors_of(file).items():
            if name in tensors:
                twice[name] = (tensors[name].file, file)
            tensors[name] = Tensor(file, entry["dtype"], tuple(entry["shape"]))
    if twice:
        name, (first, second) = next(iter(twice.items()))
        raise ModelLoadError(
            f"{folder} holds {len(twice):,} tensors twice, such as {name!r} in {first.name} and in {second.name}: keep "
            "the files of one model and move the others away."
        )
    if index is not None:
        _check_index(folder, index, tensors)
    return Weights(folder, tuple(files), tensors)


def _without_links(files: list[Path]) -> list[Path]:
    """``files`` without further names of the same file, the name of a shard, or else the first, being kept."""
    kept: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: not _SHARD.fullmatch(file.name)):
        kept.setdefault(os.path.realpath(file), file)
    return sorted(kept.values())


def _index_files(folder: Path) -> set[str] | None:
    return None if (index := _weight_map(folder)) is None else set(index.values())


def _weight_map(folder: Path) -> dict[str, str] | None:
    """The file of every tensor by the index; None without one."""
    path = folder / INDEX
    if not path.is_file():
        return None
    content = read_json(path)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named:
        raise ModelLoadError(f"{path} has no weight_map; fetch it again, or remove it if {folder.name} has one file.")
    for name, file in named.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelLoadError(f"{path} puts {name!r} into {file!r}, which is no safetensors file beside it.")
    return named


def _stale(index: Mapping[str, str], there: list[Path]) -> bool:
    """Whether an index says nothing of the files: it names none of them, or they are one whole file anyway."""
    names = {file.name for file in there}
    single = len(names) == 1 and not any(_SHARD.fullmatch(name) for name in names)
    named = set(index.values())
    return bool(names) and (not names & named or (single and named == names))


def _named_by(index: Mapping[str, str], folder: Path, there: list[Path]) -> list[Path]:
    """The files that the index names; raises ModelLoadError where one is missing, or one more is there."""
    named = sorted(set(index.values()))
    missing = [name for name in named if not (folder / name).exists()]
    if missing:
        raise ModelLoadError(
            f"{folder} lacks {len(missing)} of {len(named)} weight files named in {INDEX} ({some(missing)}); fetch the "
            "checkpoint again."
        )
    same = {os.path.realpath(folder / name) for name in named}
    others = [file.name for file in there if os.path.realpath(file) not in same]
    if others:
        raise ModelLoadError(
            f"{folder} holds {some(others)}, which {INDEX} does not name beside {some(named)}: it is of another model "
            f"or an older save; move {'it' if len(others) == 1 else 'them'} away, or remove the index if the shards "
            "are the old ones."
        )
    return [folder / name for name in named]


def _check_sequence(folder: Path, files: list[Path]) -> None:
    """Raises ModelLoadError where shards that count themselves are not all there."""
    shards: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.name):
            shards.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (stem, total), numbers in shards.items():
        first = 0 if 0 in numbers else 1  # some writers count from 0
        # The last one tells without a list of as many as a name may claim.
        lacking = next((n for n in range(first, first + total) if n not in numbers), None)
        if lacking is not None:
            raise ModelLoadError(
                f"{folder} holds {len(numbers)} of {total} shards and lacks {stem}-{lacking:05d}-of-{total:05d}"
                ".safetensors; fetch the checkpoint again."
            )


def _check_index(folder: Path, index: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Raises ModelLoadError where the index puts tensors into files that do not hold them."""
    wrong = [name for name, file in index.items() if name not in tensors or not _is(folder / file, tensors[name].file)]
    if wrong:
        name = wrong[0]
        instead = f"and {tensors[name].file.name} does" if name in tensors else "nor does any other"
        raise ModelLoadError(
            f"{folder / INDEX} names {len(wrong):,} tensors in files that do not hold them, such as {name!r} in "
            f"{index[name]} ({instead}): the files are of another save; fetch the checkpoint again."
        )


def _is(one: Path, other: Path) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _none_there(folder: Path) -> str:
    """What to say of a folder without weights that are read."""
    if adapter := next((name for name in _ADAPTERS if (folder / name).is_file()), None):
        return (
            f"{folder} holds no model but an adapter ({adapter}); give the model that it was trained on, and this "
            "folder with --adapter-path."
        )
    if others := sorted(path.name for path in folder.glob("*.safetensors") if path.is_file()):
        return (
            f"{folder} holds no {WEIGHTS} and no {INDEX}, but {some(others)}, which neither mlx-lm nor transformers "
            "reads; give the checkpoint in transformers' form, or rename the file if it holds that form."
        )
    pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
    holdings = f"only pickled weights ({some(pickled)})" if pickled else f"no {WEIGHTS}"
    return (
        f"{folder} holds {holdings}, and only safetensors are read; convert it with transformers: "
        "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)."
    )


def check_complete(file: Path) -> int:
    """The number of tensors in ``file``, a safetensors file as long as its header says; ModelLoadError otherwise."""
    return len(tensors_of(file))


def tensors_of(file: Path) -> dict[str, Json]:
    """{name: {dtype, shape, data_offsets}} of a safetensors file, proven complete; ModelLoadError otherwise."""
    if not file.is_file():  # a pipe would wait for ever
        raise ModelLoadError(f"{file} is no file, or a link to one that is gone; fetch it again.")
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
    except OSError as error:
        raise ModelLoadError(f"{file} cannot be read ({error.strerror}).") from error
    if size < 8 or not 2 <= length <= MAX_HEADER:
        raise ModelLoadError(
            f"{file} is not a safetensors file ({size} bytes); if it is a Git LFS pointer, run `git lfs pull`."
        )
    expected, tensors = 8 + length, {}
    if size >= expected:
        try:
            tensors = read_header(file).tensors
            expected += _end(tensors)
        except HEADER_BROKEN as error:
            raise ModelLoadError(f"{file} has a broken safetensors header; fetch it again.") from error
    if size != expected:
        raise ModelLoadError(
            f"{file} is {'truncated' if size < expected else 'longer than its header says'}: {size} bytes instead of "
            f"{expected}; fetch it again."
        )
    return tensors


def _end(tensors: Mapping[str, Any]) -> int:
    """Where the last tensor ends. Raises ValueError where they do not lie one behind the other, each as long as its
    shape: libraries would read bytes of one as another's."""
    end = 0
    for begin, stop, name in sorted((*entry["data_offsets"], name) for name, entry in tensors.items()):
        dtype, shape = tensors[name]["dtype"], tensors[name]["shape"]
        sizes = (*shape, begin, stop)
        if not isinstance(dtype, str) or not all(type(size) is int and size >= 0 for size in sizes) or begin != end:
            raise ValueError(name)
        if dtype in BITS and 8 * (stop - begin) != BITS[dtype] * math.prod(shape):
            raise ValueError(name)
        end = stop
    return end


def stored_bits(weights: Weights) -> float | int:
    """Bits per stored weight of the experts (of all matrices where no name says expert), the mean over them."""
    matrices = {name: tensor for name, tensor in weights.tensors.items() if len(tensor.shape) > 1}
    experts = [tensor for name, tensor in matrices.items() if "expert" in name] or list(matrices.values())
    sizes = [(math.prod(tensor.shape), BITS.get(tensor.dtype, 0)) for tensor in experts]
    mean = sum(size * bits for size, bits in sizes) / max(1, sum(size for size, _ in sizes))
    return int(mean) if mean == int(mean) else round(mean, 3)


def read_json(path: Path) -> Any:
    """What the file holds; raises ModelLoadError where that is no JSON."""
    if not path.is_file():
        raise ModelLoadError(f"{path} is no file; fetch it again.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise ModelLoadError(f"{path} is not valid JSON ({shortened(error)}); fetch it again.") from error
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read ({error.strerror}).") from error


def shortened(error: BaseException, limit: int = 240) -> str:
    """The message on one line, no longer than a person reads; the error's name where it has none."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " ..."


def some(names: list[str]) -> str:
    """The first three of many names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
