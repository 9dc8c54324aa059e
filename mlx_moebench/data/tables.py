"""Rows of tables: CSV in its dialects, TSV and Parquet."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError, MissingExtraError
from ..files import check_regular
from .rows import Row, packed, suffix_of, text_lines

DELIMITERS = {",": "comma", ";": ";", "\t": "tab", "|": "|"}
"""What may stand between the values of a .csv, the likeliest first, and its name."""

SAMPLE = 50_000
"""Characters from which the delimiter is found."""


def delimiter_of(path: Path) -> str:
    """The delimiter of a .csv or .tsv: the one by which its first lines have equally many columns, more than one.

    A comma where several or none do: a file of one column has no delimiter.
    """
    if suffix_of(path) == ".tsv":
        return "\t"
    lines, whole = _sample(path)
    _allow_long_fields()
    widths = {mark: _widths(lines, mark, whole) for mark in DELIMITERS}
    divided = [mark for mark, of_records in widths.items() if of_records and of_records[0] > 1]
    even = [mark for mark in divided if len(set(widths[mark])) == 1]
    return next(iter([*even, *divided]), ",")


def csv_rows(path: Path) -> Iterator[Row]:
    """A row for each record below the header."""
    _allow_long_fields()
    delimiter = delimiter_of(path)
    # strict: a quote that is never closed is an error instead of swallowing the rest of the file.
    reader = csv.reader((line for _, line in text_lines(path)), delimiter=delimiter, strict=True)
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
                mark = {",": "commas", "\t": "tabs"}.get(delimiter, delimiter)
                raise DataError(
                    f"{path}, {place} has {len(cells)} values but the header names {len(header)} columns; "
                    f"put double quotes around values that hold {mark}."
                )
            yield Row(str(path), place, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {start} is not valid CSV ({error}); correct its quotes.") from error


def parquet_rows(path: Path) -> Iterator[Row]:
    """A row for each of the table; columns of bytes, which hold images or audio, are left out."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("Reading .parquet", "data") from error
    try:
        check_regular(path)
        with pq.ParquetFile(gzip.open(path) if packed(path) else path) as table:
            columns = [one.name for one in table.schema_arrow if not _holds_bytes(pa, one.type)]
            number = 0
            # Few rows at a time: a document may be long.
            for batch in table.iter_batches(64, columns=columns):
                for values in batch.to_pylist():
                    yield Row(str(path), f"row {number}", values)
                    number += 1
    except (pa.ArrowException, ArithmeticError, EOFError, OSError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{path} cannot be read as Parquet ({reason}); check the file.") from error


def _holds_bytes(pa: object, kind: object) -> bool:
    types = pa.types  # type: ignore[attr-defined]
    children = [kind.field(i).type for i in range(kind.num_fields)] if types.is_struct(kind) else []  # type: ignore[attr-defined]
    return types.is_binary(kind) or types.is_large_binary(kind) or any(_holds_bytes(pa, child) for child in children)


def _sample(path: Path) -> tuple[list[str], bool]:
    """(the first lines of a file, whether they are all of it); the last may be cut off."""
    lines: list[str] = []
    room = SAMPLE
    for _, line in text_lines(path):
        lines.append(line[:room])
        room -= len(line)
        if room <= 0:
            return lines, False
    return lines, True


def _widths(lines: list[str], delimiter: str, whole: bool) -> list[int]:
    """The number of values of each record, without the last one where it may be cut off; none where it is no CSV."""
    try:
        records = [cells for cells in csv.reader(lines, delimiter=delimiter) if cells]
    except csv.Error:  # which whoever reads the rows will name
        return []
    return [len(cells) for cells in (records if whole else records[:-1])]


def _allow_long_fields() -> None:
    # The limit of 128 KiB a field is for hostile input; a document may well be longer.
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
