"""Two runs side by side: every metric's difference by layer and over all layers, and what became of the loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...routing.sums import Floats
from ..tables.comparison import side_name
from .base import Estimate, RouterId, estimate, number, router_id


class Effect(NamedTuple):
    """A metric at A and at B, and B minus A."""

    a: float
    b: float
    effect: Estimate


@dataclass(frozen=True)
class LoadDifference:
    """One router: change of each expert's share of tokens [E], B minus A, with its simultaneous band.

    change: None where E differs, for ``reason``. below, above: half-widths of the band. l1: sum of |g - f| over
    experts, with the mean and 95% quantile of sides exchanged at random.
    """

    router: RouterId
    change: Floats | None
    below: float
    above: float
    l1: Estimate
    null_mean: float
    null_high: float
    reason: str | None


@dataclass(frozen=True)
class DifferenceSeries:
    """A comparison. routers: {metric: effect} of each router; overall: the same of the mean over those of one kind.

    paired: whether both sides ran the same sequences, None for values alone. allowed, notes: what to know of it.
    """

    names: tuple[str, str]
    paired: bool | None
    n_sequences: tuple[int, int]
    n_tokens: tuple[int, int]
    level: float
    units: Mapping[str, str]
    routers: tuple[RouterId, ...]
    effects: tuple[Mapping[str, Effect], ...]
    loads: tuple[LoadDifference, ...]
    overall: Mapping[str, Mapping[str, Effect]]
    flags: tuple[tuple[bool | None, bool | None], ...]
    allowed: tuple[str, ...]
    notes: tuple[str, ...]
    definition: str = (
        "B minus A with its interval; p: against sides exchanged at random; q: p adjusted over the routers of one kind "
        "(Benjamini-Hochberg)."
    )


def difference_series(found: Mapping[str, Any]) -> DifferenceSeries:
    """From `Comparison.to_dict`, with ``names`` of the sides if they have others than model and data."""
    sides = found["a"], found["b"]
    first, second = found.get("names") or [side_name(side) for side in sides]
    names = (first, second) if first != second else (f"A: {first}", f"B: {second}")
    routers = found["routers"]
    sizes = [tuple(int(side["data"][key]) for side in sides) for key in ("n_sequences", "n_tokens")]
    return DifferenceSeries(
        names,
        found["design"]["paired"],
        (sizes[0][0], sizes[0][1]),
        (sizes[1][0], sizes[1][1]),
        number(found["settings"]["ci"].get("level")),
        found["units"],
        tuple(router_id(r) for r in routers),
        tuple(_effects(r["effects"]) for r in routers),
        tuple(_load(r) for r in routers),
        {kind: _effects(row) for kind, row in found["overall"].items()},
        tuple((r["collapsed"]["a"], r["collapsed"]["b"]) for r in routers),
        tuple(str(one["what"]) for one in found.get("allowed", ())),
        tuple(map(str, found.get("notes", ()))),
    )


def _effects(row: Mapping[str, Any]) -> dict[str, Effect]:
    return {name: Effect(number(e["a"]), number(e["b"]), estimate(e["effect"], e)) for name, e in row.items()}


def _load(found: Mapping[str, Any]) -> LoadDifference:
    change, l1 = found["load"]["token_share_change"], found["load"]["load_l1"]
    values = change["values"]
    return LoadDifference(
        router_id(found),
        None if values is None else np.array([number(x) for x in values]),
        number(change.get("below")),
        number(change.get("above")),
        estimate(l1["value"], l1),
        number(l1.get("null_mean")),
        number(l1.get("null_high")),
        change.get("reason") or l1.get("reason"),
    )
