"""Who gets how much: every expert's load and share of tokens with its interval, and the experts that get nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...options import Plan
from ...pair.report import token_share
from ...pair.stats import RoutingStats
from ...routing.intervals.measured import measured
from ...routing.repeats import text_units
from ...routing.sums import Floats, Numbers
from ...types import Facts
from ..inputs import Run, View
from ..names import Flag, flag_of, label_and_unit, unit_of_text
from ..numbers import percent, with_interval
from .base import RouterId, Value, labels, n_of, or_nan, router_id, value_of
from .drawing import Chart, Heat, Line, Measure, Reference, Scale, points_of

FLAGGED = {"yes": "collapsed", "open": "open"}
"""The finding that a row of the load is marked for."""

WITHOUT_SUMS = "the sums beside the report are missing"


@dataclass(frozen=True)
class Band:
    """A simultaneous band around all shares of a router, inside [0, 1]; NaN where there is none, for ``reason``."""

    low: Floats
    high: Floats
    reason: str | None = None


@dataclass(frozen=True)
class RouterLoad:
    """One router: selections [E], shares of tokens [E], loads as multiples of the even share [E].

    band: of its shares, None where none was asked for. flag: `collapsed` of the report as it is shown.
    """

    router: RouterId
    n_tokens: int
    counts: Numbers
    band: Band | None = None
    flag: Flag = "null"

    @property
    def shares(self) -> Floats:
        """Share of tokens that use each expert."""
        return np.asarray(self.counts / self.n_tokens if self.n_tokens else np.full(len(self.counts), np.nan))

    @property
    def ratios(self) -> Floats:
        """Load as a multiple of the even share: 1 is even."""
        return np.asarray(self.shares / self.router.even)


@dataclass(frozen=True)
class LoadSeries:
    """Layer x expert load of one run, on all its data or on one domain.

    busiest: share of tokens of each router's busiest expert, with its interval, as the report has it.
    """

    data: str
    phase: str
    n_sequences: int
    n_tokens: int
    texts: str
    tau: float
    level: float
    routers: tuple[RouterLoad, ...]
    busiest: tuple[Value, ...]
    unit: str = "multiple of even load"
    definition: str = (
        "Selections of an expert over the even share of all selections, E f; 1 is even. Its share of tokens is K f: a "
        "token chooses K experts, so the shares of a router sum to K. The interval is a simultaneous band: all experts "
        "of a router lie inside theirs at the same time, at the level said."
    )

    @property
    def most(self) -> float:
        """The largest ratio, at least 2: the end of a colour scale."""
        return max(2.0, *(float(np.nanmax(r.ratios, initial=1.0)) for r in self.routers))

    @property
    def marks(self) -> str:
        """What the marks beside flagged routers mean; empty where none is flagged."""
        flags = {one.flag for one in self.routers}
        words = {"yes": f"; * > {self.tau:g}", "open": f"; ? may be below {self.tau:g}"}
        return "".join(text for flag, text in words.items() if flag in flags)

    def of(self, kind: str) -> LoadSeries:
        """That of the routers of one ``kind``."""
        places = [place for place, one in enumerate(self.routers) if one.router.router == kind]
        routers = tuple(self.routers[place] for place in places)
        return replace(self, routers=routers, busiest=tuple(self.busiest[place] for place in places))


@dataclass(frozen=True)
class DeadSeries:
    """Experts without a selection, per router, against the number that even routing leaves out on as many tokens."""

    n_sequences: int
    n_tokens: int
    routers: tuple[RouterId, ...]
    dead: tuple[int, ...]
    expected: tuple[float, ...]
    experts: tuple[tuple[int, ...], ...]
    unit: str = "experts"
    definition: str = (
        "Experts that no token chose, and how many even routing would leave unused on as many tokens: E (1 - K/E)^T. "
        "There is no interval: an expert without a selection in the sample says little about one with few."
    )


def load_series(view: Run | View, plan: Plan | None = None, *, bands: bool = True) -> LoadSeries:
    """The load of a run on all its data, or of a view of it.

    plan: for bands that the report does not hold; its resamples are those of the report unless it says otherwise. With
    the JSON of an old report alone there are none, with the reason. bands: whether they are wanted.
    """
    report, stats = view.report, view.stats
    plan = plan or _plan(report)
    every = _bands(report, stats, plan) if bands else [None] * len(report["routers"])
    data, settings = report["data"], report["settings"]
    flags = [flag_of(r, settings) for r in report["routers"]]
    routers = tuple(
        RouterLoad(router_id(r), int(r["n_tokens"]), np.array(r["selection_counts"], np.int64), band, flag)
        for r, band, flag in zip(report["routers"], every, flags, strict=True)
    )
    sizes = int(data["n_sequences"]), int(data["n_tokens"])
    return LoadSeries(
        str(data["name"]),
        str(data["phase"]),
        *sizes,
        unit_of_text(report["model"]),
        float(settings["tau"]),
        plan.level,
        routers,
        tuple(value_of(r.get("top_share_token"), r["ci"].get("top_share_token")) for r in report["routers"]),
    )


def _bands(report: Facts, stats: RoutingStats | None, plan: Plan) -> list[Band]:
    """As the report holds them; of reports before schema version 2 from the sums."""
    if all("token_share" in r for r in report["routers"]):
        return [_stored(r["token_share"], r["n_experts"]) for r in report["routers"]]
    if stats is None:
        return [_without(r["n_experts"], WITHOUT_SUMS) for r in report["routers"]]
    return share_bands(stats, plan)


def _stored(entry: Facts, n_experts: int) -> Band:
    if entry.get("low") is None:
        return _without(n_experts, entry.get("reason"))
    return Band(np.array(entry["low"], dtype=np.float64), np.array(entry["high"], dtype=np.float64))


def _without(n_experts: int, reason: str | None) -> Band:
    nothing = np.full(n_experts, np.nan)
    return Band(nothing, nothing, reason)


def share_bands(stats: RoutingStats, plan: Plan) -> list[Band]:
    """Each router's simultaneous band around its shares of tokens, made as a report makes it."""
    units = text_units(stats)
    strata = units.strata(stats.strata)
    of_routers = (
        measured([units.sums(stats.sums(n))], strata, plan, ["top_share_token"], copies=units.copies)
        for n in range(len(stats.specs))
    )
    return [
        _stored(token_share(one.shares[0]), spec.n_experts) for one, spec in zip(of_routers, stats.specs, strict=True)
    ]


