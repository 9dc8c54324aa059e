"""A heatmap in another order: some of its rows, and the columns of each by their values or their groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ...types import HostArray
from .drawing import Heat, Measure

Order = npt.NDArray[np.intp]
T = TypeVar("T")

ORDERS = {
    "number": "their number",
    "load": "their load, each layer its own",
    "domain": "their favourite domain, then their load",
}
"""Orders of the experts of a heatmap of loads, and what they are called."""


def arranged(heat: Heat, order: str = "number", flagged: bool = False) -> Heat:
    """A ``heat`` with the columns of each row in an order of `ORDERS`, ties by number, and with the flagged rows alone.

    ``domain`` needs the groups of `grouped`. There may be no row left.
    """
    values = heat.measures[heat.shown].values
    columns = [np.arange(len(row)) for row in values]
    if order != "number":
        columns = [np.argsort(-np.nan_to_num(row, nan=-np.inf), kind="stable") for row in values]
    if order == "domain":
        columns = [by[np.argsort(of[by], kind="stable")] for by, of in zip(columns, heat.groups, strict=True)]
    shown = [n for n in range(len(heat.rows)) if not flagged or heat.flags[n]]
    x = {"number": heat.x, "load": heat.x_ordered, "domain": "expert, by its favourite domain in each layer"}[order]
    return replace(_chosen(heat, shown, columns), x=x, order=order)


def _chosen(heat: Heat, shown: Sequence[int], columns: Sequence[Order]) -> Heat:
    def kept(of_rows: Sequence[T]) -> tuple[T, ...]:
        return tuple(of_rows[n] for n in shown) if of_rows else ()

    def sorted_cells(of_rows: Sequence[HostArray]) -> tuple[HostArray, ...]:
        return tuple(of_rows[n][columns[n]] for n in shown) if of_rows else ()

    def measure(one: Measure) -> Measure:
        cells, low, high = (sorted_cells(of) for of in (one.cells, one.low, one.high))
        return replace(one, cells=cells, over=kept(one.over), low=low, high=high)

    return replace(
        heat,
        rows=kept(heat.rows),
        measures={name: measure(one) for name, one in heat.measures.items()},
        row_cells=kept(heat.row_cells),
        facts={name: kept(of) for name, of in heat.facts.items()},
        reasons=kept(heat.reasons),
        beside=kept(heat.beside),
        neutral=kept(heat.neutral),
        flags=kept(heat.flags),
        groups=sorted_cells(heat.groups),
    )
