"""Texts that are in memory: lists, generators, data frames and data sets of other libraries, by what they can do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import DataError
from .fields import choose_fields
from .rows import Row

NAME = "texts"
"""Of texts in memory that are given none."""

TAKEN = "a list or generator of texts, of dicts or of chats, a DataFrame or a datasets.Dataset"


def name_of(dataset: Any) -> tuple[str, Any]:
    """(name, texts) of ``{name: texts}``, or of texts alone."""
    if not isinstance(dataset, Mapping):
        return NAME, dataset
    if len(dataset) != 1:
        raise DataError(f"A data set is one {{name: texts}}, not {len(dataset)}; give one of {_listed(dataset)}.")
    ((name, texts),) = dataset.items()
    return str(name), texts


def reusable(dataset: Any) -> Any:
    """The same data set, to be read more than once: what a generator gives, as a list."""
    if isinstance(dataset, Mapping):
        return {name: reusable(texts) for name, texts in dataset.items()}
    return list(dataset) if isinstance(dataset, Iterator) else dataset


def memory_rows(name: str, texts: Any, text_field: str | None) -> Iterator[Row]:
    """A row for each text; DataError for what is none, naming the row.

    A datasets.Dataset is narrowed to the fields that hold its text: others may be images, which are costly to decode.
    """
    if hasattr(texts, "select_columns") and getattr(texts, "column_names", None):
        texts = texts.select_columns(list(choose_fields(name, texts.column_names, text_field)))
    elif hasattr(texts, "to_dicts"):  # polars
        texts = texts.to_dicts()
    elif hasattr(texts, "to_dict") and hasattr(texts, "columns"):  # pandas
        texts = texts.to_dict("records")
    if isinstance(texts, str | bytes | tuple) or not isinstance(texts, Iterable):
        raise DataError(
            f"{texts!r:.60} is a value of type {type(texts).__name__}, not a data set; "
            f"give a name, a path, hub:ID, or texts: {TAKEN}."
        )
    for number, value in enumerate(texts):
        yield Row(name, f"row {number}", _values(f"{name}, row {number}", value))


def rows_sha256(rows: Iterable[Row], fields: tuple[str, ...]) -> str:
    """sha256 over the values of the chosen fields in every row, before any chat template."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.values.get(field) for field in fields], default=str).encode() + b"\n")
    return digest.hexdigest()


def _values(where: str, value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        return {"text": str(value)}
    if isinstance(value, list):
        return {"messages": value}
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is a value of type {type(value).__name__}, not a text; give {TAKEN}.")
    if value.keys() == {"role", "content"}:
        raise DataError(f"{where} is a single chat message; put each chat into a list of its own: [[...], [...]].")
    # Cells of a data frame may be arrays and scalars of NumPy.
    return {str(key): cell.tolist() if hasattr(cell, "tolist") else cell for key, cell in value.items()}


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(str(name) for name in names) or "them"