def dead_series(report: Facts) -> DeadSeries:
    """The experts without a selection of a report."""
    data, routers = report["data"], report["routers"]
    return DeadSeries(
        int(data["n_sequences"]),
        int(data["n_tokens"]),
        tuple(router_id(r) for r in routers),
        tuple(int(r["dead_experts"] or 0) for r in routers),
        tuple(or_nan(r["dead_experts_expected"]) for r in routers),
        tuple(tuple(i for i, count in enumerate(r["selection_counts"]) if not count) for r in routers),
    )


def load_heat(series: LoadSeries, most: float, kind: str | None = None, *, brief: bool = False) -> Heat:
    """Layers by experts: loads in colour on a scale up to ``most``, of one ``kind`` of router or of all.

    Beside each router stands the share of its busiest expert, its interval too unless that is to be ``brief``.
    """
    if kind is not None:
        series = series.of(kind)
    routers = series.routers
    bands = [one.band or _without(one.router.n_experts, None) for one in routers]
    n = n_of(series.n_sequences, series.n_tokens, series.texts)
    return Heat(
        "Layer by expert load",
        "Heatmap of the load, layers by experts",
        "expert",
        "layer",
        tuple(labels([one.router for one in routers])),
        _load_measures(routers, bands, series.unit, most),
        "ratio",
        (
            "Layer {row}, expert {column}",
            "{selections:selection} by {tokens:token}",
            "Share of tokens {share}",
            "{band}",
            "{ratio:2} times the even share, {even}",
        ),
        f"{series.definition} {n}, {series.phase}. {_level_or_reason(bands, series.level)}. Unit: {series.unit}.",
        ("data", "layer", "router", "tokens"),
        tuple((series.data, one.router.layer, one.router.router, one.n_tokens) for one in routers),
        {"tokens": tuple(one.n_tokens for one in routers), "even": tuple(one.router.even for one in routers)},
        f"{percent(series.level)} band over all experts of the layer",
        tuple(band.reason for band in bands),
        tuple(_beside(share, one.flag, brief) for share, one in zip(series.busiest, routers, strict=True)),
        f"busiest, of tokens{series.marks}",
        "expert, busiest first in each layer",
        neutral=tuple(one.router.even for one in routers),
        flags=tuple(FLAGGED.get(one.flag, "") for one in routers),
        flag_words=series.marks.removeprefix("; "),
    )


@dataclass(frozen=True)
class Favourites:
    """The domain whose tokens use each expert of each router most, [E] numbers of ``domains``; -1 for no token."""

    domains: tuple[str, ...]
    experts: tuple[Numbers, ...]


