"""Data sets as documents: bundled prompts, files, folders and the hub, read the same way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ..errors import DataError, did_you_mean
from ..options import Reading
from ..types import Tokenizer
from .fields import choose_fields, template_sha256, text_of
from .hub import HubTable
from .rows import READERS, Row, file_sha256, read_rows

PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Document:
    """One text of a data set.

    row: its index among the records of the data set, from 0; records without text keep their number.
    chat: the text already holds the special tokens of a chat template.
    windowed: from a .txt file; when too long it is cut into windows rather than truncated.
    """

    row: int
    text: str
    chat: bool = False
    windowed: bool = False


@dataclass(frozen=True)
class Corpus:
    """The documents of one data set and what identifies them.

    name: bundled name, file or folder name, or hub id as given. sha256: of the data set as a whole, whatever part of
    it ``documents`` holds: a file's bytes; a folder's relative paths and file hashes in order; a hub data set's
    chosen values. (sha256, row) identifies a document.
    field: ``text``, ``problem+solution``, ..., or a sorted list of these where the files of a folder differ.
    format: ``bundled``, ``jsonl``, ``txt``, ``csv``, ``folder`` or ``hub``.
    template: sha256 of the tokenizer's chat template; None when no document needed it.
    """

    name: str
    sha256: str
    documents: tuple[Document, ...]
    field: str
    format: str
    template: str | None = None

    @property
    def windowed(self) -> bool:
        """Whether any document is cut into windows when it is too long."""
        return any(document.windowed for document in self.documents)


def bundled_names() -> list[str]:
    """Names of the prompt sets that ship with the package, sorted."""
    return sorted(path.stem for path in PROMPTS.glob("*.jsonl"))


def read_corpus(
    dataset: str | Path,
    *,
    text_field: str | None = None,
    max_samples: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """Read a data set.

    dataset: a bundled name; a .jsonl, .csv (with a header row) or .txt file (a blank line ends a document); a folder,
        of which every such file in it and below is read in order of relative path, except hidden ones, with rows
        numbered through; or ``hub:ID[:CONFIG[:SPLIT]]``. A bundled name wins over a file of that name: write ./math.
    text_field: the field that holds the text, or several joined by ``+``; None takes the first that the first row of
        each file has of text, content, messages, prompt+completion, problem+solution, question+answer.
        Several are joined by a blank line; a list of chat messages goes through the tokenizer's chat template.
    max_samples: the first so many documents with text; None for all. Rows after them are not checked.
    tokenizer: needed for chat messages only.

    Raises DataError for a data set that is not there, cannot be read, lacks the field or has no text, and
    MissingExtraError for a hub data set without the package ``datasets``.
    """
    Reading(max_samples=max_samples)  # which knows what can be asked for
    rows: Iterable[Row]
    if isinstance(dataset, str) and dataset.startswith("hub:"):
        name, form = dataset.removeprefix("hub:"), "hub"
        table = HubTable(name, text_field)
        sha256, rows = table.sha256(), table.rows()
    else:
        bundled = isinstance(dataset, str) and dataset in bundled_names()
        # Unlike Path.expanduser this leaves a ~ that names no user as it is.
        path = PROMPTS / f"{dataset}.jsonl" if bundled else Path(os.path.expanduser(dataset))  # noqa: PTH111
        form = _form(path, str(dataset))
        if form == "folder":
            files = _files_below(path)
            sha256, rows = _folder_sha256(path, files), chain.from_iterable(map(read_rows, files))
        else:
            sha256, rows = file_sha256(path), read_rows(path)
        name = path.resolve().name
        if bundled:
            name, form = str(dataset), "bundled"

    documents, fields = _documents(rows, text_field, max_samples, tokenizer)
    if not documents:
        raise DataError(f"{dataset} has no document with text; give a data set with at least one.")
    template = template_sha256(tokenizer) if any(document.chat for document in documents) else None
    return Corpus(name, sha256, tuple(documents), ", ".join(sorted(fields)), form, template)


def _documents(
    rows: Iterable[Row], text_field: str | None, max_samples: int | None, tokenizer: Tokenizer | None
) -> tuple[list[Document], set[str]]:
    """The first documents with text, and the names of the fields they came from."""
    documents: list[Document] = []
    chosen: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows):
        if row.source not in chosen:
            chosen[row.source] = choose_fields(row.where, row.values, text_field)
        text, chat = text_of(row, chosen[row.source], tokenizer)
        if text:
            documents.append(Document(number, text, chat, row.windowed))
            if len(documents) == max_samples:
                break
    return documents, {"+".join(fields) for fields in chosen.values()}


def _form(path: Path, dataset: str) -> str:
    """``folder``, or a file's suffix without the dot; DataError when it is neither a folder nor a file we read."""
    try:
        # An empty string would otherwise mean the working directory.
        if dataset and path.is_dir():
            return "folder"
        is_file = path.is_file()
    except OSError as error:
        raise DataError(f"{dataset} cannot be read: {error.strerror}; check the path and its permissions.") from error
    if not is_file:
        raise DataError(
            f"{dataset!r} is neither a bundled data set nor a file or folder; "
            f"give a name, a path or hub:ID.{did_you_mean(dataset, bundled_names())}"
        )
    if path.suffix.lower() not in READERS:
        raise DataError(
            f"{dataset} is not one of {', '.join(READERS)}; convert it to one of them and give it that suffix."
        )
    return path.suffix.lower().removeprefix(".")


def _files_below(folder: Path) -> list[Path]:
    """Data files in a folder and below, in order of relative path; hidden files and folders are left out."""
    relative = [
        path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in READERS and path.is_file()
    ]
    visible = [path for path in relative if not any(part.startswith(".") for part in path.parts)]
    if not visible:
        raise DataError(f"folder {folder} has no file of {', '.join(READERS)}; put the data there or name its file.")
    return [folder / path for path in sorted(visible, key=Path.as_posix)]


def _folder_sha256(folder: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(os.fsencode(path.relative_to(folder).as_posix()) + b"\0" + file_sha256(path).encode() + b"\n")
    return digest.hexdigest()
