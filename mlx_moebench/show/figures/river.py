"""Where the tokens of an expert go at the next router: columns of experts, and the moves between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ...routing.sums import Floats
from ..inputs import Run
from .base import RouterId, router_id
from .load import WITHOUT_SUMS

FEW = 16
"""Experts of a router up to which each one is shown."""

BUSIEST = 12
"""Of more experts, those of largest load are shown; the rest are one."""

SWEEPS = 24
"""Times that the columns are put into order, from left to right and back."""

ONE_ROUTER = "the model has one router, and a river needs a next one"
POOLED = "no interval: the counts are pooled over all sequences"
"""Tokens of a text depend on each other, so that an interval would need the moves of each sequence, kept apart."""

DEFINITION = (
    "Selections of an expert, and how many of its tokens' selections at the next router are which expert's: all K x K' "
    "pairs of a token. Lift: those pairs over what independent choices at the two routers would give, "
    f"M_ij T / (N_i N_j); chance is 1. There is {POOLED}."
)

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """One router. experts: those shown, from top to bottom; None stands for all others together.

    loads: [n] selections of each; others: how many experts None stands for.
    """

    router: RouterId
    n_tokens: int
    experts: tuple[int | None, ...]
    loads: Counts
    others: int


@dataclass(frozen=True)
class RiverSeries:
    """Columns of a run in running order. moves: between each two of them [n, m], pairs of selections.

    reason: why there are no moves; empty columns then.
    """

    run: str
    n_sequences: int
    n_tokens: int
    columns: tuple[Column, ...]
    moves: tuple[Counts, ...]
    reason: str | None = None
    unit: str = "selections"

    def lift(self, gap: int) -> Floats:
        """Moves over those of independent choices [n, m] from column ``gap`` to the next; NaN for an unused expert."""
        return lift_of(
            self.moves[gap], self.columns[gap].loads, self.columns[gap + 1].loads, self.columns[gap].n_tokens
        )


def lift_of(moves: Counts, here: Counts, there: Counts, n_tokens: int) -> Floats:
    """M_ij T / (N_i N_j) [n, m]; NaN where either has no selection.

    >>> lift_of(np.array([[4, 0], [0, 4]]), np.array([4, 4]), np.array([4, 4]), 8)
    array([[2., 0.],
           [0., 2.]])
    """
    expected = np.outer(here.astype(np.float64), there.astype(np.float64)) / max(1, n_tokens)
    return np.asarray(moves / np.where(expected > 0, expected, np.nan))


def river_series(run: Run) -> RiverSeries:
    """The moves of a run on all its data, the columns ordered so that strong ones run straight."""
    report, stats = run.report, run.stats
    data, routers = report["data"], [router_id(r) for r in report["routers"]]
    sizes = int(data["n_sequences"]), int(data["n_tokens"])
    reason = None
    if len(routers) < 2:
        reason = ONE_ROUTER
    elif stats is None:
        reason = WITHOUT_SUMS
    elif not all(stats.transitions_known(n) for n in range(len(routers) - 1)) or not sizes[1]:
        reason = "moves between routers were not recorded"
    if reason is not None or stats is None:
        return RiverSeries(run.name, *sizes, (), (), reason)
    columns = [
        _column(router, int(r["n_tokens"]), r["selection_counts"])
        for router, r in zip(routers, report["routers"], strict=True)
    ]
    moves = [_merged(stats.transition_counts(n), here, there) for n, (here, there) in enumerate(pairwise(columns))]
    return _ordered(RiverSeries(run.name, *sizes, tuple(columns), tuple(moves)))


def _column(router: RouterId, n_tokens: int, counts: Sequence[int]) -> Column:
    """The busiest experts of a router in the order of their number, then the others."""
    loads = np.array(counts, dtype=np.int64)
    most = len(loads) if len(loads) <= FEW else BUSIEST
    shown = sorted(np.argsort(-loads, kind="stable")[:most].tolist())
    rest = len(loads) - most
    experts: tuple[int | None, ...] = (*shown, None) if rest else tuple(shown)
    kept = [*loads[shown], loads.sum() - loads[shown].sum()] if rest else loads[shown]
    return Column(router, n_tokens, experts, np.array(kept, dtype=np.int64), rest)


def _merged(moves: Counts, here: Column, there: Column) -> Counts:
    """Moves [E, E'] as those of two columns [n, m]."""
    for axis, column in enumerate((here, there)):
        shown = [e for e in column.experts if e is not None]
        kept = np.take(moves, shown, axis=axis)
        rest = moves.sum(axis=axis, keepdims=True) - kept.sum(axis=axis, keepdims=True)
        moves = np.concatenate([kept, rest], axis=axis) if column.others else kept
    return moves


def _ordered(series: RiverSeries) -> RiverSeries:
    """The columns in an order in which moves beyond chance run straight: the best of `SWEEPS` relaxations.

    As layouts of Sankey diagrams do it: every column in turn is sorted by where its neighbours lie on average, weighted
    by the moves between them, here by those beyond chance, since all others go everywhere alike. The merged experts
    stay at the bottom.
    """
    excess = [np.maximum(0.0, m - m / np.where(lift > 0, lift, np.inf)) for m, lift in _with_lift(series)]
    orders = [np.arange(len(column.experts)) for column in series.columns]
    best, least = [order.copy() for order in orders], _cost(series, excess, orders)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        places = range(1, len(orders)) if forward else range(len(orders) - 2, -1, -1)
        for place in places:
            fixed = place - 1 if forward else place + 1
            weights = excess[fixed] if forward else excess[place].T  # [fixed, place]
            centres = _centres(series.columns[fixed], orders[fixed])
            orders[place] = _sorted(series.columns[place], orders[place], weights, centres)
        cost = _cost(series, excess, orders)
        if cost < least:
            best, least = [order.copy() for order in orders], cost
    columns = tuple(
        Column(c.router, c.n_tokens, tuple(c.experts[i] for i in order), c.loads[order], c.others)
        for c, order in zip(series.columns, best, strict=True)
    )
    moves = tuple(m[np.ix_(best[n], best[n + 1])] for n, m in enumerate(series.moves))
    return RiverSeries(series.run, series.n_sequences, series.n_tokens, columns, moves)


def _with_lift(series: RiverSeries) -> list[tuple[Counts, Floats]]:
    return [(moves, np.nan_to_num(series.lift(gap))) for gap, moves in enumerate(series.moves)]


def _centres(column: Column, order: npt.NDArray[np.intp]) -> Floats:
    """[n] the middle of each node of a column of height 1, by its number before it was put into order."""
    shares = column.loads[order] / max(1, column.loads.sum())
    centres = np.empty(len(order))
    centres[order] = np.cumsum(shares) - shares / 2
    return centres


def _sorted(column: Column, order: npt.NDArray[np.intp], weights: Floats, centres: Floats) -> npt.NDArray[np.intp]:
    """The order of a column by the mean centre of its neighbours; a node without any stays where it is."""
    total = weights.sum(axis=0)
    mean = np.where(total > 0, centres @ weights / np.where(total > 0, total, 1.0), _centres(column, order))
    if column.others:
        mean[-1] = np.inf
    return np.argsort(mean, kind="stable")


def _cost(series: RiverSeries, excess: Sequence[Floats], orders: Sequence[npt.NDArray[np.intp]]) -> float:
    """How far the moves beyond chance go up and down, in column heights."""
    centres = [_centres(column, order) for column, order in zip(series.columns, orders, strict=True)]
    return float(sum((m * np.abs(np.subtract.outer(centres[n], centres[n + 1]))).sum() for n, m in enumerate(excess)))
