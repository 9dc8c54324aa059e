"""What a model's routers do on several domains, as JSON: the numbers between domains, beside those of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import StatsError
from ..options import Plan
from ..routing.comparison.differences import benjamini_hochberg
from ..routing.domains.information import PERMUTATIONS
from ..routing.domains.statistics import DomainStatistics, Estimate, domain_statistics
from ..routing.domains.verdict import MAX_P, verdict
from ..routing.record import RouterSpec
from ..types import Json
from .report import count_verdicts, data_section
from .stats import RoutingStats

PROFILE_VERSION = "1"


@dataclass(frozen=True)
class Profile:
    """One model on several domains: the statistics of all together, and the report of each by its name."""

    name: str
    merged: RoutingStats
    reports: dict[str, Json]
    plan: Plan

    def report(self) -> Json:
        """What lies between the domains, as JSON: `domain_report` and the name."""
        return {"name": self.name, **domain_report(self.merged, self.reports, self.plan)}


def profile_document(profiles: Sequence[Profile], plan: Plan) -> Json:
    """What profile.json holds, `format.profile.ProfileFile`: the settings, and one entry for each model."""
    return {
        "schema_version": PROFILE_VERSION,
        "settings": profile_settings(profiles[0].merged, plan),
        "models": [profile.report() for profile in profiles],
    }


def profile_of_stats(parts: Sequence[RoutingStats], plan: Plan | None = None) -> Profile:
    """The profile of statistics of one model that are there already, merged ones or one for each domain.

    Raises `StatsError` when they do not merge or hold one domain only.
    """
    plan = plan or Plan()
    merged = RoutingStats.merge(parts)
    domains = merged.by_domain()
    if len(domains) < 2:
        raise StatsError(
            f"A profile compares domains, and these statistics have only {', '.join(domains) or 'none'}: give those of "
            "another data set, too, or NAME=STATS where two data sets have the same name."
        )
    reports = {name: part.report(plan) for name, part in domains.items()}
    return Profile(str(merged.model.get("id", "model")), merged, reports, plan)


def rename(stats: RoutingStats, domain: str) -> None:
    """Give the one data set of ``stats`` another name, which is that of its domain."""
    if len(stats.sources) != 1:
        raise StatsError(f"The pair for {domain!r} has {len(stats.sources)} data sets, which have names already.")
    for facts in stats.sources.values():
        facts["name"] = domain


def domain_report(merged: RoutingStats, reports: Mapping[str, Json], plan: Plan | None = None) -> Json:
    """Facts, ``domains``, and per router what lies between the domains: see the schema ``profile.schema.json``.

    merged: statistics of all domains together. reports: the report of each domain alone, by the name that it has in
    ``merged.strata``. Raises `MoebenchError` for fewer than two domains.
    """
    plan = plan or Plan()
    sums = [merged.sums(number) for number in range(len(merged.specs))]
    between = domain_statistics(sums, merged.strata, plan)
    verdicts = [verdict(one, merged.tau, merged.collapse_on) for one in between]
    q = [math.nan if x is None else x for x in benjamini_hochberg([v.p_value for v in verdicts])]
    routers = []
    for number, (spec, one, judged) in enumerate(zip(merged.specs, between, verdicts, strict=True)):
        alone = {name: report["routers"][number] for name, report in reports.items()}
        routers.append(_identity(spec) | {"verdict": judged.to_dict()} | _between(one, q[number], alone))
    return {
        "model": merged.model,
        "phase": merged.phase,
        "domains": [_domain(name, report) for name, report in reports.items()],
        "data": data_section(merged),
        "routers": routers,
        "verdicts_by_router": count_verdicts(merged, verdicts),
    }


def profile_settings(merged: RoutingStats, plan: Plan) -> Json:
    """How verdicts, intervals and nulls were decided."""
    return {
        "tau": merged.tau,
        "collapse_on": merged.collapse_on,
        "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
        "permutations": PERMUTATIONS,
        "max_p": MAX_P,
    }


def _identity(spec: RouterSpec) -> Json:
    return {name: getattr(spec, name) for name in ("layer", "moe_layer", "router", "n_experts", "top_k")}


def _domain(name: str, report: Json) -> Json:
    data = report["data"]
    return {"name": name, **{key: data[key] for key in ("sha256", "n_sequences", "n_tokens")}}


def _between(statistics: DomainStatistics, q_value: float, alone: Mapping[str, Json]) -> Json:
    info = statistics.information
    shares = {name: [_number(x) for x in row] for name, row in zip(statistics.domains, statistics.shares, strict=True)}
    return {
        "domain_information": {
            **_estimate(statistics.mi),
            "relative": _number(info.relative),
            "nmi": _number(info.nmi),
            "independent": _number(info.bias),
            "null_mean": _number(info.null_mean),
            "null_high": _number(info.null_high),
            "p_value": _number(info.p_value),
            "q_value": _number(q_value),
        },
        "mixture_spread": _estimate(statistics.mixture),
        "domain_specialisation": {
            "even": statistics.even,
            "band": _number(statistics.band),
            **({"reason": statistics.reason} if statistics.reason else {}),
            "shares": shares,
        },
        "jensen_shannon": [
            {"domains": list(pair), **_estimate(estimate)} for pair, estimate in statistics.divergence.items()
        ],
        "adjacent_overlap": {
            "chance": statistics.even,
            "domains": {
                name: {"value": router["adjacent_overlap"], **router["ci"]["adjacent_overlap"]}
                for name, router in alone.items()
            },
        },
    }


def _estimate(estimate: Estimate) -> Json:
    return {"value": _number(estimate.value), **estimate.interval.to_dict()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
