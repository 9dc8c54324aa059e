"""What a model's routers do on several domains, as JSON: the numbers between domains, beside those of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import StatsError
from ..options import Plan, Thresholds
from ..routing.comparison.differences import benjamini_hochberg
from ..routing.domains.estimates import DomainEstimates, domain_point
from ..routing.domains.findings import Findings, count_words, findings
from ..routing.intervals.bands import Estimates, share_bands
from ..routing.intervals.corrected import Corrected
from ..routing.intervals.measured import measured
from ..routing.record import RouterSpec
from ..routing.repeats import text_units
from ..types import Json
from .report import answers, data_section, estimates_of, interval_entry, sizes, words_by_router
from .stats import RoutingStats

OVERLAP = "adjacent_overlap"

MOST_PAIRED = 40
"""Domains up to which each two are held against each other: 780 pairs. A thousand would make half a million."""

PROFILE_VERSION = "2"
"""Since 2 routers have findings in place of verdicts."""


@dataclass(frozen=True)
class Profile:
    """One model on several domains: the statistics of all together, and the report of each by its name."""

    name: str
    merged: RoutingStats
    reports: dict[str, Json]
    plan: Plan

    def __repr__(self) -> str:
        return f"Profile({self.name} on {', '.join(self.reports)}: {len(self.merged.specs)} routers)"

    def report(self) -> Json:
        """What lies between the domains, as JSON: `domain_report` and the name."""
        return {"name": self.name, **domain_report(self.merged, self.reports, self.plan)}


def profile_document(profiles: Sequence[Profile], plan: Plan) -> Json:
    """What profile.json holds, `format.profile.ProfileFile`: the settings, and one entry for each model."""
    return {
        "schema_version": PROFILE_VERSION,
        "settings": profile_settings(plan),
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


def _in_order(merged: RoutingStats, reports: Mapping[str, Json]) -> dict[str, RoutingStats | None]:
    """The statistics of each domain, or None where its report is there already: those first, in their order."""
    missing = set(merged.strata) - reports.keys()
    parts = merged.by_domain() if missing else {}
    return dict.fromkeys(reports) | {name: part for name, part in parts.items() if name in missing}


def _alone(part: RoutingStats | None, plan: Plan) -> Json:
    """Of the report of one domain, what `domain_report` takes from it: the whole takes long for many domains."""
    assert part is not None  # where it is, there is no report
    units = text_units(part)
    sums = [units.sums(part.sums(number)) for number in range(len(part.specs))]
    rows = measured(sums, units.strata(part.strata), plan, [OVERLAP], units.copies).routers
    shown = [row[OVERLAP] for row in rows]
    routers = [{OVERLAP: _number(one.value), "ci": {OVERLAP: interval_entry(one)}} for one in shown]
    return {"data": data_section(part, units), "routers": routers}


def rename(stats: RoutingStats, domain: str) -> None:
    """Give the one data set of ``stats`` another name, which is that of its domain."""
    if len(stats.sources) != 1:
        raise StatsError(f"The pair for {domain!r} has {len(stats.sources)} data sets, which have names already.")
    for facts in stats.sources.values():
        facts["name"] = domain


def domain_report(merged: RoutingStats, reports: Mapping[str, Json], plan: Plan | None = None) -> Json:
    """Facts, ``domains``, and per router what lies between the domains: see the schema ``profile.schema.json``.

    merged: statistics of all domains together. reports: those of single domains that are made already, by the names
    that they have in ``merged.strata``. Raises `MoebenchError` for fewer than two domains.
    """
    plan = plan or Plan()
    alone = {name: reports.get(name) or _alone(part, plan) for name, part in _in_order(merged, reports).items()}
    units = text_units(merged)
    sums = [units.sums(merged.sums(number)) for number in range(len(merged.specs))]
    between = estimates_of(merged, sums, units, plan)
    over = answers(between, sums, units.strata(merged.strata), plan)
    q = [math.nan if x is None else x for x in benjamini_hochberg([_p_value(one) for one in between])]
    routers = []
    for number, (spec, one) in enumerate(zip(merged.specs, between, strict=True)):
        overlaps = _overlaps(one.even, {name: report["routers"][number] for name, report in alone.items()})
        routers.append(_identity(spec) | router_between(one, over[number], q[number]) | overlaps)
    return {
        "model": merged.model,
        "phase": merged.phase,
        "domains": [{"name": name, **sizes(report["data"])} for name, report in alone.items()],
        "data": data_section(merged, units),
        "routers": routers,
        "words_by_router": words_by_router(merged, over),
    }


def of_this_version(profile: Json) -> Json:
    """profile.json as this version reads it: version 1 had verdicts, by a rule that was withdrawn, and no findings.

    Its shares and tokens give the numbers again; without sequences their findings are open.
    """
    if profile.get("schema_version") != "1":
        return profile
    settings = {"ci": profile["settings"]["ci"], "thresholds": asdict(Thresholds())}
    models = [_model_of_version_1(model) for model in profile["models"]]
    return profile | {"schema_version": PROFILE_VERSION, "settings": settings, "models": models}


def _model_of_version_1(model: Json) -> Json:
    tokens = {str(domain["name"]): int(domain["n_tokens"]) for domain in model["domains"]}
    routers, over = [], []
    for router in model["routers"]:
        shares = router["domain_specialisation"]["shares"]
        names = sorted(shares)
        counts = [np.rint(np.array(shares[name], dtype=np.float64) * tokens[name]) for name in names]
        one = domain_point(np.stack(counts), router["top_k"], names, "the profile is from before findings were made")
        over.append(findings(one))
        kept = {key: router[key] for key in ("layer", "moe_layer", "router", "n_experts", "top_k", "adjacent_overlap")}
        routers.append(kept | router_between(one, over[-1]))
    kinds = dict.fromkeys(router["router"] for router in routers)
    words = {kind: count_words(o for r, o in zip(routers, over, strict=True) if r["router"] == kind) for kind in kinds}
    kept = {key: value for key, value in model.items() if key != "verdicts_by_router"}
    return kept | {"routers": routers, "words_by_router": words}


def profile_settings(plan: Plan) -> Json:
    """How findings and intervals were decided."""
    return {
        "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
        "thresholds": asdict(plan.thresholds),
    }


def _p_value(one: DomainEstimates) -> float | None:
    return None if one.test is None else one.test.p_value


def _identity(spec: RouterSpec) -> Json:
    return {name: getattr(spec, name) for name in ("layer", "moe_layer", "router", "n_experts", "top_k")}


def router_between(one: DomainEstimates, over: Findings, q_value: float = math.nan) -> Json:
    """What lies between the domains of one router, for JSON."""
    pairs = one.divergence if len(one.domains) <= MOST_PAIRED else {}
    shares = {name: [_number(x) for x in row] for name, row in zip(one.names, one.shares, strict=True)}
    test = one.test
    return {
        "findings": over.to_dict(),
        "domain_information": {
            **_estimate(one.information),
            "relative": _number(one.specialisation.value),
            "nmi": _number(_normalised(one)),
            "p_value": None if test is None else _number(test.p_value),
            "q_value": _number(q_value),
        },
        "mixture_spread": _estimate(one.used),
        "domain_specialisation": {"even": one.even, "shares": shares, **_bands(one)},
        "jensen_shannon": [{"domains": list(pair), **_estimate(estimate)} for pair, estimate in pairs.items()],
    }


def _normalised(one: DomainEstimates) -> float:
    """NMI = MI / sqrt(H_d H_e), H_d = ln D, H_e the entropy of the mixture's load."""
    spread = math.log(one.used.value * one.n_experts) if one.used.value > 0 else 0.0
    return one.information.value / math.sqrt(math.log(len(one.domains)) * spread) if spread > 0 else math.nan


def _bands(one: DomainEstimates) -> Json:
    """Ends that hold the shares of all experts on all domains at once, by domain."""
    if one.ratios is None:
        return {"low": None, "high": None, "reason": one.reason}
    joint = 1 - (1 - one.level) / len(one.domains)
    ends = [share_bands(Estimates.of(ratios), joint) for ratios in one.ratios]
    low, high = ({name: pair[end].tolist() for name, pair in zip(one.names, ends, strict=True)} for end in (0, 1))
    return {"low": low, "high": high}


def _overlaps(even: float, alone: Mapping[str, Json]) -> Json:
    of_domains = {name: {"value": router[OVERLAP], **router["ci"][OVERLAP]} for name, router in alone.items()}
    return {OVERLAP: {"chance": even, "domains": of_domains}}


def _estimate(estimate: Corrected) -> Json:
    return {"value": _number(estimate.value), **interval_entry(estimate)}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
