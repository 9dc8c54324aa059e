"""Routers over a training: what they choose beside the last checkpoint and the one before, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...types import Facts, HostArray
from ..names import isolated, label_and_unit, model_name
from ..numbers import count
from .base import RouterId, Value, definition, in_words, intervals_of, labels, n_of, or_nan, router_id, value_of
from .drawing import Chart, Heat, Line, Measure, Points, Reference, Scale, points_of

OWN = {
    "saturation": ("Saturation, of K experts", "share of experts"),
    "saturation_top1": ("Saturation, of first choices", "share of tokens"),
    "saturation_sets": ("Saturation, of whole sets", "share of tokens"),
    "change_rate": ("Change rate, of K experts", "share of experts"),
    "change_rate_top1": ("Change rate, of first choices", "share of tokens"),
    "sets_changed": ("Sets changed", "share of tokens"),
    "coactivation_stability": ("Stability of co-activation", "correlation"),
    "coactivation_saturation": ("Co-activation beside the last", "correlation"),
    "output_weight_similarity": ("Similarity of output weights", "cosine"),
}
"""Measures of a checkpoint that are no metrics: label and unit."""

MEANS = {
    "saturation": "Share of a token's K experts that the last checkpoint chooses, too; 1 for the last one itself.",
    "saturation_top1": "Share of tokens whose first choice is that of the last checkpoint.",
    "saturation_sets": "Share of tokens whose whole set of experts is that of the last checkpoint.",
    "change_rate": "Share of a token's K experts that the checkpoint before did not choose, in whatever order.",
    "change_rate_top1": "Share of tokens whose first choice is not that of the checkpoint before.",
    "sets_changed": "Share of tokens whose whole set of experts is not that of the checkpoint before.",
    "coactivation_stability": "Correlation of the lifts of all pairs of experts with the checkpoint before.",
    "coactivation_saturation": "Correlation of the lifts of all pairs of experts with the last checkpoint.",
    "output_weight_similarity": "Mean cosine of the output weights of all pairs of experts; 0 for independent ones.",
}


@dataclass(frozen=True)
class DynamicsSeries:
    """One report of ``dynamics``. x: where each of C checkpoints stands, and ``axis`` what that is.

    values: {measure: [L][C]}; overall: {kind: {measure: [C]}}; expected: {measure: [L][C]} what the loads alone would
    give. slopes: {kind: {margin: [C]}} with tau and p of each. counts: [L][C] selections of each expert.
    """

    name: str
    n_sequences: int
    n_tokens: int
    level: float
    axis: str
    x: tuple[float, ...]
    names: tuple[str, ...]
    routers: tuple[RouterId, ...]
    values: Mapping[str, tuple[tuple[Value, ...], ...]]
    overall: Mapping[str, Mapping[str, tuple[Value, ...]]]
    expected: Mapping[str, tuple[tuple[float, ...], ...]]
    slopes: Mapping[str, Mapping[str, tuple[tuple[Value, float, float], ...]]]
    counts: tuple[tuple[HostArray, ...], ...]

    @property
    def sizes(self) -> str:
        """How much text."""
        return n_of(self.n_sequences, self.n_tokens)

    @property
    def measures(self) -> list[str]:
        """Those that some router has."""
        every = self.values.items()
        return [name for name, rows in every if any(math.isfinite(v.value) for row in rows for v in row)]


def dynamics_series(report: Facts) -> DynamicsSeries:
    """From the JSON that ``dynamics`` writes."""
    data, routers = report["data"], report["routers"]
    x, axis = steps_of(report)
    metrics = list(routers[0]["checkpoints"][0]["metrics"])

    def entry(at: Facts, name: str) -> Value:
        one = at[name] if name in OWN else at["metrics"][name]
        return value_of(one["value"], one)

    every = [*OWN, *metrics]
    expected = {
        name: tuple(tuple(sign * or_nan(at[key]) + shift for at in r["checkpoints"]) for r in routers)
        for name, key, sign, shift in (
            ("saturation", "expected_saturation", 1, 0),
            ("change_rate", "expected_kept", -1, 1),
        )
    }
    return DynamicsSeries(
        f"{model_name(report['model'])} on {data['name']}",
        int(data["n_sequences"]),
        int(data["n_tokens"]),
        or_nan(report["settings"]["ci"].get("level")),
        axis,
        x,
        tuple(str(one["name"]) for one in report["checkpoints"]),
        tuple(router_id(r) for r in routers),
        {name: tuple(tuple(entry(at, name) for at in r["checkpoints"]) for r in routers) for name in every},
        {kind: {n: tuple(entry(at, n) for at in rows) for n in every} for kind, rows in report["overall"].items()},
        expected,
        {
            kind: {
                name: tuple(
                    (
                        value_of(at[name]["slope"]["value"], at[name]["slope"]),
                        or_nan(at[name]["tau"]),
                        or_nan(at[name]["p"]),
                    )
                    for at in rows
                )
                for name in rows[0]
            }
            for kind, rows in report["depth"].items()
        },
        tuple(tuple(np.array(at["selection_counts"]) for at in r["checkpoints"]) for r in routers),
    )


def course_sentence(series: DynamicsSeries) -> str:
    """How much of its routing a training had at its start, and how much still moved at its end."""
    parts = []
    for kind, course in series.overall.items():
        of = f" ({kind} routers)" if len(series.overall) > 1 else ""
        changed = course["change_rate"]
        parts.append(
            f"{in_words(course['saturation'][0])} of a token's experts at {isolated(series.names[0])} are those of "
            f"{isolated(series.names[-1])}{of}; from {isolated(series.names[0])} to {isolated(series.names[1])} "
            f"{in_words(changed[1])} of them changed, to the last one {in_words(changed[-1])}"
        )
    return f"{isolated(series.name)}, {count(len(series.names), 'checkpoint')}: {'; '.join(parts)}."


def steps_of(report: Facts) -> tuple[tuple[float, ...], str]:
    """(where each checkpoint stands on an axis, what the axis is): its step, or its place where steps are not known."""
    steps = [one["step"] for one in report["checkpoints"]]
    if all(step is not None for step in steps):
        return tuple(map(float, steps)), "step"
    return tuple(float(number) for number in range(1, len(steps) + 1)), "checkpoint"


def label_of(measure: str) -> tuple[str, str]:
    """(label, unit) of a measure or a metric."""
    return OWN[measure] if measure in OWN else label_and_unit(measure)


def chance_of(measure: str, router: RouterId) -> float:
    """What routers that choose at random give under even routing; NaN where that says nothing."""
    k, e = router.top_k, router.n_experts
    known = {
        "saturation": k / e,
        "saturation_top1": 1 / e,
        "change_rate": 1 - k / e,
        "change_rate_top1": 1 - 1 / e,
        "coactivation_stability": 0.0,
        "coactivation_saturation": 0.0,
        "output_weight_similarity": 0.0,
    }
    return known.get(measure, math.nan)


def course_chart(series: DynamicsSeries, measures: Sequence[str], kind: str) -> Chart:
    """Measures of one unit over the training, each a mean over the routers of a kind, with what chance gives."""
    lines = [Line(label_of(name)[0], _points(series), series.overall[kind][name]) for name in measures]
    places = [n for n, router in enumerate(series.routers) if router.router == kind]
    references = []
    for number, name in enumerate(measures):
        chances = {chance_of(name, series.routers[place]) for place in places}
        if len(chances) == 1 and math.isfinite(chance := chances.pop()):
            references.append(Reference("chance", series.x, (chance,) * len(series.x), number))
    names = [label_of(name)[0] for name in measures]
    common = {name.partition(",")[0] for name in names}
    title = common.pop() if len(common) == 1 else " and ".join(names)
    return _chart(series, title, measures, lines, references, f"mean over the {kind} routers")


def layers_chart(series: DynamicsSeries, measure: str, kind: str) -> Chart:
    """One measure over the training, a line for each router of a kind; dotted what chance gives."""
    points, places = _points(series), [n for n, router in enumerate(series.routers) if router.router == kind]
    names, lines = labels(series.routers), []
    for place in places:
        expected = series.expected.get(measure)
        facts = {"by the loads alone": expected[place]} if expected else {}
        lines.append(Line(f"layer {names[place]}", points, series.values[measure][place], facts))
    chances = {chance_of(measure, series.routers[place]) for place in places}
    references = [Reference("chance", series.x, (c,) * len(series.x)) for c in sorted(chances) if math.isfinite(c)]
    return _chart(series, label_of(measure)[0], [measure], lines, references, "a line for each layer")


def _chart(
    series: DynamicsSeries,
    title: str,
    measures: Sequence[str],
    lines: Sequence[Line],
    references: Sequence[Reference],
    of: str,
) -> Chart:
    unit = label_of(measures[0])[1]
    meaning = " ".join(MEANS[name] if name in MEANS else definition(name) for name in measures)
    chance = " Dotted: chance under even routing." if references else ""
    tip = ("{value:4}", *(("{by the loads alone:4} by the loads alone",) if lines and lines[0].facts else ()))
    return Chart(
        title,
        f"{title} over the checkpoints of {series.name}",
        series.axis,
        unit,
        title,
        tip,
        f"{meaning} {of[:1].upper()}{of[1:]}. Unit: {unit}.{chance} "
        f"{intervals_of((v for line in lines for v in line.values), series.level)}. {series.sizes}.",
        tuple(lines),
        tuple(references),
        line_head="quantity" if len(measures) > 1 else "layer",
        point_heads=("checkpoint",),
        layers=False,
        zero=False,
        bars=False,
    )


def _points(series: DynamicsSeries) -> Points:
    return Points(series.x, series.names, tuple((name,) for name in series.names))


def depth_chart(series: DynamicsSeries, margin: str, kind: str) -> Chart:
    """A margin by layer, a line for each checkpoint, and whether it grows with depth."""
    points, places = points_of(series.routers, kind)
    lines = []
    for number, name in enumerate(series.names):
        slope, tau, p = series.slopes[kind][margin][number]
        note = f"slope {slope.value:+.2g} a layer" if math.isfinite(slope.value) else ""
        note += f" [{slope.low:+.2g}, {slope.high:+.2g}]" if slope.has_interval else ""
        note += f"; tau {tau:+.2f}, p {p:.2g}" if math.isfinite(tau) else ""
        lines.append(Line(name, points, tuple(series.values[margin][place][number] for place in places), note=note))
    label, unit = label_of(margin)
    return Chart(
        f"{label} by depth",
        f"{label} of every layer, at each checkpoint of {series.name}",
        "layer",
        unit,
        label,
        ("{value:4}",),
        f"{definition(margin)} Slopes: least squares over layers, with intervals over sequences; tau, p: Kendall's, of "
        f"no trend with depth, over the layers. Unit: {unit}. "
        f"{intervals_of((v for line in lines for v in line.values), series.level)}. {series.sizes}.",
        tuple(lines),
        line_head="checkpoint",
    )


def load_course(series: DynamicsSeries, router: int) -> Heat:
    """The load of each expert of one router, checkpoint by checkpoint."""
    of, counts = series.routers[router], series.counts[router]
    tokens = tuple(int(row.sum()) / of.top_k for row in counts)
    most = max(2.0, *(float((row * of.n_experts / max(int(row.sum()), 1)).max()) for row in counts))
    label = labels(series.routers)[router]
    return Heat(
        f"Load of layer {label}, checkpoint by checkpoint",
        f"Heatmap of the load of layer {label}, checkpoints by experts",
        "expert",
        "checkpoint",
        series.names,
        {
            "selections": Measure("selections", "selections", counts),
            "ratio": Measure(
                "multiple of the even share",
                "ratio",
                counts,
                tuple(n * of.even for n in tokens),
                scale=Scale("even", most, "load, multiple of the even share (1 = even)"),
            ),
        },
        "ratio",
        ("{row}, expert {column}", "{selections:selection}", "{ratio:2} times the even share"),
        "Selections of each expert over what an even load would give it. Unit: multiple of the even share. "
        f"{series.sizes}.",
        ("checkpoint",),
        tuple((name,) for name in series.names),
    )
