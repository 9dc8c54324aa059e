"""Rows of .jsonl, .csv and .txt files, read lazily, each knowing the file and line it came from."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..types import Facts


@dataclass(frozen=True)
class Row:
    """One record of a data set.

    source: the file, or the hub id. place: ``line 3`` or ``row 2``. values: field name to value.
    windowed: True for a document of a .txt file, which may be a whole book.
    """

    source: str
    place: str
    values: Facts
    windowed: bool = False

    @property
    def where(self) -> str:
        """``prompts.jsonl, line 3``, for messages."""
        return f"{self.source}, {self.place}"


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one file, by its suffix; DataError when it cannot be read, naming file and line."""
    return READERS[path.suffix.lower()](path)


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal; DataError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line with its end) of a UTF-8 file, with or without a byte order mark.

    Decoded line by line, so that a message can name the line; split at line feeds only, since JSON and CSV values
    may hold the other characters that Unicode calls line ends.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}, line {number} is not UTF-8; convert the file to UTF-8.") from error
                if "\0" in line:
                    raise DataError(f"{path}, line {number} holds a NUL byte; convert the file to UTF-8 text.")
                yield number, line
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error


def _jsonl(path: Path) -> Iterator[Row]:
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


def _csv(path: Path) -> Iterator[Row]:
    # The limit of 128 KiB a field is for hostile input; a document may well be longer.
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
    # strict: a quote that is never closed is an error instead of swallowing the rest of the file.
    reader = csv.reader((line for _, line in text_lines(path)), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            place = f"line {start}"
            start = reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                if len(set(header)) < len(header):
                    raise DataError(f"{path}, {place}: two columns share a name; give each column its own.")
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, {place} has {len(cells)} values but the header names {len(header)} columns; "
                    "put double quotes around values that hold commas."
                )
            yield Row(str(path), place, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {start} is not valid CSV ({error}); correct its quotes.") from error


def _txt(path: Path) -> Iterator[Row]:
    """One document for each run of lines that are not blank; its only field is ``text``."""
    document: list[str] = []
    start = 1
    for number, line in text_lines(path):
        if line.strip():
            if not document:
                start = number
            document.append(line.rstrip("\r\n"))
        elif document:
            yield Row(str(path), f"line {start}", {"text": "\n".join(document)}, windowed=True)
            document = []
    if document:
        yield Row(str(path), f"line {start}", {"text": "\n".join(document)}, windowed=True)


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {".jsonl": _jsonl, ".txt": _txt, ".csv": _csv}
"""File suffix, in lower case, to its reader."""
