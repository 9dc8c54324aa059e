"""What lies between domains: information, verdicts and each domain's experts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...routing.sums import Floats
from .base import Estimate, RouterId, estimate, number, router_id


@dataclass(frozen=True)
class RouterDomains:
    """One router. mi: nats, with the mean and the 95% quantile of its permutation null, p and q (NaN without a null).

    shares [D, E]: share of each domain's tokens that use each expert; band: half-width of the simultaneous band around
    all of them, NaN for ``reason``. divergence [D, D]: Jensen-Shannon, nats, NaN on the diagonal; with its intervals in
    ``divergences``. word, a, b, r: the verdict and its numbers; needed: sequences that would decide an open one.
    """

    router: RouterId
    mi: Estimate
    null_mean: float
    null_high: float
    relative: float
    nmi: float
    shares: Floats
    band: float
    reason: str | None
    divergences: Mapping[tuple[str, str], Estimate]
    word: str | None
    a: Estimate
    b: Estimate
    r: Estimate
    c: float
    undecided: tuple[str, ...]
    needed: int | None
    word_reason: str | None

    @property
    def ratios(self) -> Floats:
        """Shares as multiples of the even share K/E, [D, E]: 1 is even."""
        return np.asarray(self.shares / self.router.even)


@dataclass(frozen=True)
class DomainSeries:
    """A model on its domains. highest: ln D, what a router that tells all domains apart would reach."""

    name: str
    model: Mapping[str, Any]
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
        "domain of a text tells of the expert that gets a selection. The null permutes domains over whole sequences."
    )
    shares_definition: str = (
        "Share of a domain's tokens that use the expert, as a multiple of the even share K/E; 1 is even. The interval "
        "is one simultaneous band around all experts on all domains of a router."
    )


def domain_series(name: str, profile: Mapping[str, Any]) -> DomainSeries:
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
        number(settings["ci"].get("level")),
        math.log(len(domains)),
        int(settings.get("permutations", 0)),
        tuple(_router(r, domains) for r in profile["routers"]),
        profile["verdicts_by_router"],
    )


def _router(found: Mapping[str, Any], domains: tuple[str, ...]) -> RouterDomains:
    info, spec, judged = found["domain_information"], found["domain_specialisation"], found["verdict"]
    shares = np.array([[number(x) for x in spec["shares"][d]] for d in domains])
    pairs = {(str(e["domains"][0]), str(e["domains"][1])): estimate(e["value"], e) for e in found["jensen_shannon"]}
    a, b, r = (estimate(judged[name], judged["ci"].get(name)) for name in ("a", "b", "r"))
    return RouterDomains(
        router_id(found),
        estimate(info["value"], info | {"p": info["p_value"], "q": info["q_value"]}),
        number(info["null_mean"]),
        number(info["null_high"]),
        number(info["relative"]),
        number(info["nmi"]),
        shares,
        number(spec["band"]),
        spec.get("reason"),
        pairs,
        judged["word"],
        a,
        b,
        r,
        number(judged["c"]),
        tuple(map(str, judged["undecided"])),
        judged["sequences_needed"],
        judged.get("reason"),
    )
