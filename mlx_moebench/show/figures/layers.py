"""A metric layer by layer, with its intervals and the line that even or chance routing would give."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...routing.metrics import METRICS, get_metric
from ...types import Facts
from ..inputs import View
from ..names import label_and_unit, unit_of_text
from .base import RouterId, Value, definition, intervals_of, n_of, or_nan, router_id, value_of
from .drawing import Chart, Line, Reference, points_of

LAYER_METRICS = tuple(name for name, metric in METRICS.items() if metric.even)
"""The metrics that are drawn by layer: those that there is something to hold against."""


@dataclass(frozen=True)
class LayerSeries:
    """One metric of every router. reference: what ``chance`` is, router by router, in words."""

    metric: str
    unit: str
    definition: str
    n_sequences: int
    n_tokens: int
    level: float
    routers: tuple[RouterId, ...]
    values: tuple[Value, ...]
    reference: str
    chance: tuple[float, ...]


def layer_series(report: Facts, metric: str) -> LayerSeries:
    """``metric`` of a routing report, router by router; raises `MoebenchError` for an unknown name."""
    shown = get_metric(metric)
    even = shown.even
    data, settings = report["data"], report["settings"]
    routers = tuple(router_id(r) for r in report["routers"])
    return LayerSeries(
        metric,
        shown.unit,
        definition(metric),
        int(data["n_sequences"]),
        int(data["n_tokens"]),
        or_nan(settings.get("ci", {}).get("level")),
        routers,
        tuple(value_of(r.get(metric), r["ci"].get(metric)) for r in report["routers"]),
        even.words if even else "",
        tuple(even.value(r.n_experts, r.top_k) if even else math.nan for r in routers),
    )


def layer_chart(views: Sequence[View], metric: str, kind: str, hidden: Collection[int] = ()) -> Chart:
    """``metric`` of the routers of a ``kind``, a line for each view; those whose numbers are ``hidden`` at first."""
    every = [layer_series(view.report, metric) for view in views]
    label, unit = label_and_unit(metric)
    lines, references = [], dict[Reference, None]()
    for number, (view, series) in enumerate(zip(views, every, strict=True)):
        points, places = points_of(series.routers, kind)
        chance = tuple(series.chance[place] for place in places)
        values = tuple(series.values[place] for place in places)
        note = n_of(series.n_sequences, series.n_tokens, unit_of_text(view.report["model"]))
        lines.append(Line(view.name, points, values, {"even": chance}, note, number in hidden, view.domain))
        if places:
            references[Reference(series.reference.split(", ")[-1], points.x, chance)] = None
    first = every[0]
    intervals = intervals_of((v for series in every for v in series.values), first.level, "Bands and bars")
    return Chart(
        f"{label} by layer",
        f"A quantity of every {kind} router, layer by layer",
        "layer",
        unit,
        f"{label}, {unit}",
        (f"{label}: {{value}} {unit}",),
        f"{first.definition} Unit: {unit}. {intervals}. Dotted: {first.reference}.",
        tuple(lines),
        tuple(references),
        line_head="data",
        zero=False,
        whole=get_metric(metric).integer,
    )
