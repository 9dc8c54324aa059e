"""What lies between domains: information, verdicts and each domain's experts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...routing.sums import Floats
from ...types import Facts
from ..names import isolated, unit_of_text
from ..numbers import number, percent
from .base import RouterId, Value, intervals_of, labels, n_of, or_nan, router_id, value_of
from .drawing import Chart, Heat, Line, Measure, Reference, Scale, kinds_of, points_of

MANY = 8
"""Pairs of domains whose lines are shown at first."""


@dataclass(frozen=True)
class RouterDomains:
    """One router. mi: nats, with the mean and the 95% quantile of its permutation null, p and q (NaN without a null).

    shares [D, E]: share of each domain's tokens that use each expert; band: half-width of the simultaneous band around
    all of them, NaN for ``reason``. divergences: Jensen-Shannon, nats, of each two domains. word, a, b, r: the verdict
    and its numbers; needed: sequences that would decide an open one.
    """

    router: RouterId
    mi: Value
    null_mean: float
    null_high: float
    relative: float
    nmi: float
    shares: Floats
    band: float
    reason: str | None
    divergences: Mapping[tuple[str, str], Value]
    word: str | None
    a: Value
    b: Value
    r: Value
    c: float
    undecided: tuple[str, ...]
    needed: int | None
    word_reason: str | None

    @property
    def bands(self) -> tuple[Floats, Floats]:
        """Lower and upper ends of the shares' band [D, E], inside [0, 1]; NaN without one."""
        return np.clip(self.shares - self.band, 0, 1), np.clip(self.shares + self.band, 0, 1)

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
    tau: float
    level: float
    highest: float
    permutations: int
    routers: tuple[RouterDomains, ...]
    counts: Mapping[str, Mapping[str, int]]
    unit: str = "nats"
    definition: str = (
        "MI(domain; expert) = H(mean load) - mean over domains of H(load), every domain weighted 1/D: how much the "
        "domain of a text tells about the expert that gets a selection. The null permutes domains over whole sequences."
    )
    shares_definition: str = (
        "Share of a domain's tokens that use the expert, as a multiple of the even share K/E; 1 is even. The interval "
        "is one simultaneous band around all experts on all domains of a router."
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
    sizes = {str(d["name"]): d for d in profile["domains"]}
    domains = tuple(map(str, profile["routers"][0]["verdict"]["domains"]))
    return DomainSeries(
        name,
        profile["model"],
        domains,
        tuple(int(sizes[d]["n_sequences"]) for d in domains),
        tuple(int(sizes[d]["n_tokens"]) for d in domains),
        float(settings["tau"]),
        or_nan(settings["ci"].get("level")),
        math.log(len(domains)),
        int(settings.get("permutations", 0)),
        tuple(_router(r, domains) for r in profile["routers"]),
        profile["verdicts_by_router"],
    )


def _router(entry: Facts, domains: tuple[str, ...]) -> RouterDomains:
    info, spec, verdict = entry["domain_information"], entry["domain_specialisation"], entry["verdict"]
    shares = np.array([[or_nan(x) for x in spec["shares"][d]] for d in domains])
    pairs = {(str(e["domains"][0]), str(e["domains"][1])): value_of(e["value"], e) for e in entry["jensen_shannon"]}
    a, b, r = (value_of(verdict[name], verdict["ci"].get(name)) for name in ("a", "b", "r"))
    return RouterDomains(
        router_id(entry),
        value_of(info["value"], info | {"p": info["p_value"], "q": info["q_value"]}),
        or_nan(info["null_mean"]),
        or_nan(info["null_high"]),
        or_nan(info["relative"]),
        or_nan(info["nmi"]),
        shares,
        or_nan(spec["band"]),
        spec.get("reason"),
        pairs,
        verdict["word"],
        a,
        b,
        r,
        or_nan(verdict["c"]),
        tuple(map(str, verdict["undecided"])),
        verdict["sequences_needed"],
        verdict.get("reason"),
    )


def information_chart(series: DomainSeries, kind: str | None = None) -> Chart:
    """What the domain tells about the expert, of the routers of one ``kind`` or a line for each kind."""
    lines, references = [], []
    for number_of_line, name in enumerate(kinds_of(series.ids) if kind is None else [kind]):
        points, places = points_of(series.ids, name)
        routers = [series.routers[place] for place in places]
        facts = _information_facts(routers)
        lines.append(Line(f"{name} routers", points, tuple(r.mi for r in routers), facts))
        references.append(Reference("95% of permutations", points.x, facts["null 95%"], number_of_line))
    tested = any(math.isfinite(r.mi.p) for r in series.routers)
    dotted = f" Dotted: 95% quantile of {series.permutations:,} permutations." if tested else ""
    intervals = intervals_of((r.mi for r in series.routers), series.level)
    return Chart(
        "What the domain tells about the expert",
        f"Information of the domain about the expert by layer, {series.name}",
        "layer",
        series.unit,
        "MI, nats",
        (
            "MI(domain; expert) {value} nats, {of ln D} of ln D",
            "null mean {null mean:4}, 95% quantile {null 95%:4}; p {p}, q {q}",
        ),
        f"{series.definition} Unit: {series.unit}; at most ln D = {series.highest:.3f}. {intervals}.{dotted} "
        f"{series.sizes}.",
        tuple(lines),
        tuple(references),
    )


def _information_facts(routers: Sequence[RouterDomains]) -> dict[str, tuple[float, ...]]:
    return {
        "of ln D": tuple(r.relative for r in routers),
        "NMI": tuple(r.nmi for r in routers),
        "null mean": tuple(r.null_mean for r in routers),
        "null 95%": tuple(r.null_high for r in routers),
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
    return Chart(
        f"How far the loads of two domains lie apart{_of_kind(series, kind)}",
        f"Jensen-Shannon divergences of domains by layer, {series.name}",
        "layer",
        series.unit,
        "JSD, nats",
        ("JSD {value} nats",),
        "Jensen-Shannon divergence of the loads of two domains, H((f + g) / 2) - (H(f) + H(g)) / 2. Unit: nats, at "
        "most ln 2 = 0.693; above 0 in finite samples also without a difference. "
        f"{intervals}. {series.sizes}.",
        tuple(lines),
        line_head="domains",
    )


def _of_kind(series: DomainSeries, kind: str) -> str:
    """The end of a title, where there are several kinds of router."""
    return f", {kind} routers" if len(kinds_of(series.ids)) > 1 else ""


def share_chart(series: DomainSeries, kind: str) -> Chart:
    """The shares that decide the verdict: of the expert that no domain escapes, and the busiest of any domain."""
    points, places = points_of(series.ids, kind)
    routers = [series.routers[place] for place in places]
    intervals = intervals_of((v for r in routers for v in (r.a, r.b)), series.level)
    return Chart(
        f"Deciding shares{_of_kind(series, kind)}",
        f"Shares that decide the verdicts by layer, {series.name}",
        "layer",
        "share of tokens",
        "share of tokens",
        ("Share of tokens {value}",),
        "a: of the expert that no domain escapes, the one whose smallest share over domains is largest; b: of the "
        f"busiest expert of any domain. Unit: share of tokens. {intervals}. Dotted: tau. {series.sizes}.",
        (
            Line("a: expert that no domain escapes", points, tuple(r.a for r in routers)),
            Line("b: busiest expert of any domain", points, tuple(r.b for r in routers)),
        ),
        (Reference(f"tau = {series.tau:g}", points.x, (series.tau,) * len(points.x)),),
        line_head="share",
    )


def spread_chart(series: DomainSeries, kind: str) -> Chart:
    """The effective share of the experts that the domains, mixed in equal parts, use."""
    points, places = points_of(series.ids, kind)
    routers = [series.routers[place] for place in places]
    return Chart(
        f"Experts in use, r{_of_kind(series, kind)}",
        f"Effective share of the experts in use by layer, {series.name}",
        "layer",
        "ratio",
        "r, ratio",
        ("r {value}",),
        "Effective share of the experts, n_eff / E, of the domains mixed in equal parts. Unit: ratio. "
        f"{intervals_of((r.r for r in routers), series.level)}. Dotted: 0.5, collapsed below. {series.sizes}.",
        (Line("", points, tuple(r.r for r in routers)),),
        (Reference("0.5, collapsed below", points.x, (0.5,) * len(points.x)),),
    )


def router_heat(series: DomainSeries, place: int, most: float) -> Heat:
    """Domains by experts at one router: shares as multiples of the even share."""
    one = series.routers[place]
    label = labels(series.ids)[place]
    low, high = one.bands
    router, rows = one.router, len(series.domains)
    band = f"Band: share +- {number(one.band)}, {percent(series.level)}"
    intervals = band if math.isfinite(one.band) else f"No intervals: {one.reason or 'none can be given'}"
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
    )


def domain_heat(series: DomainSeries, domain: int, kind: str, most: float) -> Heat:
    """Layers by experts on one domain: the same numbers, a layer in a row. Verdicts stand beside the last domain."""
    points, places = points_of(series.ids, kind)
    routers = [series.routers[place] for place in places]
    last = domain + 1 == len(series.domains)
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
            tuple([r.bands[end][domain] for r in routers] for end in (0, 1)),
            most,
        ),
        "ratio",
        (),
        "",
        ("layer", "router"),
        points.cells,
        beside=tuple(r.word or "no verdict" for r in routers) if last else (),
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
