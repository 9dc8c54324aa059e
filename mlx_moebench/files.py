"""Files, once for everybody: written aside and renamed, probed before work starts, named safely, headers read."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from .errors import StatsError
from .types import Json

MAX_HEADER = 100_000_000
"""Bytes of the longest header that the safetensors format allows."""

HEADER_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What reading a header raises where it is broken."""


class Header(NamedTuple):
    """The header of a safetensors file: 8 bytes of length, that much JSON, then the data, which starts at ``start``."""

    tensors: dict[str, Json]
    metadata: dict[str, str]
    start: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file; reads no tensor. Raises one of `HEADER_BROKEN` where there is none."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        return _parsed(stream.read(length), length)


def header_of(blob: bytes) -> Header:
    """As `read_header`, of the bytes of a file."""
    length = int.from_bytes(blob[:8], "little")
    return _parsed(blob[8 : 8 + length], length)


def _parsed(text: bytes, length: int) -> Header:
    if len(text) < length:
        raise ValueError("the header is cut off")
    entries = json.loads(text)
    return Header(entries, entries.pop("__metadata__", {}), 8 + length)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty where it has none or is no such file."""
    try:
        return read_header(path).metadata
    except HEADER_BROKEN:
        return {}


def plain_name(name: str) -> str:
    """``name`` for a file or folder: letters of any script, nothing that shells mind, never out of its folder."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip(".") or "-"


def check_output(path: Path, suffix: str, kind: str, names: Collection[str]) -> None:
    """Raise `StatsError` unless ``path`` ends in ``suffix`` and can be written, before anything is computed.

    kind: what is to be written, in words. names: keys of such a .json, or columns of such a .csv. A file that is
    already there must have them all, so that none of another kind is replaced.
    """
    if path.is_dir():
        raise StatsError(f"Cannot write {path}: it is a folder; name a file in it.")
    if path.suffix.lower() != suffix:
        raise StatsError(f"This output ends in {suffix}, got {path.name!r}.")
    probe_folder(path)
    if path.exists() and not set(names) <= _keys_or_columns(path):
        raise StatsError(f"{path} exists and holds no {kind}: choose another name, or remove it.")


def _keys_or_columns(path: Path) -> set[str]:
    """The keys of a JSON object, or the columns of a CSV file; empty for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".csv":
            return set(text.partition("\n")[0].split(","))
        there = json.loads(text)
    except (OSError, ValueError):
        return set()
    return set(there) if isinstance(there, dict) else set()


def probe_folder(path: Path) -> None:
    """Raise `StatsError` unless a file can be made beside ``path``, or its folder made where a folder exists above."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    probe = folder / f".{path.name}.{os.getpid()}.probe"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StatsError(f"Cannot write {path}: {error.strerror or error}.") from error


def write_aside(contents: Mapping[Path, bytes]) -> None:
    """Write every file under a temporary name, and only when all are written rename them in order.

    Raises `StatsError` when the disk refuses; an error or Ctrl-C leaves no temporary file.
    """
    asides = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, aside in asides.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(contents[path])
        for path, aside in asides.items():
            aside.replace(path)
    except OSError as error:
        raise StatsError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        for aside in asides.values():
            with contextlib.suppress(OSError):  # its folder may be what could not be made
                aside.unlink(missing_ok=True)
