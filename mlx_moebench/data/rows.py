"""Rows of files, read lazily, each knowing the file and line it came from."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError
from ..files import opened
from ..types import Facts


@dataclass(frozen=True)
class Row:
    """One record of a data set.

    source: the file, the hub id, or the name of texts in memory. place: ``line 3`` or ``row 2``. values: field name to
    value. unit: what it is, ``row``, or of a file of text the whole ``file``, a ``line``, or what stands between
    ``blank`` lines.
    """

    source: str
    place: str
    values: Facts
    unit: str = "row"

    @property
    def where(self) -> str:
        """``prompts.jsonl, line 3``, for messages."""
        return f"{self.source}, {self.place}"


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal; DataError when it cannot be read."""
    try:
        with opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}{_advice(error)}.") from error


def _advice(error: OSError) -> str:
    return "; check its permissions" if isinstance(error, PermissionError) else ""


def suffix_of(path: Path) -> str:
    """A file's suffix in lower case, of ``x.csv.gz`` that of what is packed: ``.csv``."""
    return (path.with_suffix("") if packed(path) else path).suffix.lower()


def packed(path: Path) -> bool:
    """Whether it is compressed by gzip."""
    return path.suffix.lower() == ".gz"


def read_bytes(path: Path, read: Callable[[BinaryIO], Iterator[bytes]]) -> Iterator[bytes]:
    """What ``read`` yields of an open file, unpacked where it is ``.gz``; DataError when it cannot be read."""
    try:
        with opened(path) as file, gzip.open(file) if packed(path) else nullcontext(file) as content:
            yield from read(content)  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not whole or not gzip ({error}); copy or compress it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}{_advice(error)}.") from error


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line with its end) of a UTF-8 file, with or without a byte order mark.

    Decoded line by line, so that a message can name the line; split at line feeds only, since JSON and CSV values
    may hold the other characters that Unicode calls line ends.
    """
    for number, raw in enumerate(read_bytes(path, iter), start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number} is not UTF-8; convert the file to UTF-8.") from error
        if "\0" in line:
            raise DataError(f"{path}, line {number} holds a NUL byte; convert the file to UTF-8 text.")
        yield number, line


def jsonl_rows(path: Path) -> Iterator[Row]:
    """One object a line."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is not valid JSON ({error}); write one object a line.") from error
        if not isinstance(values, dict):
            raise DataError(f"{path}, line {number} is not a JSON object; write one object of named fields a line.")
        yield Row(str(path), f"line {number}", values)


def json_rows(path: Path) -> Iterator[Row]:
    """An array of texts or of objects, or an object that holds one as ``data``."""
    try:
        whole = json.loads("".join(line for _, line in text_lines(path)))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); correct it.") from error
    records = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(records, list):
        raise DataError(f'{path} is not a JSON array; write an array of texts or of objects, or {{"data": [...]}}.')
    for number, record in enumerate(records):
        values = {"text": record} if isinstance(record, str) else record
        if not isinstance(values, dict):
            raise DataError(f"{path}, row {number} is neither a text nor a JSON object; write one of them.")
        yield Row(str(path), f"row {number}", values)


def text_rows(path: Path, split_on: str) -> Iterator[Row]:
    """The documents of a file of text: the whole ``file``, each ``line``, or what stands between ``blank`` lines.

    Lines end in a line feed, without the carriage return that may stand before it; lines of spaces are blank.
    """
    document: list[str] = []
    start = 1
    for number, line in text_lines(path):
        if line.strip() or (split_on == "file" and document):
            if not document:
                start = number
            document.append(line.rstrip("\r\n"))
        if document and (split_on == "line" or (split_on == "blank" and not line.strip())):
            yield _text_row(path, start, document, split_on)
            document = []
    if document:
        yield _text_row(path, start, document, split_on)


def _text_row(path: Path, start: int, lines: list[str], split_on: str) -> Row:
    text = "\n".join(lines).rstrip("\n") if split_on == "file" else "\n".join(lines)
    # Data sets of code call it content; a folder of both kinds is read under either name.
    return Row(str(path), f"line {start}", {"text": text, "content": text}, split_on)
