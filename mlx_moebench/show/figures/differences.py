"""Two runs side by side: every metric's difference by layer and over all layers, and what became of the loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...routing.sums import Floats
from ...types import Facts
from ..names import isolated, label_and_unit, side_name, unit_of_text
from ..numbers import count, difference, percent, with_interval
from .base import RouterId, Value, definition, intervals_of, labels, or_nan, router_id, value_of
from .drawing import CLEAR, Chart, Heat, Line, Measure, Reference, Scale, kinds_of, points_of

PAIRED, UNPAIRED, VALUES = "paired on the same sequences", "unpaired, as independent samples", "values only"
WITHOUT = "without intervals"
TESTED = (
    "p: of no difference, by the same numbers as the interval; q: p adjusted over the routers of one kind "
    "(Benjamini-Hochberg); detectable: the smallest true difference that 4 of 5 such comparisons would find."
)
TESTED_TIP = "p {p}, q {q}; detectable {detectable:4}"


class Effect(NamedTuple):
    """A metric at A and at B, and B minus A. detectable: the true difference that 4 of 5 comparisons would find."""

    a: float
    b: float
    effect: Value
    detectable: float = np.nan


@dataclass(frozen=True)
class LoadDifference:
    """One router: change of each expert's share of tokens [E], B minus A, with its simultaneous band.

    change: None where E differs, for ``reason``. low, high [E]: the ends of the band, NaN without one. l1: sum of
    |g - f| over experts, without what chance adds; plugin: with it. detectable: see `Effect`.
    """

    router: RouterId
    change: Floats | None
    low: Floats
    high: Floats
    l1: Value
    plugin: float
    detectable: float
    reason: str | None


@dataclass(frozen=True)
class DifferenceSeries:
    """A comparison. effects: {metric: effect} of each router; overall: the same of the mean over those of one kind.

    paired: whether both sides ran the same sequences, None for values alone. texts: what each side's ``n_sequences``
    are. allowed, notes: what to know of it.
    """

    names: tuple[str, str]
    texts: tuple[str, str]
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

    @property
    def tested(self) -> bool:
        """Whether any effect or distance has an interval, and so p and q."""
        effects = (e.effect for row in (*self.effects, *self.overall.values()) for e in row.values())
        return any(value.has_interval for value in (*effects, *(load.l1 for load in self.loads)))

    @property
    def how(self) -> str:
        """By what the sides are compared."""
        how = {True: PAIRED, False: UNPAIRED, None: f"{VALUES}, {WITHOUT}"}[self.paired]
        return how if self.tested or self.paired is None else f"{how}, {WITHOUT}"

    @property
    def sides(self) -> str:
        """``A: base, 40 sequences, 4,699 tokens. B: ...``, and how they are compared."""
        parts = (
            f"{letter}: {isolated(name)}, {count(n, text)}, {count(tokens, 'token')}."
            for letter, name, n, text, tokens in zip(
                "AB", self.names, self.n_sequences, self.texts, self.n_tokens, strict=True
            )
        )
        return f"{' '.join(parts)} {self.how[0].upper()}{self.how[1:]}."


def difference_series(comparison: Facts) -> DifferenceSeries:
    """From `Comparison.to_dict`, with ``names`` of the sides if they have others than model and data."""
    sides = comparison["a"], comparison["b"]
    first, second = comparison.get("names") or [side_name(side) for side in sides]
    names = (first, second) if first != second else (f"A: {first}", f"B: {second}")
    routers = comparison["routers"]
    sizes = [tuple(int(side["data"][key]) for side in sides) for key in ("n_sequences", "n_tokens")]
    return DifferenceSeries(
        names,
        (unit_of_text(comparison["a"]["model"]), unit_of_text(comparison["b"]["model"])),
        comparison["design"]["paired"],
        (sizes[0][0], sizes[0][1]),
        (sizes[1][0], sizes[1][1]),
        or_nan(comparison["settings"]["ci"].get("level")),
        comparison["units"],
        tuple(router_id(r) for r in routers),
        tuple(_effects(r["effects"]) for r in routers),
        tuple(_load(r) for r in routers),
        {kind: _effects(row) for kind, row in comparison["overall"].items()},
        tuple((r["collapsed"]["a"], r["collapsed"]["b"]) for r in routers),
        tuple(str(one["what"]) for one in comparison.get("allowed", ())),
        tuple(map(str, comparison.get("notes", ()))),
    )


def _effects(row: Facts) -> dict[str, Effect]:
    return {
        name: Effect(or_nan(e["a"]), or_nan(e["b"]), value_of(e["effect"], e), or_nan(e.get("detectable")))
        for name, e in row.items()
    }


def _load(router: Facts) -> LoadDifference:
    change, l1 = router["load"]["token_share_change"], router["load"]["load_l1"]
    values = None if change["values"] is None else np.array([or_nan(x) for x in change["values"]])
    middle = np.zeros(0) if values is None else values
    # No share changes by more than all of it.
    return LoadDifference(
        router_id(router),
        values,
        np.maximum(middle - or_nan(change.get("below")), -1.0),
        np.minimum(middle + or_nan(change.get("above")), 1.0),
        value_of(l1["value"], l1),
        or_nan(l1.get("plugin")),
        or_nan(l1.get("detectable")),
        change.get("reason") or l1.get("reason"),
    )


def difference_sentence(series: DifferenceSeries) -> str:
    """Whether the load moved, in how many layers and where the most, which expert gained, and the mean entropy."""
    a, b = map(isolated, (series.names[0], series.names[1]))
    parts = [_moved(series), _gained(series)]
    kind = "mlp" if "mlp" in series.overall else next(iter(series.overall), None)
    entropy = series.overall[kind].get("mean_entropy") if kind else None
    if entropy is not None and entropy.effect.value == entropy.effect.value:
        parts.append(f"Mean entropy moves by {difference(entropy.effect.value, entropy.effect)} nats")
    return f"{b} against {a}, {series.how}: {'. '.join(filter(None, parts))}."


def _moved(series: DifferenceSeries) -> str:
    noun = "layer" if len(kinds_of(series.routers)) == 1 else "router"
    tested = [load for load in series.loads if load.l1.q == load.l1.q]
    if not tested:
        return "whether the load moved by more than chance cannot be said"
    moved = [load for load in tested if load.l1.q < CLEAR]
    if not moved:
        return f"the load moved by more than chance in 0 of {count(len(tested), noun)} (q < {CLEAR:g})"
    most = max(moved, key=lambda load: load.l1.value)
    where = labels(series.routers)[series.loads.index(most)]
    size = with_interval(most.l1.value, most.l1, 3)
    return (
        f"the load moved by more than chance in {len(moved)} of {count(len(tested), noun)} (q < {CLEAR:g}), the most "
        f"in layer {where} (L1 distance {size}, at most 2)"
    )


def _gained(series: DifferenceSeries) -> str:
    """The expert whose share of tokens changed the most, of all whose band leaves out 0."""
    best: tuple[float, str] | None = None
    for label, load in zip(labels(series.routers), series.loads, strict=True):
        if load.change is None or not len(load.change):
            continue
        clear = (load.low > 0) | (load.high < 0)
        if not clear.any():
            continue
        expert = int(np.where(clear, np.abs(load.change), -1.0).argmax())
        size = float(load.change[expert])
        ends = f"{100 * load.low[expert]:+.1f}, {100 * load.high[expert]:+.1f}"
        how = "gains" if size > 0 else "loses"
        words = f"Expert {expert} of layer {label} {how} the most: {100 * size:+.1f} [{ends}] points of the tokens"
        if best is None or abs(size) > best[0]:
            best = abs(size), words
    return best[1] if best else ""


def effect_chart(series: DifferenceSeries, metric: str, kind: str | None = None) -> Chart:
    """B minus A of a metric, layer by layer, of the routers of one ``kind`` or a line for each kind."""
    label, unit = label_and_unit(metric)
    lines = [_effect_line(series, metric, name) for name in (kinds_of(series.routers) if kind is None else [kind])]
    values = [v for one in lines for v in one.values]
    tested = any(v.has_interval for v in values)
    shown = f"B minus A with its interval; {TESTED}" if tested else "B minus A."
    marks = f"filled: q < {CLEAR:g}; dotted: no difference" if tested else "Dotted: no difference"
    intervals = intervals_of(values, series.level) + ("; " if tested else ". ") + marks
    return Chart(
        f"Difference by layer: {label}",
        "Difference of a quantity between two runs, layer by layer",
        "layer",
        f"B - A, {unit}",
        f"{label}, B - A, {unit}",
        (f"{label}: B - A {{value:4}} {unit}", "A {A}, B {B}", *([TESTED_TIP] if tested else [])),
        f"{definition(metric)} {shown} Unit: {unit}. {intervals}. {series.sides}",
        tuple(lines),
        (_zero(series.routers, "no difference"),),
        joined=False,
        tested=tested,
        signed=True,
    )


def _effect_line(series: DifferenceSeries, metric: str, kind: str) -> Line:
    points, places = points_of(series.routers, kind)
    effects = [series.effects[place].get(metric, _NO_EFFECT) for place in places]
    facts = {name.upper(): tuple(getattr(e, name) for e in effects) for name in ("a", "b")}
    facts |= {name: tuple(getattr(e.effect, name) for e in effects) for name in ("p", "q")}
    facts["detectable"] = tuple(e.detectable for e in effects)
    return Line(f"{kind} routers", points, tuple(e.effect for e in effects), facts)


_NO_EFFECT = Effect(np.nan, np.nan, Value(np.nan))


def _zero(routers: tuple[RouterId, ...], name: str) -> Reference:
    layers = tuple(dict.fromkeys(float(r.layer) for r in routers))
    return Reference(name, layers, (0.0,) * len(layers))


def distance_chart(series: DifferenceSeries) -> Chart:
    """How far the loads of the two sides lie apart, layer by layer."""
    lines = [_distance_line(series, kind) for kind in kinds_of(series.routers)]
    values = [v for one in lines for v in one.values]
    tested = any(v.has_interval for v in values)
    chance = (
        f"shown without what chance adds; {TESTED} {intervals_of(values, series.level)}; filled: q < {CLEAR:g}"
        if tested
        else f"above 0 in finite samples also without a difference. {intervals_of(values, series.level)}"
    )
    tip = ("L1 distance of the loads {value:4}", "with what chance adds {with chance:4}", TESTED_TIP)
    return Chart(
        "How far the loads lie apart",
        "Distance of the loads of two runs, layer by layer",
        "layer",
        "share of selections",
        "L1, share of selections",
        tip if tested else tip[:1],
        "Sum over experts of |g - f|, f and g the loads of A and B: twice the share of selections that moved. Unit: "
        f"share of selections, from 0 to 2; {chance}. {series.sides}",
        tuple(lines),
        joined=False,
        tested=tested,
    )


def _distance_line(series: DifferenceSeries, kind: str) -> Line:
    points, places = points_of(series.routers, kind)
    loads = [series.loads[place] for place in places]
    facts = {
        "with chance": tuple(load.plugin for load in loads),
        "p": tuple(load.l1.p for load in loads),
        "q": tuple(load.l1.q for load in loads),
        "detectable": tuple(load.detectable for load in loads),
    }
    return Line(f"{kind} routers", points, tuple(load.l1 for load in loads), facts)


def change_heat(series: DifferenceSeries) -> Heat | None:
    """Layers by experts: who gained and who lost; None where no change is known."""
    changes = tuple(np.zeros(0) if load.change is None else load.change for load in series.loads)
    most = max((float(np.nanmax(np.abs(change), initial=0.0)) for change in changes), default=0.0)
    if not any(np.isfinite(change).any() for change in changes):
        return None
    low, high = (tuple(getattr(load, end) for load in series.loads) for end in ("low", "high"))
    banded = any(np.isfinite(end).any() for end in low)
    band = "The interval is a simultaneous band over the experts of a layer. " if banded else ""
    scale = Scale("linear", max(most, 1e-6), "change of the share of tokens, B - A", 0.0)
    return Heat(
        "Which experts gained and lost",
        "Heatmap of the change of each expert's share of tokens, layers by experts",
        "expert",
        "layer",
        tuple(labels(series.routers)),
        {"change": Measure("change of share of tokens", "share of tokens", changes, low=low, high=high, scale=scale)},
        "change",
        ("Layer {row}, expert {column}", "Share of tokens {change:4}", "{band}"),
        f"Share of tokens that use an expert, at B minus at A; orange gained, blue lost. {band}Unit: share of tokens. "
        f"{series.sides}",
        ("layer", "router"),
        tuple((router.layer, router.router) for router in series.routers),
        band=f"{percent(series.level)} band over all experts of the layer",
        reasons=tuple(load.reason for load in series.loads),
        x_ordered="expert, most gained first in each layer",
        neutral=(0.0,) * len(series.routers),
    )
