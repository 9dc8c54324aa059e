"""The JSON report of statistics: every number with its interval or the reason there is none."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..options import Plan
from ..routing.domains.statistics import domain_statistics
from ..routing.domains.verdict import Verdict, count_words, verdict
from ..routing.intervals.bootstrap import Interval, Intervals, collapsed_fraction, intervals
from ..routing.metrics import METRICS
from ..routing.parts import completeness
from ..routing.sums import Sums
from ..types import Json

if TYPE_CHECKING:
    from ..routing.stats import RoutingSums

SCHEMA_VERSION = "2"
"""Since 2 a router has the band of every expert, ``token_share``."""


def build_report(stats: RoutingSums, plan: Plan | None = None) -> Json:
    """Provenance, ``routers``, ``summary`` (of the main router kind) and ``summary_by_router`` (of each kind).

    Of two or more domains every router also has its ``verdict``, and ``verdicts_by_router`` counts them.
    """
    plan = plan or Plan()
    stats.check()
    routers, summaries = _by_kind(stats, plan)
    verdicts = verdicts_of(stats, plan)
    for router, of_router in zip(routers, verdicts, strict=False):
        router["verdict"] = of_router.to_dict()
    main = "mlp" if "mlp" in summaries else next(iter(summaries))
    return {
        "schema_version": SCHEMA_VERSION,
        "model": stats.model,
        "data": data_section(stats),
        "environment": stats.environment,
        "settings": {
            "tau": stats.tau,
            "collapse_on": stats.collapse_on,
            "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
        },
        "routers": routers,
        "summary": summaries[main],
        "summary_by_router": summaries,
        **({"verdicts_by_router": count_verdicts(stats, verdicts)} if verdicts else {}),
    }


def _by_kind(stats: RoutingSums, plan: Plan) -> tuple[list[Json], dict[str, Json]]:
    """(every router, the summary of each kind): one kind of router is resampled together."""
    routers: list[Json] = [{} for _ in stats.specs]
    summaries = {}
    for kind in dict.fromkeys(spec.router for spec in stats.specs):
        numbers = [i for i, spec in enumerate(stats.specs) if spec.router == kind]
        values = [stats.values(i) for i in numbers]
        resampled = intervals([stats.sums(i) for i in numbers], stats.strata, plan)
        for number, value, ci, margins in zip(numbers, values, resampled.routers, resampled.margins, strict=True):
            routers[number] = _router(stats, number, value, ci)
            routers[number]["token_share"] = token_share(stats.totals(number), ci["top_share_token"], margins)
        summaries[kind] = _summary(stats, numbers, values, resampled, plan)
    return routers, summaries


def verdicts_of(stats: RoutingSums, plan: Plan) -> list[Verdict]:
    """The verdict on each router of statistics of two or more domains, told apart by name; none for one domain."""
    strata = stats.strata
    if len(set(strata)) < 2:
        return []
    between = domain_statistics([stats.sums(number) for number in range(len(stats.specs))], strata, plan)
    return [verdict(one, stats.tau, stats.collapse_on) for one in between]


def count_verdicts(stats: RoutingSums, verdicts: list[Verdict]) -> dict[str, dict[str, int]]:
    """Number of routers per verdict, for each kind of router."""
    kinds = dict.fromkeys(spec.router for spec in stats.specs)
    every = list(zip(stats.specs, verdicts, strict=True))
    return {kind: count_words(v for spec, v in every if spec.router == kind) for kind in kinds}


def data_section(stats: RoutingSums) -> Json:
    """Facts about the data: those of the one source, or name and hash of all with the sources listed.

    ``complete`` is absent where no run says what there was to measure, and false where one of the sources is not.
    """
    clusters = stats.clusters
    counted: Json = {"n_sequences": len(clusters), "n_tokens": stats.n_tokens, "phase": stats.phase}
    shas = sorted({*stats.sources, *(sha for sha, _ in clusters)})
    every = [(sha, stats.sources.get(sha, {})) for sha in shas]
    sources = [{"name": sha[:12], **facts, "sha256": sha, **completeness(facts)} for sha, facts in every]
    if len(sources) == 1:
        return {**sources[0], **counted}
    known = [source["complete"] for source in sources if "complete" in source]
    if len(known) == len(sources) or not all(known):
        counted["complete"] = all(known)
    return {
        "name": "+".join(str(source["name"]) for source in sources),
        "sha256": hashlib.sha256("".join(shas).encode()).hexdigest(),
        **counted,
        "sources": sources,
    }


def _router(stats: RoutingSums, number: int, values: dict[str, float], ci: dict[str, Interval]) -> Json:
    spec, total = stats.specs[number], stats.totals(number)
    flag, reason = stats.collapsed(number, values[stats.collapse_on])
    entry: Json = {
        "layer": spec.layer,
        "moe_layer": spec.moe_layer,
        "router": spec.router,
        "n_experts": spec.n_experts,
        "top_k": spec.top_k,
        "distribution": spec.distribution,
        "router_bits": spec.router_bits,
        "n_tokens": int(total.n_tokens),
        "selection_counts": [int(c) for c in total.counts],
        "top1_counts": None if _unknown(total.top1_counts) else [int(c) for c in total.top1_counts],
        **{name: _json_number(name, value) for name, value in values.items()},
        "collapsed": flag,
        "ci": {name: _with_cause(values[name], interval, total).to_dict() for name, interval in ci.items()},
    }
    if reason:
        entry["collapsed_reason"] = reason
    return entry


def token_share(total: Sums, busiest: Interval, margins: Mapping[str, tuple[float, float]]) -> Json:
    """The simultaneous band of every expert's share of tokens, inside [0, 1], or the reason there is none."""
    below, above = margins.get("top_share_token", (math.nan, math.nan))
    if not math.isfinite(below):
        return {"low": None, "high": None, "reason": busiest.reason or "the band is over experts, not over layers"}
    shares = total.counts / total.n_tokens
    ends = [np.clip(end, 0, 1).tolist() for end in (shares - below, shares + above)]
    return {"low": ends[0], "high": ends[1], "method": "simultaneous band over experts"}


