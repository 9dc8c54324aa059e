"""`compare`: two statistics side by side, every metric with its effect, interval, p and q, or the reason for none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MoebenchError, StatsError
from ..files import check_ours, is_ours, write_aside
from ..options import Plan
from ..routing.comparison.comparability import Matching, Side, check_comparable, match, notes
from ..routing.comparison.differences import CROSSINGS, ROUNDING, differences
from ..routing.comparison.effects import Differences, Distance, Effect, LoadChange, point_differences
from ..routing.comparison.lattice import POWER
from ..routing.comparison.resampling import LOADS
from ..routing.metrics import METRICS
from ..routing.record import RouterSpec
from ..types import Facts, Json
from .seal import sealed_text
from .sides import side_of
from .stats import RoutingStats

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = "2"


@dataclass(frozen=True)
class Comparison:
    """B minus A, for every router that both sides have and for all of one kind together.

    a, b: where each side's numbers come from. design: how sequences were matched, and how many. allowed: (kind, what)
    of all that makes the sides not quite comparable. notes: what a reader must know. routers: {metric: effect} of each
    of ``specs``; loads: what became of its experts; flags: its collapse flag at A and at B. overall: {kind of router:
    {metric or peak_metric: effect}}, of the mean over its routers or of the largest value over them.
    """

    a: Facts
    b: Facts
    design: Facts
    allowed: Sequence[tuple[str, str]]
    notes: Sequence[str]
    plan: Plan
    specs: tuple[RouterSpec, ...]
    routers: Sequence[Mapping[str, Effect]]
    loads: Sequence[LoadChange]
    flags: Sequence[tuple[bool | None, bool | None]]
    overall: Mapping[str, Mapping[str, Effect]]

    def __repr__(self) -> str:
        a, b = (f"{side['model'].get('id', 'a model')} on {side['data']['name']}" for side in (self.a, self.b))
        pairing = {True: "paired", False: "unpaired", None: "values alone"}[self.design["paired"]]
        return f"Comparison({b} minus {a}: {len(self.specs)} routers, {pairing})"

    def to_dict(self) -> Json:
        """For JSON; see ``schema/comparison.schema.json``. Undefined numbers are null."""
        plan = self.plan
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "comparison",
            "direction": "b - a",
            "a": self.a,
            "b": self.b,
            "design": self.design,
            "allowed": [{"kind": kind, "what": what} for kind, what in self.allowed],
            "notes": list(self.notes),
            "settings": {
                "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
                "rounding": ROUNDING,
                "q": "Benjamini-Hochberg over the routers of one kind, for each metric",
                "power": POWER,
            },
            "units": {name: m.unit for name, m in METRICS.items()} | LOADS,
            "routers": [self._router(number) for number in range(len(self.specs))],
            "overall": {kind: {name: e.to_dict() for name, e in row.items()} for kind, row in self.overall.items()},
        }

    def to_dataframe(self) -> pd.DataFrame:
        """One row per router and metric.

        Columns: layer, moe_layer, router, metric, unit, a, b, effect, low, high, p, q, detectable, reason. Distances
        between the loads are rows too: their effect is the distance, whose null is 0.
        """
        import pandas as pd

        rows = []
        for spec, effects, load in zip(self.specs, self.routers, self.loads, strict=True):
            identity = {key: getattr(spec, key) for key in ("layer", "moe_layer", "router")}
            for name, e in effects.items():
                numbers = {"a": e.a, "b": e.b, "effect": e.effect, **_row(e)}
                rows.append({**identity, "metric": name, "unit": METRICS[name].unit, **numbers})
            for name, d in load.distances.items():
                rows.append({**identity, "metric": name, "unit": LOADS[name], "effect": d.value, **_row(d)})
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> Path:
        """Write `to_dict` as JSON; raises `StatsError` when the disk refuses, or another kind of file is there."""
        check_ours(Path(path), "comparison", lambda: is_ours(Path(path), ("design", "direction", "overall"), ".json"))
        write_aside({Path(path): sealed_text(self.to_dict()).encode()})
        return Path(path)

    def _router(self, number: int) -> Json:
        spec, load, (flag_a, flag_b) = self.specs[number], self.loads[number], self.flags[number]
        change: Json = {"values": None if load.change is None else [_finite(x) for x in load.change]}
        if load.band is not None:
            change |= {"below": load.band[0], "above": load.band[1]}
        elif load.reason:
            change["reason"] = load.reason
        return {
            "layer": spec.layer,
            "moe_layer": spec.moe_layer,
            "router": spec.router,
            "effects": {name: e.to_dict() for name, e in self.routers[number].items()},
            "load": {name: d.to_dict() for name, d in load.distances.items()} | {"token_share_change": change},
            "collapsed": {"a": flag_a, "b": flag_b},
        }


def compare(
    a: RoutingStats | str | Path,
    b: RoutingStats | str | Path,
    *,
    allow: Sequence[str] = (),
    plan: Plan | None = None,
) -> Comparison:
    """How the routing of ``b`` differs from that of ``a``.

    Where both measured the same sequences they are compared in pairs (sequences that one side lacks are left out),
    otherwise as independent samples; equal texts count once. Where a side's sums per sequence are missing, as beside a
    report alone or in files of counts, values are compared, without intervals.

    Parameters
    ----------
    a, b
        Statistics, or paths of stats pairs.
    allow
        Kinds of differences that would be refused otherwise: ``data``, ``reading``, ``phase``, ``routers``,
        ``experts``, ``top-k``, ``distribution``, ``collapse``; see `comparability.OBSTACLES`.
    plan
        How intervals are made; the method ``layer`` is not possible here.

    Returns
    -------
    Comparison
        B minus A for every metric, router by router and over all of one kind, with interval, p and q.

    Raises
    ------
    StatsError
        For what is not comparable, with the reason, and for pairs that cannot be read.
    MoebenchError
        For a plan that resamples layers.

    Examples
    --------
    A model that is measured twice differs from itself by exactly 0:

    >>> import mlx_moebench
    >>> a, b = (mlx_moebench.analyze(dataset="math", max_samples=4, max_length=16) for _ in "ab")
    >>> comparison = mlx_moebench.compare(a, b)
    >>> comparison.design["paired"], comparison.overall["mlp"]["mean_entropy"].effect
    (True, 0.0)
    """
    plan = plan or Plan()
    if plan.method == "layer":
        raise MoebenchError("A comparison resamples sequences, not layers: choose bca or percentile.")
    of_a, of_b = side_of(a, "A"), side_of(b, "B")
    allowed = check_comparable(of_a, of_b, allow)
    places = _namesakes(of_a, of_b)
    matching = match(of_a, of_b)
    specs = tuple(of_a.specs[i] for i, _ in places)
    routers, loads, overall = _effects_by_kind(of_a, of_b, places, matching, plan)
    flags = [(of_a.flags[i], of_b.flags[j]) for i, j in places]
    facts = of_a.facts(), of_b.facts(), matching.facts(of_a, of_b)
    remarks = notes(of_a, of_b, matching)
    return Comparison(*facts, allowed, remarks, plan, specs, routers, loads, flags, overall)


def _namesakes(a: Side, b: Side) -> list[tuple[int, int]]:
    """(number at A, number at B) of the routers that both have, by layer and kind."""
    at_b = {spec.name: number for number, spec in enumerate(b.specs)}
    places = [(number, at_b[spec.name]) for number, spec in enumerate(a.specs) if spec.name in at_b]
    if not places:
        raise StatsError("No router of one side has a namesake (its layer and kind) in the other: nothing to compare.")
    return places


def _effects_by_kind(
    a: Side, b: Side, places: Sequence[tuple[int, int]], matching: Matching, plan: Plan
) -> tuple[list[Mapping[str, Effect]], list[LoadChange], dict[str, dict[str, Effect]]]:
    """Effects and changed loads of each router, and over all those of each kind; one kind is resampled together."""
    routers: list[Mapping[str, Effect]] = [{} for _ in places]
    loads: list[LoadChange] = [LoadChange({}, None) for _ in places]
    overall: dict[str, dict[str, Effect]] = {}
    kinds = [a.specs[i].router for i, _ in places]
    for kind in dict.fromkeys(kinds):
        members = [n for n, other in enumerate(kinds) if other == kind]
        of_kind = _differences(a, b, [places[n] for n in members], matching, plan)
        for n, row, load in zip(members, of_kind.routers, of_kind.loads, strict=True):
            routers[n], loads[n] = row, load
        overall[kind] = of_kind.mean | {f"peak_{name}": effect for name, effect in of_kind.peak.items()}
    return routers, loads, overall


def _differences(a: Side, b: Side, places: Sequence[tuple[int, int]], matching: Matching, plan: Plan) -> Differences:
    if matching.samples is None or a.stats is None or b.stats is None:
        points = [a.points[i] for i, _ in places], [b.points[j] for _, j in places]
        return point_differences(*points, reason=matching.missing or "a side has no sums of its sequences")
    of_a, of_b = zip(*(matching.sums(a.stats.sums(i), b.stats.sums(j)) for i, j in places), strict=True)
    return differences(of_a, of_b, matching.samples, plan)


def of_this_version(comparison: Json) -> Json:
    """comparison.json as this version reads it: version 1 had p of distances and counts by rules that were withdrawn.

    It exchanged sequences between the sides, which rejects equal loads too often where sides differ in size, and p and
    interval of `n90` could disagree. Values stay, and the interval of `n90`.
    """
    if comparison.get("schema_version") != "1":
        return comparison
    routers = [router | _of_version_1(router) for router in comparison["routers"]]
    overall = {kind: _untested(effects) for kind, effects in comparison["overall"].items()}
    return comparison | {"routers": routers, "overall": overall}


def _of_version_1(router: Json) -> Json:
    load = dict(router["load"])
    for name in LOADS:
        value, p = load[name]["value"], {"p": None, "q": None, "detectable": None}
        why = load[name].get("reason", "the comparison is from before distances had intervals: compare again")
        load[name] = {"value": value, "low": None, "high": None, "reason": why, "plugin": value, **p}
    return {"load": load, "effects": _untested(router["effects"])}


def _untested(effects: Json) -> Json:
    """Effects, those on counts of experts without p and q."""
    without = {name: dict.fromkeys(effects[name].keys() & {"p", "q"}) for name in effects.keys() & CROSSINGS.keys()}
    return {name: effect | without.get(name, {}) for name, effect in effects.items()}


def _row(one: Effect | Distance) -> Json:
    """Interval and test, for the columns of a table."""
    tested = {"p": one.p, "q": one.q, "detectable": one.detectable}
    return {"low": one.interval.low, "high": one.interval.high, **tested, "reason": one.interval.reason}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
