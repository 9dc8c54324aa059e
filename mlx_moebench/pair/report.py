"""The JSON report of a `RoutingStats`: every number with its interval or the reason there is none."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from ..options import Plan
from ..routing.domains.estimates import DomainEstimates, domain_estimates, domain_point
from ..routing.domains.findings import Findings, count_words, findings
from ..routing.intervals.bootstrap import Interval
from ..routing.intervals.corrected import Corrected
from ..routing.intervals.effective import clusters, unequal
from ..routing.intervals.measured import BAND, Measured, ShareBand, flagged_fraction, measured
from ..routing.metrics import METRICS
from ..routing.parts import completeness
from ..routing.repeats import Units, text_units
from ..routing.stats import RoutingSums
from ..routing.sums import Numbers, Sums, numbered
from ..types import Facts, Json

SCHEMA_VERSION = "4"
"""Since 2 a router has the band of every expert, ``token_share``. Since 3 biased numbers are shown corrected, with the
plug-in value beside them, and several domains have findings in place of flags and verdicts. Since 4 the file
is sealed."""

COUNTED = "counts do not say which text a token came from"


def build_report(stats: RoutingSums, plan: Plan | None = None) -> Json:
    """Provenance, ``routers``, ``summary`` (of the main router kind) and ``summary_by_router`` (of each kind).

    Of two or more domains every router has ``findings`` in place of the flag ``collapsed``, and ``words_by_router``
    counts them.
    """
    plan = plan or Plan()
    stats.check()
    units = text_units(stats)
    routers, summaries = _by_kind(stats, units, plan)
    over = findings_of(stats, units, plan)
    for router, one in zip(routers, over, strict=False):
        router["findings"] = one.to_dict()
    main = "mlp" if "mlp" in summaries else next(iter(summaries))
    return {
        "schema_version": SCHEMA_VERSION,
        "model": stats.model,
        "data": data_section(stats, units),
        "environment": stats.environment,
        "settings": report_settings(stats, plan),
        "routers": routers,
        "summary": summaries[main],
        "summary_by_router": summaries,
        **({"words_by_router": words_by_router(stats, over)} if over else {}),
    }


def report_settings(stats: RoutingSums, plan: Plan) -> Json:
    """How flags, findings and intervals were decided."""
    return {
        "tau": stats.tau,
        "collapse_on": stats.collapse_on,
        "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
        **({"thresholds": asdict(plan.thresholds)} if stats.several_domains else {}),
    }


def _by_kind(stats: RoutingSums, units: Units, plan: Plan) -> tuple[list[Json], dict[str, Json]]:
    """(every router, the summary of each kind): one kind of router is resampled together."""
    routers: list[Json] = [{} for _ in stats.specs]
    summaries = {}
    strata = units.strata(stats.strata)
    for kind in dict.fromkeys(spec.router for spec in stats.specs):
        numbers = [i for i, spec in enumerate(stats.specs) if spec.router == kind]
        of_kind = measured([units.sums(stats.sums(i)) for i in numbers], strata, plan, copies=units.copies)
        for number, shown, shares in zip(numbers, of_kind.routers, of_kind.shares, strict=True):
            routers[number] = _router(stats, number, shown)
            routers[number]["token_share"] = token_share(shares)
        summaries[kind] = _summary(stats, numbers, of_kind, plan)
    return routers, summaries


def findings_of(stats: RoutingSums, units: Units, plan: Plan) -> list[Findings]:
    """The findings on each router of statistics of two or more domains, told apart by name; none for one domain."""
    if not stats.several_domains:
        return []
    sums = [units.sums(stats.sums(number)) for number in range(len(stats.specs))]
    return answers(estimates_of(stats, sums, units, plan), sums, units.strata(stats.strata), plan)


def answers(between: list[DomainEstimates], sums: list[Sums], strata: list[str], plan: Plan) -> list[Findings]:
    """The findings on each router, from what lies between the domains and the sums of the sequences of ``strata``."""
    return [findings(one, tied_shares(s, strata), plan.thresholds) for one, s in zip(between, sums, strict=True)]


def estimates_of(stats: RoutingSums, sums: list[Sums], units: Units, plan: Plan) -> list[DomainEstimates]:
    """What lies between the domains, of each router; of counts the values alone, which no sequences stand behind."""
    strata = units.strata(stats.strata)
    if stats.model.get("backend") != "counts":
        return domain_estimates(sums, strata, plan, units.copies)
    names, labels = numbered(strata)
    by_domain = [np.stack([s.counts[labels == n].sum(axis=0) for n in range(len(names))]) for s in sums]
    return [domain_point(c, s.top_k, names, COUNTED) for c, s in zip(by_domain, sums, strict=True)]


def tied_shares(sums: Sums, strata: Sequence[str]) -> list[float]:
    """`tied_selections` of each domain of ``strata``, by name; 0 where nothing is known of ties."""
    _, labels = numbered(strata)
    by_domain = sums.grouped(labels)  # in the order of the names
    shares = METRICS["tied_selections"].values(by_domain).tolist()
    return [share if math.isfinite(share) else 0.0 for share in shares]


def words_by_router(stats: RoutingSums, over: list[Findings]) -> dict[str, dict[str, int]]:
    """Number of routers per word, for each kind of router."""
    kinds = dict.fromkeys(spec.router for spec in stats.specs)
    every = list(zip(stats.specs, over, strict=True))
    return {kind: count_words(one for spec, one in every if spec.router == kind) for kind in kinds}


def data_section(stats: RoutingSums, units: Units | None = None) -> Json:
    """Facts about the data: those of the one source, or name and hash of all with the sources listed.

    ``complete`` is absent where no run says what there was to measure, and false where one of the sources is not.
    ``unrecorded``: what else ran, and why it is not in the numbers; absent where nothing did.
    ``effective_sequences``: how many of one length the sequences, each text counted once, are as sure as.
    """
    units = units or text_units(stats)
    measured_clusters, strata = stats.clusters, units.strata(stats.strata)
    counted: Json = {"n_sequences": len(measured_clusters), "n_tokens": stats.n_tokens, "phase": stats.phase}
    if stats.dropped:
        counted["unrecorded"] = [{"why": why, **lost._asdict()} for why, lost in stats.dropped.items()]
    if stats.specs and measured_clusters:
        counted |= _sequences(stats, units, strata)
    sources = _sources(stats)
    if len(sources) == 1:
        return {**sources[0], **counted}
    known = [source["complete"] for source in sources if "complete" in source]
    if len(known) == len(sources) or not all(known):
        counted["complete"] = all(known)
    return {
        "name": "+".join(str(source["name"]) for source in sources),
        "sha256": hashlib.sha256("".join(source["sha256"] for source in sources).encode()).hexdigest(),
        **counted,
        "sources": sources,
    }


def sizes(data: Facts) -> Json:
    """What tells one data set from another in `data_section`, and how much of it was measured."""
    return {key: data[key] for key in ("sha256", "n_sequences", "n_tokens")}


def _sources(stats: RoutingSums) -> list[Json]:
    """The facts of every source, in the order of their hashes."""
    shas = sorted({*stats.sources, *(sha for sha, _ in stats.clusters)})
    every = [(sha, stats.sources.get(sha, {})) for sha in shas]
    return [{"name": sha[:12], **facts, "sha256": sha, **completeness(facts)} for sha, facts in every]


def _sequences(stats: RoutingSums, units: Units, strata: list[str]) -> Json:
    """What the sequences count for, and what limits that."""
    sums = stats.sums(0)
    tokens: Numbers = units.sums(sums).n_tokens
    counted: Json = {"effective_sequences": {c.name: round(c.effective, 2) for c in clusters(tokens, strata)}}
    if all(cluster in stats.texts for cluster in stats.clusters):
        counted["repeated_sequences"] = units.repeated
    if differing := unequal(stats.sums(0).n_tokens, stats.strata):
        counted["unequal_domains"] = differing
    return counted


def _router(stats: RoutingSums, number: int, shown: dict[str, Corrected]) -> Json:
    spec, total = stats.specs[number], stats.totals(number)
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
        **{name: _json_number(name, one.value) for name, one in shown.items()},
        "ci": {name: interval_entry(one, total) for name, one in shown.items()},
    }
    if not stats.several_domains:
        flag, reason = stats.flag(number, {name: one.value for name, one in shown.items()})
        entry |= {"collapsed": flag} | ({"collapsed_reason": reason} if reason else {})
        if flag_open(entry, {"tau": stats.tau, "collapse_on": stats.collapse_on}):
            entry["collapsed_open"] = True
    return entry


def flag_open(router: Facts, settings: Facts) -> bool:
    """Whether other texts may flip the flag ``collapsed``.

    So they may where the interval of the share that it is decided on holds tau, and where a flag that is up has none.
    """
    interval = router["ci"].get(settings["collapse_on"], {})
    low, high = interval.get("low"), interval.get("high")
    if router.get("collapsed") is None:
        return False
    if low is None or high is None:
        return bool(router["collapsed"])
    return bool(low <= settings["tau"] < high)


def interval_rows(report: Facts) -> list[Json]:
    """A row for each router and metric of a report; the flag of one domain is one, too."""
    rows = []
    for router in report["routers"]:
        identity = {key: router[key] for key in ("layer", "moe_layer", "router")}
        for name, metric in METRICS.items():
            entry = {"plugin": router[name]} | router["ci"].get(name, {})
            numbers = {key: entry.get(key) for key in ("low", "high", "plugin", "method", "reason")}
            rows.append({**identity, "metric": name, "unit": metric.unit, "value": router[name], **numbers})
        if "collapsed" in router:
            reason = _open_reason(router, report["settings"]) if router.get("collapsed_open") else None
            flag = {"metric": "collapsed", "unit": "flag", "value": router["collapsed"]}
            rows.append({**identity, **flag, "reason": router.get("collapsed_reason", reason)})
    return rows


def _open_reason(router: Facts, settings: Facts) -> str:
    interval = router["ci"][settings["collapse_on"]]
    return "the interval of its share holds tau" if interval.get("low") is not None else str(interval.get("reason"))


def interval_entry(one: Corrected, total: Sums | None = None) -> Json:
    """An interval for JSON, with the plug-in value where another one is shown."""
    interval = one.interval if total is None else _with_cause(one.value, one.interval, total)
    entry = dict(interval.to_dict())
    if entry.pop("bias", None) is not None:
        entry["plugin"] = one.plugin
    return entry


def token_share(shares: ShareBand) -> Json:
    """The simultaneous band of every expert's share of tokens, or the reason there is none."""
    if shares.low is None or shares.high is None:
        return {"low": None, "high": None, "reason": shares.reason}
    return {"low": shares.low.tolist(), "high": shares.high.tolist(), "method": BAND}


