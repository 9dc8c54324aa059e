"""Counts in a table: columns layer, expert and count, or one row for each selection without a count.

SGLang once wrote ``expert_distribution_rankN_timestampT.csv`` of each rank, with the columns layer_id, expert_id and
count (python/sglang/srt/managers/expert_distribution.py, April 2025). llama.cpp's ``llama-moe-trace`` writes
``moe_trace.csv``: ``layer,expert`` for each expert of each token, mostly without a header row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...pair.stats import RoutingStats
from . import Importer, NamedFile
from ._counts import routers_of, statistics_of_counts
from ._ranks import Layers

COLUMNS = ("layer", "expert", "count")
NAMES = {"layer_id": "layer", "expert_id": "expert"}
"""Other names of the columns."""

DEEPEST = 100_000
"""No layer has such an index."""


def read(
    files: Sequence[NamedFile],
    *,
    experts: int,
    top_k: int,
    layers: tuple[int, ...] | None = None,
    top1: Path | None = None,
    ranks: str | None = None,
    model_id: str = "imported counts",
    **settings: Any,
) -> RoutingStats:
    """Statistics of CSV files. The table says neither E nor K: experts that no token chose are not in it.

    layers: those to read, of more. Which rule makes p, and whether the tokens were prompts or generated, is not known
    either.
    """

    model = {"id": model_id, "model_type": "unknown"}
    return statistics_of_counts(
        files,
        lambda path: _wanted(path, _layers(path), layers),
        lambda numbers: routers_of(numbers, experts, top_k),
        top1=top1,
        ranks=bool(ranks),
        model=model,
        form="csv counts",
        phase="unsplit",
        **settings,
    )


def _wanted(path: Path, counts: Layers, layers: tuple[int, ...] | None) -> Layers:
    if layers is None:
        _check_last(path, counts)
        return counts
    if missing := [layer for layer in layers if layer not in counts]:
        raise DataError(f"{path} has no layer {missing[0]}, but {', '.join(map(str, sorted(counts)))}: check --layers.")
    return {layer: counts[layer] for layer in layers}


def _check_last(path: Path, counts: Layers) -> None:
    """Raise `DataError` where the last layer alone has fewer selections, as llama.cpp computes it for outputs only."""
    *others, last = sorted(counts)
    each = {sum(counts[layer].values()) for layer in others}
    fewer = sum(counts[last].values())
    if len(each) == 1 and 0 <= fewer < min(each):
        raise DataError(
            f"{path} has {fewer} selections in layer {last}, the last, but {min(each)} in each of the others, as "
            "where the last layer is computed for some tokens only: leave it out with --layers "
            f"{','.join(map(str, others))}."
        )


def _layers(path: Path) -> Layers:
    counts: dict[int, dict[int, int]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            for line, (layer, expert, count) in _numbers(path, rows):
                of_layer = counts.setdefault(layer, {})
                if count is not None and expert in of_layer:
                    raise DataError(f"{path}, line {line}: layer {layer}, expert {expert} is there twice.")
                of_layer[expert] = of_layer.get(expert, 0) + (1 if count is None else count)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file that can be read ({error}).") from error
    if not counts:
        raise DataError(f"{path} has no counts.")
    return counts


def _numbers(path: Path, rows: Any) -> Iterator[tuple[int, tuple[int, int, int | None]]]:
    """(line, (layer, expert, count)) of each row; the count is None where a row is one selection."""
    first: list[str] = next(rows, [])
    names = [NAMES.get(name := cell.strip().lower(), name) for cell in first]
    header = not (len(first) == 2 and all(cell.strip().isdecimal() for cell in first))
    if not header:
        names = ["layer", "expert"]
    elif missing := [column for column in COLUMNS[:2] if column not in names]:
        raise DataError(
            f"{path} has no column {missing[0]!r}: its first row must name layer, expert and count, or layer and "
            "expert of each selection."
        )
    elif "count" not in names and len(names) > 2:
        raise DataError(f"{path} has no column 'count': its first row must name {', '.join(COLUMNS)}.")
    where = [names.index(column) if column in names else None for column in COLUMNS]
    if not header:
        yield rows.line_num, _row(path, rows.line_num, first, where)
    for row in rows:
        if row and not (header and row == first):  # tables that were joined have the header again
            yield rows.line_num, _row(path, rows.line_num, row, where)


def _row(path: Path, line: int, row: Sequence[str], where: Sequence[int | None]) -> tuple[int, int, int | None]:
    try:
        layer, expert, count = (None if at is None else int(row[at]) for at in where)
    except (IndexError, ValueError) as error:
        named = "layer, expert and count" if where[2] is not None else "layer and expert"
        raise DataError(f"{path}, line {line}: {named} must be whole numbers.") from error
    assert layer is not None
    assert expert is not None
    if not 0 <= layer < DEEPEST:
        raise DataError(f"{path}, line {line}: a layer is 0 or more, and the index of a block.")
    return layer, expert, count


IMPORTER = Importer(
    read,
    "Counts in CSV files: columns layer, expert, count; or layer and expert of each selection.",
    "csv math=math.csv code=code.csv --experts 64 --top-k 8 --output counts.json",
    sequences=False,
)
