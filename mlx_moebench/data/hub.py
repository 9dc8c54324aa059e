"""Rows of a data set on the Hugging Face hub, or of a local folder that ``datasets`` understands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import DataError, MissingExtraError
from .fields import choose_fields
from .memory import rows_sha256
from .rows import Row


class HubTable:
    """One split of a hub data set, narrowed to the fields that hold its text.

    spec: ``ID[:CONFIG[:SPLIT]]``; CONFIG may be left empty and SPLIT may be a slice such as ``train[:1000]``.
    text_field: as for ``read_corpus``. Raises MissingExtraError without the package ``datasets``, and DataError
    when the data set cannot be loaded, has several splits and none is named, or lacks the field.
    """

    def __init__(self, spec: str, text_field: str | None) -> None:
        self.spec = spec
        table = load_split(spec)
        self.fields = choose_fields(f"hub:{spec}", table.column_names, text_field)
        # Other columns may hold images or audio, which are costly to decode.
        self._table = table.select_columns(list(self.fields))

    def rows(self) -> Iterator[Row]:
        """Every row in order, with the chosen fields only."""
        for number, values in enumerate(self._table):
            yield Row(f"hub:{self.spec}", f"row {number}", values)

    def sha256(self) -> str:
        """sha256 over the values of the chosen fields in every row, before any chat template."""
        return rows_sha256(self.rows(), self.fields)


def load_split(spec: str) -> Any:
    """The one table of ``ID[:CONFIG[:SPLIT]]``; raises what `HubTable` raises."""
    name, config, split = (*spec.split(":", 2), "", "")[:3]
    if not name:
        raise DataError(f"'hub:{spec}' names no data set; write hub:ID, hub:ID:CONFIG or hub:ID:CONFIG:SPLIT.")
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("Reading a data set from the hub", "data") from error

    # The client behind huggingface_hub is httpx or httpx2 by its version; both name this base class.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    failures = (OSError, ValueError, TypeError, KeyError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError)
    try:
        loaded = datasets.load_dataset(name, config or None, split=split or None)
    except failures as error:
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        raise DataError(
            f"hub:{spec} cannot be loaded ({type(error).__name__}: {reason}); "
            "check the id, the configuration, the split and the network."
        ) from error
    if not isinstance(loaded, dict):
        return loaded
    if len(loaded) > 1:
        raise DataError(
            f"hub:{spec} has the splits {', '.join(loaded)}; name one: hub:{name}:{config}:{next(iter(loaded))}."
        )
    return next(iter(loaded.values()))
