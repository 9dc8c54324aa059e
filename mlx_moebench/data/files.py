"""Which files are data: their kinds, and those of a folder."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import DataError
from .rows import Row, file_sha256, json_rows, jsonl_rows, packed, read_bytes, suffix_of, text_rows
from .tables import DELIMITERS, csv_rows, delimiter_of, parquet_rows

RECORDS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": parquet_rows,
}
"""Suffix of the files of which every row is a document, to its reader."""

CODE = frozenset(
    [
        *(".md", ".rst", ".tex", ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".java", ".kt", ".scala"),
        *(".js", ".jsx", ".ts", ".tsx", ".go", ".rs", ".rb", ".php", ".swift", ".sh", ".sql", ".r", ".jl", ".lua"),
        *(".pl", ".hs", ".ml", ".html", ".css"),
    ]
)
"""Suffixes of files of text other than .txt."""

KINDS = ", ".join([*RECORDS, ".txt"])
"""For messages."""


def is_known(path: Path) -> bool:
    """Whether a file of this suffix is read."""
    suffix = suffix_of(path)
    return suffix in RECORDS or suffix in (".txt", "") or suffix in CODE


def read_rows(path: Path, split_on: str = "file") -> Iterator[Row]:
    """The rows of one file, by its suffix; DataError when it cannot be read, naming file and line."""
    return RECORDS.get(suffix_of(path), partial(text_rows, split_on=split_on))(path)


def format_of(path: Path) -> str:
    """``jsonl``, ``csv, delimiter ;``, ``txt, gzip``, ...: how a file is read."""
    suffix = suffix_of(path)
    delimiter = delimiter_of(path) if suffix == ".csv" else ","
    marks = [f"delimiter {DELIMITERS[delimiter]}"] if delimiter != "," else []
    return ", ".join([suffix.removeprefix("."), *marks, *(["gzip"] if packed(path) else [])])


@dataclass(frozen=True)
class Folder:
    """The files of a folder that are read, in order of relative path, and how many others there are, by why not."""

    path: Path
    files: tuple[Path, ...]
    skipped: Mapping[str, int]

    def sha256(self) -> str:
        """Of the relative paths and contents of the files."""
        digest = hashlib.sha256()
        for path in self.files:
            relative = path.relative_to(self.path).as_posix()
            digest.update(os.fsencode(relative) + b"\0" + file_sha256(path).encode() + b"\n")
        return digest.hexdigest()


def read_folder(folder: Path, text_field: str | None) -> Folder:
    """The files of known kinds in a folder and below; DataError when there is none.

    .txt files always; and either those of rows or those of code and prose, whichever are more (of rows, when a field
    is asked for that only they can have): a README beside a data set is no data, nor is a settings file beside code.
    Hidden files and folders are left out, and so are binary files with the suffix of code, or without one.
    """
    skipped: Counter[str] = Counter()
    kinds: dict[str, list[Path]] = {"rows": [], "text": [], "code": []}
    for path in _visible(folder, skipped):
        kind = _kind(path)
        if kind is None:
            skipped["of another kind"] += 1
        elif kind == "code" and _is_binary(path):
            skipped["binary"] += 1
        else:
            kinds[kind].append(path)
    rows, code = kinds["rows"], kinds["code"]
    of_rows = len(rows) >= len(code) or (bool(rows) and text_field not in (None, "text", "content"))
    left = code if of_rows else rows
    if left:
        skipped["of another kind"] += len(left)
    files = kinds["text"] + (rows if of_rows else code)
    if not files:
        raise DataError(f"folder {folder} has no file of {KINDS}, or of code; put the data there or name its file.")
    return Folder(folder, tuple(sorted(files, key=lambda path: path.relative_to(folder).as_posix())), dict(skipped))


def _visible(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        hidden = [name for name in (*folders, *names) if name.startswith(".")]
        skipped.update({"hidden": len(hidden)} if hidden else {})
        folders[:] = [name for name in folders if name not in hidden]
        yield from (path for name in names if name not in hidden and (path := Path(here, name)).is_file())


def _kind(path: Path) -> str | None:
    suffix = suffix_of(path)
    if suffix in RECORDS:
        return "rows"
    # README, LICENSE and other names without a suffix are text, unless they turn out to be binary.
    return "text" if suffix == ".txt" else "code" if suffix in CODE or not path.suffix else None


def _is_binary(path: Path) -> bool:
    return any(b"\0" in start for start in read_bytes(path, lambda file: iter([file.read(8192)])))
