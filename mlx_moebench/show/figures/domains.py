"""What lies between domains: information, findings and each domain's experts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...routing.sums import Floats
from ...types import Facts
from ..findings import remarks
from ..names import QUANTITIES, isolated, unit_of_text
from ..numbers import percent
from .base import RouterId, Value, intervals_of, labels, n_of, or_nan, router_id, value_of
from .drawing import ALL, Chart, Heat, Line, Measure, Reference, Scale, kinds_of, points_of

MANY = 8
"""Pairs of domains whose lines are shown at first."""


@dataclass(frozen=True)
class RouterDomains:
    """One router. mi: nats, with p and q of the test that all domains route alike (NaN without one).

    shares [D, E]: share of each domain's tokens that use each expert; low, high [D, E]: ends that hold all of them at
    once, NaN for ``reason``. divergences: Jensen-Shannon, nats, of each two domains. word: of its findings; used,
    specialisation, dominant, idle: the numbers r, s, the share of tokens of the expert that leads in most domains, and
    the share of idle experts; dominance: the threshold of the third. remarks: whom findings are about, what is open.
    """

    router: RouterId
    mi: Value
    relative: float
    nmi: float
    shares: Floats
    low: Floats
    high: Floats
    reason: str | None
    divergences: Mapping[tuple[str, str], Value]
    word: str | None
    used: Value
    specialisation: Value
    dominant: Value
    dominance: float
    idle: Value
    remarks: tuple[str, ...]

    @property
    def ratios(self) -> Floats:
        """Shares as multiples of the even share K/E, [D, E]: 1 is even."""
        return np.asarray(self.shares / self.router.even)


@dataclass(frozen=True)
class DomainSeries:
    """A model on its domains. highest: ln D, what a router that tells all domains apart would reach."""

    name: str
    model: Facts
    domains: tuple[str, ...]
    n_sequences: tuple[int, ...]
    n_tokens: tuple[int, ...]
    thresholds: Facts
    level: float
    highest: float
    routers: tuple[RouterDomains, ...]
    counts: Mapping[str, Mapping[str, int]]
    unit: str = "nats"
    definition: str = (
        "MI = H(mean load) - mean over domains of H(load), every domain weighted 1/D: how much the domain of a text "
        "tells of the expert that gets a selection, corrected for what finite samples add. p: of the "
        "test that all domains route alike, each with its own number, length and likeness of texts."
    )
    shares_definition: str = (
        "Share of a domain's tokens that use the expert, as a multiple of the even share K/E; 1 is even. The intervals "
        "hold for all experts on all domains of a router at once."
    )

    @property
    def ids(self) -> tuple[RouterId, ...]:
        """The routers, without their numbers."""
        return tuple(one.router for one in self.routers)

    @property
    def most(self) -> float:
        """The largest ratio, at least 2: the end of a colour scale."""
        return max(2.0, *(float(np.nanmax(r.ratios, initial=1.0)) for r in self.routers))

    @property
    def sizes(self) -> str:
        """``code: n = 40 sequences, 4,942 tokens; math: ...``"""
        noun = unit_of_text(self.model)
        sized = zip(self.domains, self.n_sequences, self.n_tokens, strict=True)
        return "; ".join(f"{isolated(d)}: {n_of(n, tokens, noun)}" for d, n, tokens in sized)


def domain_series(name: str, profile: Facts) -> DomainSeries:
    """From a model of a profile with its ``settings``, as `Inputs.profiles` holds it."""
    settings = profile["settings"]
    domains = tuple(str(d["name"]) for d in sorted(profile["domains"], key=lambda d: str(d["name"])))
    sizes = {str(d["name"]): d for d in profile["domains"]}
    return DomainSeries(
        name,
        profile["model"],
        domains,
        tuple(int(sizes[d]["n_sequences"]) for d in domains),
        tuple(int(sizes[d]["n_tokens"]) for d in domains),
        settings["thresholds"],
        or_nan(settings["ci"].get("level")),
        math.log(len(domains)),
        tuple(_router(r, domains) for r in profile["routers"]),
        profile["words_by_router"],
    )


def _router(entry: Facts, domains: tuple[str, ...]) -> RouterDomains:
    info, spec, findings = entry["domain_information"], entry["domain_specialisation"], entry["findings"]
    shares = np.array([[or_nan(x) for x in spec["shares"][d]] for d in domains])
    known = spec["low"] is not None
    low, high = (np.array([spec[end][d] for d in domains]) if known else shares * np.nan for end in ("low", "high"))
    pairs = {(str(e["domains"][0]), str(e["domains"][1])): value_of(e["value"], e) for e in entry["jensen_shannon"]}
    dominant = _part(findings, "dominated", "share")
    return RouterDomains(
        router_id(entry),
        value_of(info["value"], info | {"p": info["p_value"], "q": info["q_value"]}),
        or_nan(info["relative"]),
        or_nan(info["nmi"]),
        shares,
        low,
        high,
        spec.get("reason"),
        pairs,
        findings["word"],
        _value(_part(findings, "collapsed", "used"), spec),
        _value(_part(findings, "collapsed", "specialisation"), spec),
        _value(dominant, spec),
        or_nan(dominant.get("threshold")),
        _value(_part(findings, "idle", "experts"), spec),
        tuple(remarks(entry)),
    )


def _part(findings: Facts, name: str, part: str) -> Facts:
    """A number of a finding; empty where the finding has none."""
    entry: Facts = findings["findings"][name]["parts"].get(part, {})
    return entry


def _value(part: Facts, reason_of: Facts) -> Value:
    return value_of(part.get("value"), {**part, "reason": reason_of.get("reason")})


def information_chart(series: DomainSeries, kind: str | None = None) -> Chart:
    """What the domain tells about the expert, of the routers of one ``kind`` or a line for each kind."""
    lines = []
    for name in kinds_of(series.ids) if kind is None else [kind]:
        points, places = points_of(series.ids, name)
        routers = [series.routers[place] for place in places]
        facts = _information_facts(routers)
        lines.append(Line(f"{name} routers", points, tuple(r.mi for r in routers), facts, domain=ALL))
    intervals = intervals_of((r.mi for r in series.routers), series.level)
    information = QUANTITIES["domain_information"]
    return Chart(
        information.title,
        f"{information.title}, by layer, {series.name}",
        "layer",
        information.head,
        information.head,
        (
            "MI {value} nats, {of ln D} of ln D",
            "p {p}, q {q}",
        ),
        f"{series.definition} Unit: {series.unit}; at most ln D = {series.highest:.3f}. {intervals}. {series.sizes}.",
        tuple(lines),
    )


def _information_facts(routers: Sequence[RouterDomains]) -> dict[str, tuple[float, ...]]:
    return {
        "of ln D": tuple(r.relative for r in routers),
        "NMI": tuple(r.nmi for r in routers),
        "p": tuple(r.mi.p for r in routers),
        "q": tuple(r.mi.q for r in routers),
    }


def divergence_chart(series: DomainSeries, kind: str) -> Chart:
    """How far the loads of each two domains lie apart, of the routers of a ``kind``; a line for each pair."""
    points, places = points_of(series.ids, kind)
    routers = [series.routers[place] for place in places]
    lines = [
        Line(
            f"{isolated(first)} and {isolated(second)}",
            points,
            tuple(r.divergences[first, second] for r in routers),
            hidden=place >= MANY,
        )
        for place, (first, second) in enumerate(routers[0].divergences)
    ]
    intervals = intervals_of((v for one in lines for v in one.values), series.level)
    divergence = QUANTITIES["jensen_shannon"]
    return Chart(
        f"{divergence.title}{_of_kind(series, kind)}",
        f"{divergence.title}, by layer, {series.name}",
        "layer",
        divergence.head,
        divergence.head,
        ("JSD {value} nats",),
        "Jensen-Shannon divergence of the loads of two domains, H((f + g) / 2) - (H(f) + H(g)) / 2. Unit: nats, at "
        "most ln 2 = 0.693, corrected for what finite samples add. "
        f"{intervals}. {series.sizes}.",
        tuple(lines),
        line_head="domains",
        first_hue=len(series.domains),
    )


def _of_kind(series: DomainSeries, kind: str) -> str:
    """The end of a title, where there are several kinds of router."""
    return f", {kind} routers" if len(kinds_of(series.ids)) > 1 else ""


def share_chart(series: DomainSeries, kind: str) -> Chart:
    """The largest share of tokens that one expert has in more than half of the domains."""
    points, places = points_of(series.ids, kind)
    routers = [series.routers[place] for place in places]
    odds = f"{float(series.thresholds['odds']):g} times the even odds, dominated above"
    return Chart(
        f"{QUANTITIES['dominant_share'].label}{_of_kind(series, kind)}",
        f"Largest share of tokens of one expert in most domains by layer, {series.name}",
        "layer",
        "share of tokens",
        "share of tokens",
        ("Share of tokens {value}",),
        "The largest share of tokens that a single expert has in more than half of the domains. Unit: share of tokens. "
        f"{intervals_of((r.dominant for r in routers), series.level)}. Dotted: {odds}. {series.sizes}.",
        (Line("", points, tuple(r.dominant for r in routers), domain=ALL),),
        (Reference(odds, points.x, tuple(r.dominance for r in routers)),),
    )


def spread_chart(series: DomainSeries, kind: str) -> Chart:
    """The effective share of the experts that the domains, mixed in equal parts, use."""
    points, places = points_of(series.ids, kind)
    routers = [series.routers[place] for place in places]
    half, spread = float(series.thresholds["used"]), QUANTITIES["mixture_spread"]
    return Chart(
        f"{spread.title}{_of_kind(series, kind)}",
        f"{spread.title}, by layer, {series.name}",
        "layer",
        spread.head,
        spread.head,
        ("r {value}",),
        "Effective share of the experts, n_eff / E, of the domains mixed in equal parts. Unit: ratio. "
        f"{intervals_of((r.used for r in routers), series.level)}. Dotted: {half:g}, below which a router "
        f"whose domains share their experts is collapsed. {series.sizes}.",
        (Line("", points, tuple(r.used for r in routers), domain=ALL),),
        (Reference(f"r = {half:g}", points.x, (half,) * len(points.x)),),
    )


def router_heat(series: DomainSeries, place: int, most: float) -> Heat:
    """Domains by experts at one router: shares as multiples of the even share."""
    one = series.routers[place]
    label = labels(series.ids)[place]
    low, high = one.low, one.high
    router, rows = one.router, len(series.domains)
    known = bool(np.isfinite(low).any())
    intervals = f"Level {percent(series.level)}" if known else f"No intervals: {one.reason or 'none can be given'}"
    return Heat(
        f"Experts by domain, layer {label}",
        f"Heatmap of each domain's use of the experts of a layer, {series.name}",
        "expert",
        "domain",
        tuple(map(isolated, series.domains)),
        _measures(list(one.shares), series.n_tokens, [router.even] * rows, (low, high), most),
        "ratio",
        (
            f"{{row}}, layer {label}, expert {{column}}",
            "Share of the domain's tokens {share}",
            f"{{ratio:2}} times the even share, {router.even:.3f}",
            "{band}",
        ),
        f"{series.shares_definition} {intervals}. Unit: multiple of even share. {series.sizes}.",
        ("layer", "router", "domain"),
        tuple((router.layer, router.router, isolated(domain)) for domain in series.domains),
        reasons=(one.reason,) * rows,
        neutral=(router.even,) * rows,
    )


def domain_heat(series: DomainSeries, domain: int, kind: str, most: float, *, words: bool = True) -> Heat:
    """Layers by experts on one domain: the same numbers, a layer in a row. words: whether they stand beside."""
    points, places = points_of(series.ids, kind)
    routers = [series.routers[place] for place in places]
    return Heat(
        series.domains[domain],
        f"Heatmap of the use of the experts on {series.domains[domain]}, layers by experts",
        "expert",
        "layer",
        tuple(str(r.router.layer) for r in routers),
        _measures(
            [r.shares[domain] for r in routers],
            [series.n_tokens[domain]] * len(routers),
            [r.router.even for r in routers],
            ([r.low[domain] for r in routers], [r.high[domain] for r in routers]),
            most,
        ),
        "ratio",
        (),
        "",
        ("layer", "router"),
        points.cells,
        beside=tuple(r.word or "no word" for r in routers) if words else (),
        neutral=tuple(r.router.even for r in routers),
        flags=tuple(r.word or "" for r in routers),
    )


def _measures(
    shares: list[Floats], tokens: Sequence[int], even: list[float], bands: Sequence[Any], most: float
) -> dict[str, Measure]:
    """Shares of ``tokens``, a number for each row, and the multiples of the even share that they are."""
    scale = Scale("even", most, "share of the domain's tokens, multiple of the even share (1 = even)")
    counts = tuple(np.rint(row * n) for row, n in zip(shares, tokens, strict=True))
    exact = all(np.allclose(row / n, s, rtol=1e-9, atol=0) for row, n, s in zip(counts, tokens, shares, strict=True))
    cells = tuple(row.astype(np.int64) for row in counts) if exact else tuple(shares)
    over = tuple(tokens) if exact else (1,) * len(shares)
    low, high = (tuple(end) for end in bands)
    return {
        "share": Measure("share of tokens", "share of tokens", cells, over, low=low, high=high),
        "ratio": Measure(
            "multiple of even share", "ratio", cells, tuple(n * e for n, e in zip(over, even, strict=True)), scale=scale
        ),
    }
