"""Models on domains: one pass for each of both, and what lies between the domains."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.importers import split_name
from ..errors import DataError, MoebenchError
from ..models import load_checkpoint, select_device
from ..routing.domain_report import domain_report
from ..routing.stats import RoutingStats
from ..routing.storage import pair_paths, read_report
from ..routing.uncertainty import Plan
from .analyze import Step, analyze
from .keep import check_replaceable

DOMAINS = ("math", "general", "code")
"""The bundled prompt sets, each its own domain."""

_LOADING = ("dtype", "bits", "router_bits", "adapter_path", "trust_remote_code")


@dataclass(frozen=True)
class Profile:
    """One model on several domains: the statistics and the report of each by its name, and all of them together."""

    name: str
    merged: RoutingStats
    reports: dict[str, dict[str, Any]]
    plan: Plan

    def report(self) -> dict[str, Any]:
        """What lies between the domains, as JSON: see `routing.domain_report`."""
        return {"name": self.name, **domain_report(self.merged, self.reports, self.plan)}


def profile(
    models: Sequence[str | Path | None] = (None,),
    domains: Sequence[str] = DOMAINS,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    plan: Plan | None = None,
    device: str = "auto",
    step: Step = lambda what, done, total: None,
    **options: Any,
) -> list[Profile]:
    """Measure every model on every domain, and compare the domains.

    models: folders or hub ids, as ``NAME=ID`` where their last parts are alike; None for the embedded model.
    domains: two or more data sets as `analyze` takes them, as ``NAME=DATASET`` for another name than theirs.
    output: folder for a stats pair each, MODEL/DOMAIN.json. resume: use the pairs that are there, finished or not, if
    they are of the same options. options: as for `analyze`.

    Raises what `analyze` raises, and `MoebenchError` for names that occur twice.
    """
    plan = plan or Plan()
    pairs = planned_pairs(models, domains, output)
    if resume and output is None:
        raise MoebenchError("Only a profile with an output can be resumed: name its folder.")
    if not resume:
        for pair in pairs.values():
            if pair is not None:
                check_replaceable(pair)
    named_domains = domain_names(domains)
    select_device(device)
    loading = {key: options.pop(key) for key in _LOADING if key in options}
    found = []
    for model_name, model in model_names(models).items():
        step(f"loading {model_name}", 0, 0)
        checkpoint = load_checkpoint(model, **loading)
        parts = {}
        for domain, dataset in named_domains.items():

            def told(what: str, done: int, total: int, where: str = f"{model_name} on {domain}") -> None:
                step(f"{where}: {what}", done, total)

            pair = pairs[model_name, domain]
            parts[domain] = analyze(
                checkpoint, dataset, device=device, output=pair, resume=resume, plan=plan, step=told, **options
            )
        step(f"comparing the domains of {model_name}", 0, 0)
        kept = {domain: pairs[model_name, domain] for domain in parts}
        found.append(_profile(model_name, parts, plan, kept))
    return found


def profile_of_stats(paths: Sequence[str | Path], plan: Plan | None = None) -> Profile:
    """The profile of stats pairs of one model that are there already, merged ones or one for each domain.

    paths: either name of each pair, or ``NAME=PATH`` to name the domain of a pair of one data set.
    Raises `StatsError` when they cannot be read or merged, and `MoebenchError` for fewer than two domains.
    """
    parts = []
    for argument in paths:
        name, path = split_name(str(argument))
        part = RoutingStats.load(pair_paths(Path(path))[1])
        if name is not None:
            _rename(part, name)
        parts.append(part)
    merged = RoutingStats.merge(parts)
    return _profile(str(merged.model.get("id", "model")), merged.by_domain(), plan or Plan(), {})


def model_names(models: Sequence[str | Path | None]) -> dict[str, str | None]:
    """{name: folder, hub id or None} of the models of a profile; the embedded one's name is moebench-nano."""
    found: dict[str, str | None] = {}
    for model in models:
        name, value = (None, None) if model is None else split_name(str(model))
        name = name or ("moebench-nano" if value is None else Path(value).name or "model")
        if name in found:
            raise MoebenchError(f"Two models are named {name!r}: tell them apart as NAME=MODEL.")
        found[name] = value
    return found


def domain_names(domains: Sequence[str]) -> dict[str, str]:
    """{name: data set} of the domains of a profile, a file's name without its suffix."""
    found: dict[str, str] = {}
    for domain in domains:
        name, value = split_name(domain)
        name = name or Path(value.removeprefix("hub:")).stem or "data"
        if name in found:
            raise DataError(f"Two domains are named {name!r}: tell them apart as NAME=DATASET.")
        if value in found.values():
            raise DataError(f"{value} is given as two domains: every domain needs its own data.")
        found[name] = value
    if len(found) < 2:
        raise DataError(f"A profile compares domains: give two or more --domain, not {len(found)}.")
    return found


def planned_pairs(
    models: Sequence[str | Path | None], domains: Sequence[str], output: str | Path | None
) -> dict[tuple[str, str], Path | None]:
    """{(model, domain): where its stats pair is written}; None without an output."""
    pairs: dict[tuple[str, str], Path | None] = {}
    for model in model_names(models):
        for domain in domain_names(domains):
            pairs[model, domain] = None if output is None else Path(output) / _plain(model) / f"{_plain(domain)}.json"
    return pairs


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def _rename(stats: RoutingStats, domain: str) -> None:
    if len(stats.sources) != 1:
        raise MoebenchError(f"The pair for {domain!r} has {len(stats.sources)} data sets, which have names already.")
    for facts in stats.sources.values():
        facts["name"] = domain


def _profile(name: str, parts: Mapping[str, RoutingStats], plan: Plan, kept: Mapping[str, Path | None]) -> Profile:
    reports = {}
    for domain, part in parts.items():
        pair = kept.get(domain)
        reports[domain] = part.report(plan) if pair is None else read_report(pair)
        _rename(part, domain)
    return Profile(name, RoutingStats.merge(list(parts.values())), reports, plan)