def _summary(stats: RoutingSums, numbers: list[int], of_kind: Measured, plan: Plan) -> Json:
    """Means over routers, peaks of the shares, and, on one domain, the fraction of routers whose flag is set."""
    summary: Json = {}
    if not stats.several_domains:
        summary["collapsed_fraction"] = _flagged(stats, numbers, of_kind, plan)
    total = stats.totals(numbers[0])
    nothing = Corrected(math.nan, Interval(reason="the metric is not defined here"), math.nan)
    for name, m in METRICS.items():
        values = [row[name].value for row in of_kind.routers if math.isfinite(row[name].value)]
        if m.interval == "maximum":
            summary[f"peak_{name}"] = _entry(of_kind.peak.get(name, nothing), total, plan)
        elif m.interval == "none":
            mean = sum(values) / len(values) if values else math.nan
            summary[name] = _entry(Corrected(mean, of_kind.routers[0][name].interval, mean), total, plan)
        else:
            summary[name] = _entry(of_kind.mean.get(name, nothing), total, plan)
    return summary


def _entry(one: Corrected, total: Sums, plan: Plan) -> Json:
    value = one.value if math.isfinite(one.value) else None
    return {"value": value, "level": plan.level, **interval_entry(one, total)}


def _flagged(stats: RoutingSums, numbers: list[int], of_kind: Measured, plan: Plan) -> Json:
    shares, reasons = {}, set()
    for number, row, maxima in zip(numbers, of_kind.routers, of_kind.maxima, strict=True):
        flag, reason = stats.flag(number, {name: one.value for name, one in row.items()})
        if flag is not None:
            shares[stats.specs[number].name] = row[stats.collapse_on].value, maxima.get(stats.collapse_on)
        reasons.add(reason)
    fraction, interval = flagged_fraction(shares, stats.tau, plan.level)
    if not shares and len(reasons) == 1:
        interval = Interval(reason=f"no router has a flag: {reasons.pop()}")
    return {"value": fraction, "level": plan.level, "over": len(shares), **interval.to_dict()}


def _unknown(column: Numbers) -> bool:
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
