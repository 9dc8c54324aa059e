"""Traces that ``analyze --trace`` wrote."""

from __future__ import annotations

from collections.abc import Sequence

from ...pair.stats import RoutingStats
from ...routing.record import Phase
from ..trace import read_trace
from . import Importer, NamedFile


def read(files: Sequence[NamedFile], *, phase: Phase = "prefill") -> RoutingStats:
    """The statistics of the runs that wrote the traces, of one phase; several are merged.

    Names given as NAME=FOLDER are ignored: a trace knows its data set.
    """
    return RoutingStats.merge([read_trace(file.path, phase) for file in files])


IMPORTER = Importer(
    read,
    "Folders that analyze --trace wrote: the statistics of those runs again, exactly.",
    "trace traces/math traces/code --output both.json",
    sequences=True,
)
