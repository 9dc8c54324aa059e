"""Files that serving engines, and scripts around them, leave behind: arrays of NumPy and JSON, never a pickle."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...types import HostArray, Json

Array = HostArray

ARRAYS = (".npy", ".npz")
RESPONSES = (".json", ".jsonl")
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle")

LARGEST = 2**63
"""int64 ends below it."""

_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What NumPy and zipfile raise for files that are cut off, encrypted, of another format, or lie about their size."""


def check_readable(path: Path) -> None:
    """Raise `DataError` for what is not there, and for what is neither a file nor a folder, such as a pipe."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}: give paths of files, or NAME=PATH.") from error
    except OSError as error:  # a loop of links, a folder that may not be entered, a name that is too long
        raise DataError(f"{path} cannot be read ({error.strerror}): give paths of files, or NAME=PATH.") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{path} is no file but a pipe, socket or device: save what it gives in a file.")


def file_bytes(path: Path) -> bytes:
    """What a file holds; raises `DataError` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error


def files_in(path: Path) -> list[Path]:
    """The file itself, or what a folder holds of `ARRAYS` and `RESPONSES`, numbers in names in their order.

    Raises `DataError` for a folder without any, and for a pipe or a dangling link of such a name.
    """
    if not path.is_dir():
        return [path]
    try:
        names = [file for file in path.iterdir() if file.suffix.lower() in ARRAYS + RESPONSES]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    for file in names:
        check_readable(file)
    files = [file for file in names if file.is_file()]
    if not files:
        raise DataError(f"There is no {', '.join(ARRAYS + RESPONSES)} file in the folder {path}.")
    return sorted(files, key=lambda file: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", file.name)])


def arrays_of(path: Path) -> dict[str, Array]:
    """{name: array} of a .npz in its order, or {stem: array} of a .npy.

    Raises `DataError` for a file that is damaged or holds Python objects, which would be a pickle, and for names of
    other kinds of files; those of pickles are refused unopened.
    """
    suffix = path.suffix.lower()
    if suffix not in ARRAYS:
        raise DataError(f"{path} is not one of the files that can be read: {', '.join(ARRAYS + RESPONSES)}.")
    try:
        with path.open("rb") as file:  # np.load leaves a damaged archive open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {path.stem: loaded}
            arrays = {name: loaded[name] for name in loaded.files}
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    if not arrays:
        raise DataError(f"{path} holds no array.")
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise DataError(f"{path} holds {strange[0]!r}, which is not a NumPy array: save arrays with numpy.savez.")
    return arrays


def names_of(path: Path) -> list[str]:
    """The names of the arrays of a .npz, without reading them; none of other files."""
    if path.suffix.lower() != ".npz" or not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def decoded_npy(text: str, where: str) -> Array:
    """The array of base64-encoded .npy bytes, as vLLM's server answers."""
    try:
        array: Array = np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False)
    except (binascii.Error, *_UNREADABLE) as error:
        raise DataError(f"The routed experts of {where} are not a base64-encoded .npy ({_first(error)}).") from error
    return array


def decoded_int32(text: str, where: str) -> Array:
    """The numbers [N] of base64-encoded int32, little-endian, as SGLang's server answers."""
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<i4")
    except (binascii.Error, ValueError) as error:
        raise DataError(f"The routed experts of {where} are not base64-encoded int32 ({_first(error)}).") from error


def integers(nested: object, where: str) -> Array:
    """An array of nested lists of whole numbers; raises `DataError` where they are ragged or something else."""
    try:
        array = np.array(nested)
    except ValueError as error:
        raise DataError(f"{where} holds lists that do not form an array: their lengths differ.") from error
    if array.size and array.dtype.kind not in "iu":
        if any(type(number) is int and abs(number) >= LARGEST for number in _flat(nested)):
            raise DataError(f"{where} holds a number above 2^63, which no count and no id is: check the file.")
        raise DataError(f"{where} holds lists of something else than whole numbers.")
    return array


def summed(counts: Array, where: str) -> Array:
    """Counts [N, ...] of whole numbers over N; raises `DataError` where a sum would be too large for int64."""
    if counts.dtype.kind in "iu" and counts.size:
        if max(abs(int(counts.max())), abs(int(counts.min()))) * len(counts) >= LARGEST:
            raise DataError(f"{where} holds counts whose sum is above 2^63: check the file.")
        return np.asarray(counts.astype(np.int64).sum(axis=0))
    return np.asarray(counts.sum(axis=0))


def _flat(nested: object) -> Iterator[object]:
    if isinstance(nested, list | tuple):
        for part in nested:
            yield from _flat(part)
    else:
        yield nested


def json_of(path: Path) -> Any:
    """What a .json file holds, or the list of what the lines of a .jsonl file hold."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # nested too deeply
        raise DataError(f"{path} is no JSON file that can be read ({_first(error)}).") from error


def responses_of(path: Path) -> list[tuple[str, Json]]:
    """(where, response) of each of the server's answers in a JSON file: one, a list of them, or one a line."""
    content = json_of(path)
    listed = content if isinstance(content, list) else [content]
    if not listed or not all(isinstance(response, dict) for response in listed):
        raise DataError(f"{path} is neither a server's answer nor a list of them.")
    return [(f"response {number} of {path}", response) for number, response in enumerate(listed)]


def usage_of(facts: object, where: str) -> tuple[int | None, int | None]:
    """(prompt tokens, generated tokens) of an answer's ``usage`` or ``meta_info``; None for what it does not say."""
    known = facts if isinstance(facts, dict) else {}
    counts = known.get("prompt_tokens"), known.get("completion_tokens")
    if not all(number is None or (type(number) is int and number >= 0) for number in counts):
        raise DataError(f"{where} has prompt_tokens or completion_tokens that are not numbers of tokens.")
    return counts


def cached_of(facts: object, where: str) -> int | None:
    """Prompt tokens that came from the prefix cache, by ``usage`` or ``meta_info``; None where they do not say it."""
    known = facts if isinstance(facts, dict) else {}
    details = known.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else known.get("cached_tokens")
    if cached is not None and (type(cached) is not int or cached < 0):
        raise DataError(f"{where} has cached_tokens that are not a number of tokens.")
    return cached


def _damaged(path: Path, error: Exception) -> DataError:
    if "pickle" in str(error).lower():
        return DataError(
            f"{path} holds Python objects, or is a pickle, which can run code when opened: save arrays of integers, "
            'as numpy.save does of ids.astype("int16").'
        )
    return DataError(f"{path} is not an array file that can be read, or is cut off ({_first(error)}): copy it again.")


def _first(error: Exception) -> str:
    """The first line of an error's text, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
