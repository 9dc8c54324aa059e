"""Who gets how much: every expert's load and share of tokens with its interval, and the experts that get nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...options import Plan
from ...routing.intervals.bootstrap import intervals
from ...routing.stats import RoutingStats
from ...routing.sums import Floats
from ..inputs import Run
from .base import RouterId, number, router_id

WITHOUT_SUMS = "the sums beside the report are missing"


@dataclass(frozen=True)
class RouterLoad:
    """One router: selections [E], shares of tokens [E], loads as multiples of the even share [E].

    below, above: half-widths of the simultaneous band around all its shares, [share - below, share + above]: the one
    of `top_share_token`; NaN without it, for ``reason``. flagged: `collapsed` of the report, None where it has none.
    """

    router: RouterId
    n_tokens: int
    counts: np.ndarray[tuple[int], np.dtype[np.int64]]
    below: float
    above: float
    reason: str | None
    flagged: bool | None

    @property
    def shares(self) -> Floats:
        """Share of tokens that use each expert."""
        return np.asarray(self.counts / self.n_tokens if self.n_tokens else np.full(len(self.counts), np.nan))

    @property
    def ratios(self) -> Floats:
        """Load as a multiple of the even share: 1 is even."""
        return np.asarray(self.shares / self.router.even)

    @property
    def bands(self) -> tuple[Floats, Floats]:
        """Lower and upper ends of the shares' band, inside [0, 1]."""
        shares = self.shares
        return np.clip(shares - self.below, 0, 1), np.clip(shares + self.above, 0, 1)


@dataclass(frozen=True)
class LoadSeries:
    """Layer x expert load of one run, on all its data (``domain`` None) or on one domain."""

    run: str
    domain: str | None
    data: str
    phase: str
    n_sequences: int
    n_tokens: int
    tau: float
    level: float
    routers: tuple[RouterLoad, ...]
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


@dataclass(frozen=True)
class DeadSeries:
    """Experts without a selection, per router, against the number that even routing leaves out on as many tokens."""

    run: str
    domain: str | None
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


def load_series(run: Run, domain: str | None = None, plan: Plan | None = None) -> LoadSeries:
    """The load of a run on all its data or on one of its ``domains``.

    plan: for the bands; its resamples are those of the report unless it says otherwise. With the JSON alone there are
    no bands, with the reason.
    """
    report = run.report if domain is None else run.domains[domain]
    stats = run.stats if domain is None else run.parts.get(domain)
    plan = plan or _plan(report)
    bands = [(math.nan, math.nan, WITHOUT_SUMS)] * len(report["routers"]) if stats is None else share_bands(stats, plan)
    data, settings = report["data"], report["settings"]
    routers = tuple(
        RouterLoad(
            router_id(r),
            int(r["n_tokens"]),
            np.array(r["selection_counts"], dtype=np.int64),
            *band,
            r["collapsed"],
        )
        for r, band in zip(report["routers"], bands, strict=True)
    )
    facts = str(data["name"]), str(data["phase"]), int(data["n_sequences"]), int(data["n_tokens"])
    return LoadSeries(run.name, domain, *facts, float(settings["tau"]), plan.level, routers)


def share_bands(stats: RoutingStats, plan: Plan) -> list[tuple[float, float, str | None]]:
    """(below, above, None) of each router's simultaneous band around its shares of tokens; NaN with the reason."""
    found: list[tuple[float, float, str | None]] = []
    metric = "top_share_token"
    for number_of_router in range(len(stats.specs)):
        one = intervals([stats.sums(number_of_router)], stats.strata, plan, [metric])
        below, above = one.peak_margin.get(metric, (math.nan, math.nan))
        found.append((below, above, one.routers[0][metric].reason if metric in one.routers[0] else None))
    return found


def dead_series(run: Run, domain: str | None = None) -> DeadSeries:
    """The experts without a selection of a run, on all its data or on one domain."""
    report = run.report if domain is None else run.domains[domain]
    data, routers = report["data"], report["routers"]
    return DeadSeries(
        run.name,
        domain,
        int(data["n_sequences"]),
        int(data["n_tokens"]),
        tuple(router_id(r) for r in routers),
        tuple(int(r["dead_experts"] or 0) for r in routers),
        tuple(number(r["dead_experts_expected"]) for r in routers),
        tuple(tuple(i for i, count in enumerate(r["selection_counts"]) if not count) for r in routers),
    )


def _plan(report: dict[str, object]) -> Plan:
    """The plan that a report's own intervals were made by."""
    settings = report["settings"]
    ci = settings.get("ci") if isinstance(settings, dict) else None
    return Plan(**ci) if ci else Plan()