def favourite_domains(run: Run) -> Favourites | None:
    """Of a run of several domains, the first of equal ones; None of one."""
    if not run.domains:
        return None
    reports = list(run.domains.values())
    experts = []
    for number in range(len(run.report["routers"])):
        entries = [report["routers"][number] for report in reports]
        shares = np.array([np.array(e["selection_counts"]) / max(e["n_tokens"], 1) for e in entries])
        experts.append(np.where(shares.max(axis=0) > 0, shares.argmax(axis=0), -1).astype(np.int64))
    return Favourites(tuple(run.domains), tuple(experts))


def grouped(heat: Heat, favourites: Favourites | None) -> Heat:
    """The load of a run with the favourite domain of each expert, by which it may be sorted."""
    if favourites is None:
        return heat
    groups = tuple(np.where(one < 0, len(favourites.domains), one) for one in favourites.experts)
    names = (*favourites.domains, "no domain")
    return replace(heat, tip=(*heat.tip, "Most of {group}"), groups=groups, group_names=names)


def _load_measures(routers: Sequence[RouterLoad], bands: Sequence[Band], unit: str, most: float) -> dict[str, Measure]:
    counts = tuple(one.counts for one in routers)
    tokens = tuple(one.n_tokens for one in routers)
    even = tuple(one.n_tokens * one.router.even for one in routers)
    low, high = (tuple(getattr(band, end) for band in bands) for end in ("low", "high"))
    scale = Scale("even", most, "load, multiple of the even share (1 = even)")
    return {
        "selections": Measure("selections", "selections", counts),
        "share": Measure("share of tokens", "share of tokens", counts, tokens, low=low, high=high),
        "ratio": Measure(unit, "ratio", counts, even, scale=scale),
    }


def _level_or_reason(bands: Sequence[Band], level: float) -> str:
    if any(np.isfinite(band.low).any() for band in bands):
        return f"Level {percent(level)}"
    return f"No intervals: {next((band.reason for band in bands if band.reason), 'none can be given')}"


def dead_chart(views: Sequence[View], kind: str) -> Chart:
    """Experts without a token of the routers of a ``kind``, a line for each view, and how many even routing leaves."""
    lines, references = [], []
    for number, view in enumerate(views):
        series = dead_series(view.report)
        points, places = points_of(series.routers, kind)
        expected = tuple(series.expected[place] for place in places)
        facts = {
            "expected under even routing": expected,
            "which": tuple(" ".join(map(str, series.experts[place])) for place in places),
            "experts": tuple(series.routers[place].n_experts for place in places),
        }
        values = tuple(value_of(series.dead[place]) for place in places)
        note = n_of(series.n_sequences, series.n_tokens, unit_of_text(view.report["model"]))
        lines.append(Line(view.name, points, values, facts, note, domain=view.domain))
        references.append(Reference("expected", points.x, expected, number))
    label, unit = label_and_unit("dead_experts")
    series = dead_series(views[0].report)
    return Chart(
        label,
        f"Dead experts of every {kind} router, layer by layer",
        "layer",
        unit,
        label,
        (
            "{value:expert} without a token, of {experts:expert}; {expected under even routing:2} expected",
            "Which: {which}",
        ),
        f"{series.definition} Unit: {unit}. Dotted: expected under even routing.",
        tuple(lines),
        tuple(references),
        line_head="data",
        whole=True,
    )


def none_dead(views: Sequence[View]) -> str | None:
    """What stands in place of a chart where every expert has tokens and none was expected to lack them, else None."""
    every = [dead_series(view.report) for view in views]
    largest = max(float(np.nanmax(series.expected, initial=0.0)) for series in every)
    if any(any(series.dead) for series in every) or largest > 0.5:
        return None
    return (
        "Every expert of every layer was chosen by a token, on all data and on each domain: 0 dead experts, against "
        f"fewer than {max(largest, 0.001):.3f} a layer under even routing. {every[0].definition}"
    )


def _beside(share: Value, flag: Flag, brief: bool) -> str:
    return with_interval(share.value, None if brief else share, 2) + {"yes": " *", "open": " ?"}.get(flag, "")


def _plan(report: Facts) -> Plan:
    """The plan that a report's own intervals were made by."""
    ci = report["settings"].get("ci")
    if not ci:
        return Plan()
    # Reports of earlier versions may ask for a level that their draws do not reach, which is refused now.
    return Plan(**ci | {"resamples": max(ci["resamples"], math.ceil(2 / (1 - ci["level"])))})
