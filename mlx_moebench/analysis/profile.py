"""Models on domains: one pass for each of both, and what lies between the domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import read_corpus
from ..data.importers import split_name
from ..errors import DataError, MoebenchError
from ..measure.backends import Backend, Step, backend_named
from ..measure.keep import check_replaceable
from ..measure.run import analyze
from ..pair.profile import Profile, rename
from ..pair.storage import plain_name, read_report
from ..routing.intervals.bootstrap import Plan
from ..routing.stats import RoutingStats

DOMAINS = ("math", "general", "code")
"""The bundled prompt sets, each its own domain."""

_LOADING = ("dtype", "bits", "router_bits", "adapter_path")


def profile(
    models: Sequence[str | Path | None] = (None,),
    domains: Sequence[str] = DOMAINS,
    *,
    backend: str | Backend = "mlx",
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
    they are of the same options. backend, options: as for `analyze`.

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
    runner = backend_named(backend) if isinstance(backend, str) else backend
    runner.select_device(device)
    loading = {key: options.pop(key) for key in _LOADING if key in options}
    trust_remote_code = options.pop("trust_remote_code", False)
    found = []
    for model_name, model in model_names(models).items():
        step(f"loading {model_name}", 0, 0)
        checkpoint = runner.load(model, trust_remote_code, loading, step)
        _check_domains(named_domains, checkpoint.tokenizer, options)
        parts = {}
        for domain, dataset in named_domains.items():

            def told(what: str, done: int, total: int, where: str = f"{model_name} on {domain}") -> None:
                step(f"{where}: {what}", done, total)

            pair = pairs[model_name, domain]
            parts[domain] = analyze(
                checkpoint,
                dataset,
                backend=runner,
                device=device,
                output=pair,
                resume=resume,
                plan=plan,
                step=told,
                **options,
            )
        step(f"comparing the domains of {model_name}", 0, 0)
        place = runner.ranks()
        first = place is None or place[0] == 0  # of several processes it alone writes, and the others must not read
        kept = {domain: pairs[model_name, domain] if first else None for domain in parts}
        reports = {d: parts[d].report(plan) if pair is None else read_report(pair) for d, pair in kept.items()}
        for domain, part in parts.items():
            rename(part, domain)
        found.append(Profile(model_name, RoutingStats.merge(list(parts.values())), reports, plan))
    return found


def _check_domains(domains: Mapping[str, str], tokenizer: Any, options: Mapping[str, Any]) -> None:
    """Read every data set once, so that the last one is not found missing when all others are measured."""
    reading = {key: options[key] for key in ("text_field", "max_samples") if key in options}
    seen: dict[str, str] = {}
    for name, dataset in domains.items():
        sha = read_corpus(dataset, tokenizer=tokenizer, **reading).sha256
        if sha in seen:
            raise DataError(f"{seen[sha]} and {name} are the same data: every domain needs its own.")
        seen[sha] = name


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
    """{(model, domain): where its stats pair is written}; None without an output.

    Raises `MoebenchError` for two that would be written to one place, on a file system that ignores case, too.
    """
    pairs: dict[tuple[str, str], Path | None] = {}
    taken: dict[str, str] = {}
    for model in model_names(models):
        for domain in domain_names(domains):
            if output is None:
                pairs[model, domain] = None
                continue
            pairs[model, domain] = pair = Path(output) / plain_name(model) / f"{plain_name(domain)}.json"
            name = f"{model} on {domain}"
            other = taken.setdefault(str(pair).casefold(), name)
            if other != name:
                raise MoebenchError(f"{other} and {name} would both be written to {pair}: tell them apart as NAME=...")
    return pairs