def _summary(
    stats: RoutingSums, numbers: list[int], values: list[dict[str, float]], resampled: Intervals, plan: Plan
) -> Json:
    """Means over routers, peaks of the shares, and the fraction of routers whose flag is set."""
    summary: Json = {}
    shares = {}
    for number, value in zip(numbers, values, strict=True):
        share = value[stats.collapse_on]
        if stats.collapsed(number, share)[0] is not None:
            shares[stats.specs[number].name] = share
    fraction, ci = collapsed_fraction(shares, resampled.peak_margin.get(stats.collapse_on), stats.tau)
    summary["collapsed_fraction"] = {"value": fraction, "level": plan.level, "over": len(shares), **ci.to_dict()}
    for name, m in METRICS.items():
        finite = [v[name] for v in values if math.isfinite(v[name])]
        if m.interval == "maximum":
            peak = max(finite) if finite else None
            ci = resampled.peak.get(name, Interval(reason="the metric is null here"))
            if peak is None:
                ci = _with_cause(math.nan, ci, stats.totals(numbers[0]))
            summary[f"peak_{name}"] = {"value": peak, "level": plan.level, **ci.to_dict()}
        else:
            mean = sum(finite) / len(finite) if finite else None
            ci = resampled.mean.get(name, Interval(reason="no interval for this metric"))
            if mean is None:
                ci = _with_cause(math.nan, ci, stats.totals(numbers[0]))
            summary[name] = {"value": mean, "level": plan.level, **ci.to_dict()}
    return summary


def _unknown(column: Any) -> bool:
    return any(math.isnan(x) for x in column)


def _with_cause(value: float, interval: Interval, total: Sums) -> Interval:
    """The interval; of a null metric, with the reason that its sums were not recorded, where that is the reason."""
    if math.isfinite(value) or not (_unknown(total.p_sum) or _unknown(total.top1_counts)):
        return interval
    return Interval(reason="what it is computed from was not recorded")


def _json_number(name: str, value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if METRICS[name].integer else value
