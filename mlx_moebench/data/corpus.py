"""Data sets as documents: bundled prompts, files, folders, the hub and texts in memory, read the same way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean
from ..files import check_regular
from ..options import Reading
from ..types import Json, Tokenizer
from .fields import choose_fields, template_sha256, text_of
from .files import KINDS, format_of, is_known, read_folder, read_rows
from .hub import HubTable
from .memory import memory_rows, name_of, rows_sha256
from .rows import Row, file_sha256

PROMPTS = Path(__file__).parent / "prompts"

Dataset = Any
"""A data set: a `Corpus`; a bundled name, a path or ``hub:ID``; or texts in memory, as `read_corpus` takes them."""


@dataclass(frozen=True)
class Document:
    """One text of a data set.

    row: its index among the records of the data set, from 0; records without text keep their number.
    chat: the text already holds the special tokens of a chat template.
    windowed: when too long it is cut into windows rather than truncated.
    """

    row: int
    text: str
    chat: bool = False
    windowed: bool = False


@dataclass(frozen=True)
class Corpus:
    """The documents of one data set and what identifies them.

    name: bundled name, file or folder name, hub id as given, or that of texts in memory. sha256: of the data set as a
    whole, whatever part of it ``documents`` holds: a file's bytes; a folder's relative paths and file hashes in order;
    the chosen values of a hub data set or of texts in memory. (sha256, row) identifies a document.
    field: ``text``, ``problem+solution``, ..., or a sorted list of these where the files of a folder differ.
    format: ``bundled``, ``folder``, ``hub``, ``memory``, or what `format_of` says of a file.
    template: sha256 of the tokenizer's chat template; None when no document needed it.
    unit: what a document is, ``row``, ``file``, ``line`` or ``blank``, or a sorted list of these.
    files, skipped: of a folder, how many files were read and how many were not, by why not.
    """

    name: str
    sha256: str
    documents: tuple[Document, ...]
    field: str
    format: str
    template: str | None = None
    unit: str = "row"
    files: int | None = None
    skipped: Mapping[str, int] | None = None

    @property
    def windowed(self) -> bool:
        """Whether any document is cut into windows when it is too long."""
        return any(document.windowed for document in self.documents)

    @property
    def long(self) -> str:
        """What is done with a document that is too long, ``truncate`` or ``windows``, or both where they differ."""
        return ", ".join(sorted({"windows" if document.windowed else "truncate" for document in self.documents}))

    def facts(self) -> Json:
        """For a report, but for the sha256, by which it knows a data set."""
        keys = ("name", "format", "field", "template", "unit", "long")
        of_folder = {"files": self.files, "skipped": dict(self.skipped or {})}
        return {key: getattr(self, key) for key in keys} | {key: value for key, value in of_folder.items() if value}


def bundled_names() -> list[str]:
    """Names of the prompt sets that ship with the package, sorted."""
    return sorted(path.stem for path in PROMPTS.glob("*.jsonl"))


def split_field(dataset: Dataset) -> tuple[Dataset, str | None]:
    """(data set, its own text field) of ``DATASET@FIELD``, unless that path exists, or of such a tuple."""
    if isinstance(dataset, tuple):
        if len(dataset) != 2 or not isinstance(dataset[1], str):
            raise DataError("A tuple is (data set, text field); put texts into a list.")
        return dataset
    if not isinstance(dataset, str):
        return dataset, None
    path, at, text_field = dataset.rpartition("@")
    if not (at and path and text_field) or _exists(dataset):
        return dataset, None
    return path, text_field


def read_corpus(
    dataset: Dataset,
    *,
    text_field: str | None = None,
    max_samples: int | None = None,
    split_on: str = "file",
    long: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """Read a data set.

    dataset: a bundled name, which wins over a file of that name (write ./math for that); a file of rows, .jsonl, .json
        (an array), .csv (with a header, its delimiter is found), .tsv or .parquet; a file of text, .txt, .md, .py, ...;
        either as .gz; a folder, see `files.read_folder`, whose rows are numbered through; or
        ``hub:ID[:CONFIG[:SPLIT]]``. Or texts in memory: a list or generator of texts, of dicts or of chats (lists of
        messages), a DataFrame, a datasets.Dataset; as ``{name: texts}`` to name them. ``DATASET@FIELD``, or a tuple
        (data set, field), has its own text_field.
    text_field: the field that holds the text, or several joined by ``+``; None takes the first that the first row of
        each file has of text, content, messages, prompt+completion, problem+solution, question+answer.
        Several are joined by a blank line; a list of chat messages goes through the tokenizer's chat template.
    max_samples: the first so many documents with text; None for all. Rows after them are not checked.
    split_on, long: what a document of a file of text is, and what is done with one that is too long; see
        `options.Reading`.
    tokenizer: needed for chat messages only.

    Raises DataError for a data set that is not there, cannot be read, lacks the field or has no text, and
    MissingExtraError for a hub data set or a .parquet without the package ``datasets``.
    """
    reading = Reading(max_samples=max_samples, split_on=split_on, long=long)  # which knows what can be asked for
    if isinstance(dataset, Corpus):
        return dataset
    dataset, own_field = split_field(dataset)
    text_field = own_field or text_field
    named = isinstance(dataset, str | Path)
    source = _source(dataset, text_field, split_on) if named else _in_memory(dataset, text_field)
    documents, fields, units = _documents(source.rows, text_field, reading, tokenizer)
    if not documents:
        what = dataset if named else source.name
        raise DataError(f"{what} has no document with text; give a data set with at least one.")
    template = template_sha256(tokenizer) if any(document.chat for document in documents) else None
    field, unit = ", ".join(sorted({"+".join(names) for names in fields})), ", ".join(sorted(units))
    sha256 = source.sha256(fields[0])
    return Corpus(
        source.name, sha256, tuple(documents), field, source.format, template, unit, source.files, source.skipped
    )


@dataclass(frozen=True)
class _Source:
    """Where rows come from; sha256: told the fields that hold the text, after the rows were read."""

    name: str
    format: str
    rows: Iterable[Row]
    sha256: Callable[[tuple[str, ...]], str]
    files: int | None = None
    skipped: Mapping[str, int] | None = None


def _source(dataset: str | Path, text_field: str | None, split_on: str) -> _Source:
    if isinstance(dataset, str) and dataset.startswith("hub:"):
        name = dataset.removeprefix("hub:")
        table = HubTable(name, text_field)
        return _Source(name, "hub", table.rows(), lambda _: table.sha256())
    if isinstance(dataset, str) and dataset in bundled_names():
        path = PROMPTS / f"{dataset}.jsonl"
        return _Source(dataset, "bundled", read_rows(path), lambda _: file_sha256(path))
    # Unlike Path.expanduser this leaves a ~ that names no user as it is.
    path = Path(os.path.expanduser(dataset))  # noqa: PTH111
    if _is_folder(path, str(dataset)):
        folder = read_folder(path, text_field)
        rows = chain.from_iterable(read_rows(file, split_on) for file in folder.files)
        sha256 = folder.sha256()
        return _Source(path.resolve().name, "folder", rows, lambda _: sha256, len(folder.files), folder.skipped)
    sha256 = file_sha256(path)
    return _Source(path.resolve().name, format_of(path), read_rows(path, split_on), lambda _: sha256)


def _in_memory(dataset: Any, text_field: str | None) -> _Source:
    name, texts = name_of(dataset)
    rows = memory_rows(name, texts, text_field)
    read: list[Row] = []

    def recorded() -> Iterator[Row]:
        for row in rows:
            read.append(row)
            yield row

    def sha256(fields: tuple[str, ...]) -> str:
        # What a generator would give beyond the documents asked for is not known, and may have no end.
        return rows_sha256(read if isinstance(texts, Iterator) else chain(read, rows), fields)

    return _Source(name, "memory", recorded(), sha256)


def _documents(
    rows: Iterable[Row], text_field: str | None, reading: Reading, tokenizer: Tokenizer | None
) -> tuple[list[Document], list[tuple[str, ...]], set[str]]:
    """The first documents with text, the fields that they came from, and what was made a document."""
    documents: list[Document] = []
    chosen: dict[str, tuple[str, ...]] = {}
    units: set[str] = set()
    for number, row in enumerate(rows):
        if row.source not in chosen:
            chosen[row.source] = choose_fields(row.where, row.values, text_field)
        text, chat = text_of(row, chosen[row.source], tokenizer)
        if text:
            documents.append(Document(number, text, chat, reading.windows(row.unit)))
            units.add(row.unit)
            if len(documents) == reading.max_samples:
                break
    return documents, list(chosen.values()), units


def _exists(dataset: str) -> bool:
    try:
        return Path(os.path.expanduser(dataset)).exists()  # noqa: PTH111
    except OSError:
        return False


def _is_folder(path: Path, dataset: str) -> bool:
    """Whether it is a folder; DataError when it is neither that nor a file we read."""
    try:
        # An empty string would otherwise mean the working directory.
        if dataset and path.is_dir():
            return True
        is_file = path.is_file()
        if dataset and path.exists() and not is_file:
            check_regular(path)  # which says what it is
    except OSError as error:
        raise DataError(f"{dataset} cannot be read: {error.strerror}; check the path and its permissions.") from error
    if not is_file:
        texts = " Texts themselves go into a list." if len(dataset.split()) > 2 else ""
        raise DataError(
            f"{dataset!r} is neither a bundled data set nor a file or folder; "
            f"give a name, a path or hub:ID.{did_you_mean(dataset, bundled_names())}{texts}"
        )
    if not is_known(path):
        raise DataError(
            f"{dataset} is not one of {KINDS}, nor of code; convert it to one of them and give it that suffix."
        )
    return False
