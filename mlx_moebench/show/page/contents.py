"""What stands on the page: its sections, each with its figures, tables and notes, and what a reader can choose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from ...types import Facts
from ..domains import MOST_SHOWN
from ..figures import (
    LAYER_METRICS,
    ORDERS,
    CoactivationSeries,
    DifferenceSeries,
    DomainSeries,
    DynamicsSeries,
    QuantSeries,
    TrainingSeries,
    UncertaintySeries,
    Value,
    change_heat,
    coactivation_heat,
    coactivation_series,
    course_chart,
    dead_chart,
    depth_chart,
    difference_series,
    distance_chart,
    divergence_chart,
    domain_series,
    dynamics_series,
    effect_chart,
    favourite_domains,
    grouped,
    information_chart,
    kept_chart,
    kinds_of,
    label_of,
    layer_chart,
    layer_series,
    layers_chart,
    load_course,
    load_heat,
    load_series,
    loss_chart,
    margin_chart,
    none_dead,
    quant_series,
    rho_chart,
    router_heat,
    share_chart,
    spread_chart,
    training_charts,
    training_series,
    uncertainty_series,
)
from ..figures.base import labels, n_of, router_id
from ..figures.differences import Effect
from ..findings import DEFINITION, meanings
from ..inputs import Inputs, Run, View
from ..names import NUMBERS, QUANTITIES, SCORES, isolated, label_and_unit, unit_of_text
from ..numbers import count, difference, number, percent, with_interval
from .parts import Choice, Drawing, Figure, Nothing, Part, Section, Table
from .pictures import cards, river, token_map
from .testbed import testbed_sections

MAX_PAIRS = 3_000_000
"""Bytes that the co-activation of all routers may take, before base64."""

MAX_STEPS = 1_000
"""Steps of a training that are drawn; of more, every n-th."""

MOST_BESIDE = 64
"""Experts of routers whose co-activation has room beside that of another run."""

FIRST = (
    *("mean_entropy", "load_entropy", "marginal_entropy", "token_information", "top_share_token"),
    *("peak_top_share_token", "top_load_ratio", "gini", "n_eff", "dead_experts", "adjacent_overlap"),
    *("margin_prob", "selection_margin"),
)
"""Effects that a comparison shows without being asked."""


BY_NUMBER = ("number", "their number")


def sections(inputs: Inputs, tokens: Facts | None = None) -> Iterator[Section]:
    """Everything below the answer, in its order. tokens: the data of a token view."""
    views = _views(inputs.runs)
    if inputs.runs:
        yield _load(inputs.runs)
        yield _layers(inputs.runs, views)
    for place, (name, profile) in enumerate(inputs.profiles.items()):
        yield _domains(domain_series(name, profile), place, len(inputs.profiles) > 1)
    for place, comparison in enumerate(inputs.comparisons):
        yield _differences(difference_series(comparison), place)
    if inputs.runs:
        yield river(inputs.runs)
        yield cards(inputs, tokens)
        yield _coactivation(inputs.runs)
        yield _dead(views)
    for place, report in enumerate(inputs.uncertainties):
        yield _uncertainty(uncertainty_series(report), place)
    for place, report in enumerate(inputs.quants):
        yield _quantised(quant_series(report), place)
    for place, report in enumerate(inputs.dynamics):
        yield _dynamics(dynamics_series(report), place)
    for place, report in enumerate(inputs.testbeds):
        yield from testbed_sections(report, place)
    for place, training in enumerate(inputs.trainings):
        yield _training(training_series(training), place)
    if tokens is not None:
        yield token_map(tokens)


def _id(name: str, place: int) -> str:
    return f"{name}{place or ''}"


def _shown_views(run: Run) -> list[View]:
    """A run on all its data, then on each domain, of very many the first ones, named by that alone."""
    whole = "all domains" if run.domains else str(run.report["data"]["name"])
    return [
        run.view(name=isolated(whole)),
        *(run.view(domain, isolated(domain)) for domain in islice(run.domains, MOST_SHOWN)),
    ]


def _named(run: Run, view: View, several: bool) -> View:
    return view._replace(name=f"{isolated(run.name)} on {view.name}") if several else view


def _views(runs: Sequence[Run]) -> list[View]:
    """All views of all runs, named by what tells them apart."""
    return [_named(run, view, len(runs) > 1) for run in runs for view in _shown_views(run)]


def _kinds(views: Sequence[View]) -> list[str]:
    return list(dict.fromkeys(r["router"] for view in views for r in view.report["routers"]))


def _load(runs: Sequence[Run]) -> Section:
    every = [[(view, load_series(view)) for view in _shown_views(run)] for run in runs]
    most = max(series.most for views in every for _, series in views)
    figures, flagged = [], False
    for run, views in zip(runs, every, strict=True):
        named = len(runs) > 1 or len(views) > 1
        drawings: dict[str, Drawing] = {}
        favourites = favourite_domains(run)
        for place, (view, series) in enumerate(views):
            heat = grouped(load_heat(series, most), favourites)
            flagged = flagged or any(heat.flags)
            title = f"{heat.title}: {_named(run, view, len(runs) > 1).name}" if named else heat.title
            label = f"Heatmap of the load of {run.name}, layers by experts"
            drawings[str(place)] = replace(heat, title=title, label=label)
        options = tuple((str(place), view.name) for place, (view, _) in enumerate(views))
        some = f" (the first {MOST_SHOWN} of {len(run.domains):,} domains)" if len(run.domains) > MOST_SHOWN else ""
        figures.append(Figure(drawings, "view", (Choice("view", f"Data{some}", options),)))
    orders: tuple[tuple[str, str], ...] = (BY_NUMBER, ("each", ORDERS["load"]))
    if any(run.domains for run in runs):
        orders = (*orders, ("group", ORDERS["domain"]))
    rows = Choice("rows", "Layers", (("all", "all"), ("flagged", "flagged only")))
    choices = (Choice("order", "Experts in the order of", orders), *([rows] if flagged else []))
    return Section("load", "Load: which experts work", tuple(figures), choices)


def _layers(runs: Sequence[Run], views: Sequence[View]) -> Section:
    wholes = np.cumsum([0, *(len(_shown_views(run)) for run in runs)])
    hidden = set(range(len(views))) - set(wholes.tolist()) if len(runs) > 1 else set()
    known = [name for name in LAYER_METRICS if _measured(views, name)]
    options = tuple(
        (name, label_and_unit(name)[0] + ("" if name in known else " (not measured)")) for name in LAYER_METRICS
    )
    kinds = _kinds(views)
    figures = []
    for kind in kinds:
        drawings: dict[str, Drawing] = {}
        for name in LAYER_METRICS:
            chart = layer_chart(views, name, kind, hidden)
            drawings[name] = replace(chart, title=chart.title + (f", {kind} routers" if len(kinds) > 1 else ""))
        figures.append(Figure(drawings, "metric"))
    parts = (tuple(figures),) if len(figures) > 1 else tuple(figures)
    shown = known[0] if known else LAYER_METRICS[0]
    return Section("layers", "Entropy and shares by layer", parts, (Choice("metric", "Quantity", options, shown),))


def _measured(views: Sequence[View], metric: str) -> bool:
    return any(v.value == v.value for view in views for v in layer_series(view.report, metric).values)


def _domains(series: DomainSeries, place: int, several: bool) -> Section:
    kinds = kinds_of(series.ids)
    between = [Figure({"": information_chart(series)})]
    if series.routers[0].divergences:
        between += [Figure({"": divergence_chart(series, kind)}) for kind in kinds]
    between += [Figure({"": chart(series, kind)}) for kind in kinds for chart in (share_chart, spread_chart)]
    drawings = {str(n): router_heat(series, n, series.most) for n in range(len(series.routers))}
    layer = Choice("router", "Layer", tuple((str(n), label) for n, label in enumerate(labels(series.ids))))
    loads = ((f"row {n}", f"their load on {isolated(domain)}") for n, domain in enumerate(series.domains))
    orders = (BY_NUMBER, ("largest", "their busiest domain"), *loads)
    experts = Figure(drawings, "router", (layer, Choice("order", "Experts in the order of", orders)))
    heading = f"Domains: {isolated(series.name)}" if several else "Domains"
    return Section(_id("domains", place), heading, (_findings(series), tuple(between), experts))


def _findings(series: DomainSeries) -> Table:
    rows = []
    for label, r in zip(labels(series.ids), series.routers, strict=True):
        numbers = (with_interval(v.value, v, 2) for v in (r.used, r.specialisation, r.dominant, r.idle))
        p = number(r.mi.p) if r.mi.p == r.mi.p else "none"
        rows.append((label, r.word or "none", *numbers, with_interval(r.mi.value, r.mi), p, "; ".join(r.remarks)))
    return Table(
        f"Findings of {series.name}",
        (
            *("layer", "word", *(QUANTITIES[key].head for key in NUMBERS)),
            *("p", "whom, and what is open"),
        ),
        tuple(rows),
        "Findings",
        f"{DEFINITION} {meanings(series.thresholds)}",
        long=True,
    )


def _differences(series: DifferenceSeries, place: int) -> Section:
    a, b = map(isolated, series.names)
    tables = [table for kind in series.overall for table in _overall(series, kind)]
    metrics = list(series.effects[0]) if series.effects else []
    options = tuple((name, label_and_unit(name)[0]) for name in metrics)
    shown = "mean_entropy" if "mean_entropy" in metrics else metrics[0]
    by_layer = [
        Figure(
            {name: effect_chart(series, name) for name in metrics},
            "metric",
            (Choice("metric", "Quantity", options, shown),),
        )
    ]
    if any(load.l1.value == load.l1.value for load in series.loads):
        by_layer.append(Figure({"": distance_chart(series)}))
    change = change_heat(series)
    order = Choice("order", "Experts in the order of", (BY_NUMBER, ("each", "their change, each layer its own")))
    parts: tuple[Part, ...] = (
        f"A: {a}. B: {b}. Every effect is B minus A, {series.how}.",
        *tables,
        tuple(by_layer),
        *([Figure({"": change}, choices=(order,))] if change else []),
    )
    return Section(_id("differences", place), "Two runs compared", parts)


def _overall(series: DifferenceSeries, kind: str) -> Iterator[Table]:
    """Effects over all routers of a kind: those that matter first, then all others, folded."""
    effects = series.overall[kind]
    known = any(one.effect.has_interval for one in effects.values())
    intervals = f"{percent(series.level)} intervals" if known else "without intervals"
    rest = f"All other metrics of the {kind} routers"
    first = f"Mean over the {kind} routers (peak: the largest over them), {intervals}"
    for label, folded, names in (
        (first, "", [name for name in FIRST if name in effects]),
        (rest, "All other metrics", [name for name in effects if name not in FIRST]),
    ):
        rows = [_effect_row(name, effects[name], known) for name in names]
        tested = ("p", "detectable") if known else ()
        columns = ("metric", "unit", "A", "B", "B - A", *tested, "no interval, because")
        yield Table(label, columns, tuple(rows), note=f"{label}:", folded=folded)


def _effect_row(name: str, of: Effect, known: bool) -> tuple[str, ...]:
    a, b, effect, detectable = of
    cells = (number(a), number(b), difference(effect.value, effect))
    tests = ["" if x != x else number(x) for x in (effect.p, detectable)] if known else []
    return (*label_and_unit(name), *cells, *tests, _reason(effect))


def _reason(value: Value) -> str:
    return "" if value.has_interval else value.reason or ""


def _coactivation(runs: Sequence[Run]) -> Section:
    measure = Choice("measure", "Show", (("lift", QUANTITIES["lift"].symbol), ("share", "share of the row's tokens")))
    order = Choice("order", "Experts in the order of", (BY_NUMBER, ("own", "their load")))
    one = len(runs) == 1
    room = MAX_PAIRS // len(runs)
    figures = [
        found for run in runs if (found := _coactivation_figure(run, room, (measure, order) if one else ())) is not None
    ]
    heading = "Co-activation: which experts are chosen together"
    if not figures:
        return Section("coactivation", heading, tuple(_no_pairs(run) for run in runs))
    narrow = all(r["n_experts"] <= MOST_BESIDE for run in runs for r in run.report["routers"])
    notes = tuple(_no_pairs(run) for run in runs if not _has_pairs(run))
    parts: tuple[Part, ...] = (*notes, *((tuple(figures),) if narrow and not one else tuple(figures)))
    return Section("coactivation", heading, parts, () if one else (measure, order))


def _has_pairs(run: Run) -> bool:
    """Whether pairs of any router can be drawn."""
    return any(coactivation_series(run, place).pairs is not None for place in range(len(run.report["routers"])))


def _no_pairs(run: Run) -> str:
    """Why there is nothing to draw of a run, in place of a figure and its lists."""
    reason = coactivation_series(run, 0).reason or "its pairs were not kept"
    return f"{isolated(run.name)}: there is nothing to draw: {reason}."


def _coactivation_figure(run: Run, room: int, choices: tuple[Choice, ...]) -> Figure | None:
    """A drawing per router, with as many pairs as there is room for; None where no router has any.

    choices: of a run that stands alone.
    """
    every = [coactivation_series(run, place) for place in range(len(run.report["routers"]))]
    if not any(series.pairs is not None for series in every):
        return None
    kept = _kept(every, room)
    known = sum(series.pairs is not None for series in every)
    left = known - len(kept)
    note = f"Left out for size: the pairs of {count(left, 'router')} of {known}." if left else ""
    names = labels([router_id(r) for r in run.report["routers"]])
    drawings = {
        str(place): _pairs(run, series, label, place in kept, note, bool(choices))
        for place, (series, label) in enumerate(zip(every, names, strict=True))
    }
    options = tuple((str(place), label) for place, label in enumerate(names))
    layer = Choice("router", "Layer", options, str(min(kept, default=0)))
    return Figure(drawings, "router", (layer, *choices))


def _kept(every: Sequence[CoactivationSeries], room: int) -> set[int]:
    """The routers whose pairs stand on the page: as many as there is room for, evenly spread."""
    known = [place for place, series in enumerate(every) if series.pairs is not None]
    sizes = [_bytes_of_pairs(every[place]) for place in known]
    if sum(sizes) <= room:
        return set(known)
    most = max(1, int(len(known) * room / sum(sizes)))
    return {known[round(place)] for place in np.linspace(0, len(known) - 1, most)}


def _bytes_of_pairs(series: CoactivationSeries) -> int:
    pairs = series.pairs
    assert pairs is not None
    e = len(pairs)
    return e * (e - 1) // 2 * (2 if int(pairs[np.triu_indices(e, 1)].max(initial=0)) < 1 << 16 else 4)


def _pairs(run: Run, series: CoactivationSeries, label: str, kept: bool, note: str, alone: bool) -> Drawing:
    of = "" if alone else f", {isolated(run.name)}"
    if series.pairs is not None and kept:
        heat = coactivation_heat(series, label, unit_of_text(run.report["model"]), note)
        return replace(heat, title=f"{heat.title}{of}")
    reason = series.reason or "left out, so that the page stays small; the stats pair has it"
    return Nothing(
        f"Co-activation of the experts of layer {label}{of}",
        "Heatmap of how often two experts of a layer are chosen together",
        f"{series.definition} Unit: {series.unit}. {n_of(series.n_sequences, series.n_tokens)}. {note}".rstrip(),
        reason,
    )


def _dead(views: Sequence[View]) -> Section:
    kinds = _kinds(views)
    heading, none = "Dead experts", none_dead(views)
    if none is not None:
        sizes = "; ".join(f"{view.name}: {_size(view)}" for view in views)
        return Section("dead", heading, (f"{none} {sizes}.",))
    figures = []
    for kind in kinds:
        chart = dead_chart(views, kind)
        figures.append(
            Figure({"": replace(chart, title=chart.title + (f", {kind} routers" if len(kinds) > 1 else ""))})
        )
    return Section("dead", heading, tuple(figures))


def _size(view: View) -> str:
    data = view.report["data"]
    return n_of(data["n_sequences"], data["n_tokens"], unit_of_text(view.report["model"]))


def _uncertainty(series: UncertaintySeries, place: int) -> Section:
    names = labels(series.routers)
    score = Choice("score", "Score", tuple((key, words) for key, (words, _) in SCORES.items()))
    line = Choice("line", "Layer", (("", "all"), *((str(n), label) for n, label in enumerate(names))))
    losses = Figure({key: loss_chart(series, key) for key in SCORES}, "score", (score, line))
    rhos = (Figure({"": rho_chart(series, kind)}) for kind in kinds_of(series.routers))
    heading = f"Loss by routing uncertainty: {isolated(series.name)}"
    return Section(_id("uncertainty", place), heading, ((losses, *rhos),))


def _quantised(series: QuantSeries, place: int) -> Section:
    by_margin = (Figure({"": margin_chart(series, kind)}) for kind in kinds_of(series.routers))
    heading = f"Experts kept when weights are quantised: {isolated(series.name)}"
    return Section(_id("quant", place), heading, ((Figure({"": kept_chart(series)}), *by_margin),))


def _dynamics(series: DynamicsSeries, place: int) -> Section:
    """The course of the measures that mean most, any of them layer by layer, margins by depth, and loads."""
    kinds, parts = kinds_of(series.routers), []
    margins = [name for name in ("margin_prob", "margin_weight") if name in series.measures]
    for kind in kinds:
        pairs = (("saturation", "saturation_top1"), ("change_rate", "change_rate_top1"), ("eae", "ewa"))
        parts.append(tuple(Figure({"": course_chart(series, names, kind)}) for names in pairs))
        by_layer = {name: layers_chart(series, name, kind) for name in series.measures}
        options = tuple((name, label_of(name)[0]) for name in series.measures)
        measures = Figure(by_layer, "measure", (Choice("measure", "Quantity", options),))
        depths: dict[str, Drawing] = {name: depth_chart(series, name, kind) for name in margins}
        chosen = Choice("margin", "Margin", tuple((name, label_of(name)[0]) for name in margins))
        parts.append((measures, Figure(depths, "margin", (chosen,))))
    loads = {str(n): load_course(series, n) for n in range(len(series.routers))}
    layer = Choice("router", "Layer", tuple((str(n), label) for n, label in enumerate(labels(series.routers))))
    heading = f"Checkpoints of a training: {isolated(series.name)}"
    return Section(_id("dynamics", place), heading, (*parts, Figure(loads, "router", (layer,))))


def _training(series: TrainingSeries, place: int) -> Section:
    heading = f"Training: {isolated(series.name)}"
    if not series.steps:
        return Section(_id("training", place), heading, ("The log of this training holds no step.",))
    figures = tuple(Figure({"": chart}) for chart in training_charts(series, MAX_STEPS))
    return Section(_id("training", place), heading, (figures,))
