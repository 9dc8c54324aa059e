"""Counts in a table: columns layer, expert and count, with a header row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...pair.stats import RoutingStats
from . import Importer, NamedFile
from ._counts import Layers, routers_of, statistics_of_counts

COLUMNS = ("layer", "expert", "count")


def read(
    files: Sequence[NamedFile],
    *,
    experts: int,
    top_k: int,
    top1: Path | None = None,
    model_id: str = "imported counts",
    **settings: Any,
) -> RoutingStats:
    """Statistics of CSV files. The table says neither E nor K: experts that no token chose are not in it.

    Which rule makes p, and whether the tokens were prompts or generated, is not known either.
    """

    model = {"id": model_id, "model_type": "unknown"}
    return statistics_of_counts(
        files,
        _layers,
        lambda layers: routers_of(layers, experts, top_k),
        top1=top1,
        model=model,
        form="csv counts",
        phase="unsplit",
        **settings,
    )


def _layers(path: Path) -> Layers:
    counts: dict[int, dict[int, int]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            names = [name.strip().lower() for name in rows.fieldnames or ()]
            if missing := [column for column in COLUMNS if column not in names]:
                raise DataError(f"{path} has no column {missing[0]!r}: its first row must name {', '.join(COLUMNS)}.")
            rows.fieldnames = names
            for row in rows:
                layer, expert, count = _numbers(path, rows.line_num, row)
                if expert in counts.setdefault(layer, {}):
                    raise DataError(f"{path}, line {rows.line_num}: layer {layer}, expert {expert} is there twice.")
                counts[layer][expert] = count
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file that can be read ({error}).") from error
    if not counts:
        raise DataError(f"{path} has no counts.")
    return counts


def _numbers(path: Path, line: int, row: dict[str, str]) -> tuple[int, int, int]:
    try:
        layer, expert, count = (int(row[column]) for column in COLUMNS)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}, line {line}: layer, expert and count must be whole numbers.") from error
    if layer < 0:
        raise DataError(f"{path}, line {line}: a layer is 0 or more.")
    return layer, expert, count


IMPORTER = Importer(
    read,
    "Counts in CSV files: columns layer, expert, count.",
    "csv math=math.csv code=code.csv --experts 64 --top-k 8 --output counts.json",
    sequences=False,
)
