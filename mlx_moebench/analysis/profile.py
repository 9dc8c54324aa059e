"""Models on domains: one pass for each of both, and what lies between the domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from ..data import Corpus, Dataset, read_corpus, reusable, split_field
from ..data.importers import split_name
from ..errors import DataError, MoebenchError
from ..files import plain_name
from ..measure.backends import Backend, backend_named
from ..measure.keep import check_replaceable
from ..measure.run import Task, measure_each
from ..measure.sharing import rank_output
from ..measure.streaming import stream_of
from ..options import Choices, Flag, Loading, Options, Reading, Saving, Step, Tell, quiet_step, quiet_tell, takes
from ..pair.profile import Profile, rename
from ..pair.stats import RoutingStats
from ..types import Json

DOMAINS = ("math", "general", "code")
"""The bundled prompt sets, each its own domain."""


@takes(Loading, Reading, Flag, Saving, without=("shard", "trace", "trace_limit", "trace_predictions"))
def profile(
    models: Sequence[str | Path | None] = (None,),
    domains: Sequence[Dataset] | Mapping[str, Dataset] = DOMAINS,
    *,
    step: Step = quiet_step,
    **choices: Unpack[Choices],
) -> list[Profile]:
    """Measure every model on every domain, and compare the domains.

    Parameters
    ----------
    models
        Folders or hub ids, as ``NAME=ID`` where their last parts are alike; None for the embedded model.
    domains
        Two or more data sets as `analyze` takes them, or {name: data set}; ``NAME=DATASET`` gives one another name.
        ``DATASET@FIELD``, or a tuple (data set, field), has its own text field.
    step
        Called with the progress.

    Returns
    -------
    list of Profile
        One for each model. Its ``report()`` has the findings on every router and the information between domain and
        expert; its ``reports`` has the report of each domain.

    Other Parameters
    ----------------
    output : str or Path, optional
        Folder for a stats pair each, MODEL/DOMAIN.json.
    resume : bool
        Use the pairs that are there, finished or not, if they are of the same options.
    **choices : as in `analyze`
        Its other keywords.

    Raises
    ------
    MoebenchError
        What `analyze` raises, for names that occur twice, and for fewer than two domains.

    Examples
    --------
    >>> import mlx_moebench
    >>> (one,) = mlx_moebench.profile(domains=("math", "code"), max_samples=4, max_length=16)
    >>> one.name, list(one.reports)
    ('moebench-nano', ['math', 'code'])
    >>> [router["layer"] for router in one.report()["routers"]]
    [0, 1, 2, 3, 4, 5]
    """
    if choices.get("resume") and choices.get("output") is None:
        raise MoebenchError("Only a profile with an output can be resumed: name its folder.")
    options = Options.of(choices)
    return measure_profile(planned(models, domains, options.saving.output), options, step)


class Domain(NamedTuple):
    """The data set of a domain, and the field of its text where that is its own."""

    dataset: Dataset
    text_field: str | None = None


@dataclass(frozen=True)
class Planned:
    """What a profile measures: models and domains by name, and where each stats pair is written (None: nowhere)."""

    models: Mapping[str, str | None]
    domains: Mapping[str, Domain]
    pairs: Mapping[tuple[str, str], Path | None]


def measure_profile(
    planned: Planned, options: Options, step: Step = quiet_step, tell: Tell = quiet_tell
) -> list[Profile]:
    """As `profile`, of what was planned before; ``tell`` is told where a model is streamed because it does not fit."""
    if not options.saving.resume:
        for pair in planned.pairs.values():
            if pair is not None:
                check_replaceable(pair)
    runner = backend_named(options.loading.backend)
    runner.select_device(options.loading.device)
    plain: dict[str, Corpus] = {}
    return [_profile_model(name, planned, options, runner, plain, step, tell) for name in planned.models]


def _profile_model(
    name: str, planned: Planned, options: Options, runner: Backend, plain: dict[str, Corpus], step: Step, tell: Tell
) -> Profile:
    step(f"loading {name}", 0, 0)
    savings = {domain: replace(options.saving, output=planned.pairs[name, domain]) for domain in planned.domains}
    loading, place = options.loading, runner.ranks()
    for saving in savings.values():  # as the runs that are gone on with began
        own = saving.output if saving.output is None or place is None else rank_output(saving.output, *place)
        loading = replace(loading, stream=stream_of(loading, replace(saving, output=own), None))
    checkpoint = runner.open(planned.models[name], loading, step, tell)
    corpora = _corpora(planned.domains, checkpoint.tokenizer, options.reading, plain)
    # What is asked of the weights is done.
    loaded = Loading(backend=loading.backend, device=loading.device, stream_memory=loading.stream_memory)
    tasks = [
        Task(corpus, replace(options, loading=loaded, saving=savings[domain]), _told(step, f"{name} on {domain}"))
        for domain, corpus in corpora.items()
    ]
    measured = measure_each(checkpoint, tasks, runner=runner, step=_told(step, name), tell=tell)
    step(f"comparing the domains of {name}", 0, 0)
    parts: dict[str, RoutingStats] = {}
    reports: dict[str, Json] = {}
    for domain, one in zip(corpora, measured, strict=True):
        parts[domain] = one.stats["prefill"]
        reports[domain] = one.reports.get("prefill") or parts[domain].report(options.plan)
        rename(parts[domain], domain)
    return Profile(name, RoutingStats.merge(list(parts.values())), reports, options.plan)


def _told(step: Step, where: str) -> Step:
    def named(what: str, done: int, total: int) -> None:
        step(f"{where}: {what}", done, total)

    return named


def _corpora(
    domains: Mapping[str, Domain], tokenizer: Any, reading: Reading, plain: dict[str, Corpus]
) -> dict[str, Corpus]:
    """Every data set, read before the first is measured: the last one must not be found missing then.

    plain: by domain, those read for another model that every tokenizer reads alike; new ones are added. Chat messages
    are written by the tokenizer's template.
    """
    corpora: dict[str, Corpus] = {}
    for name, domain in domains.items():
        of_domain = reading if domain.text_field is None else replace(reading, text_field=domain.text_field)
        corpus = plain.get(name) or read_corpus(domain.dataset, **of_domain.of_corpus(), tokenizer=tokenizer)
        if not any(document.chat for document in corpus.documents):
            plain[name] = corpus
        twin = next((other for other, known in corpora.items() if known.sha256 == corpus.sha256), None)
        if twin is not None:
            raise DataError(f"{twin} and {name} are the same data: every domain needs its own.")
        corpora[name] = corpus
    return corpora


def model_names(models: Sequence[str | Path | None]) -> dict[str, str | None]:
    """{name: folder, hub id or None} of the models of a profile; the embedded one's name is moebench-nano."""
    paths: dict[str, str | None] = {}
    for model in models:
        name, value = (None, None) if model is None else split_name(str(model))
        name = name or ("moebench-nano" if value is None else Path(value).name or "model")
        if name in paths:
            raise MoebenchError(f"Two models are named {name!r}: tell them apart as NAME=MODEL.")
        paths[name] = value
    return paths


def domain_names(domains: Sequence[Dataset] | Mapping[str, Dataset]) -> dict[str, Domain]:
    """The domains of a profile by name: that of a file without its suffix, ``texts-2`` of the second that is a list."""
    named: dict[str, Domain] = {}
    pairs = domains.items() if isinstance(domains, Mapping) else ((None, domain) for domain in domains)
    for number, (own_name, value) in enumerate(pairs, start=1):
        name, domain = _domain(own_name, value, f"texts-{number}")
        if name in named:
            raise DataError(f"Two domains are named {name!r}: tell them apart as NAME=DATASET.")
        if isinstance(domain.dataset, str) and domain.dataset in [other.dataset for other in named.values()]:
            raise DataError(f"{domain.dataset} is given as two domains: every domain needs its own data.")
        named[name] = domain
    if len(named) < 2:
        raise DataError(f"A profile compares domains: give two or more --domain, not {len(named)}.")
    return named


def _domain(name: str | None, value: Dataset, texts_name: str) -> tuple[str, Domain]:
    """The domain that one data set is, and its name; texts in memory are named after it."""
    dataset, text_field = split_field(value) if isinstance(value, tuple) else (value, None)
    if isinstance(dataset, Corpus):
        return name or dataset.name, Domain(dataset)
    if isinstance(dataset, str | Path):
        return _typed(name, str(dataset), text_field)
    if isinstance(dataset, Mapping) and len(dataset) == 1:
        ((own_name, dataset),) = dataset.items()
        name = name or str(own_name)
    name = name or texts_name
    return name, Domain({name: reusable(dataset)}, text_field)


def _typed(name: str | None, typed: str, text_field: str | None) -> tuple[str, Domain]:
    """``NAME=DATASET@FIELD``, or less of it."""
    typed_name, place = split_name(typed)
    place, typed_field = split_field(place)
    return name or typed_name or Path(place.removeprefix("hub:")).stem or "data", Domain(
        place, typed_field or text_field
    )


def planned(
    models: Sequence[str | Path | None], domains: Sequence[Dataset] | Mapping[str, Dataset], output: str | Path | None
) -> Planned:
    """Names and places of a profile's measurements; nothing is read.

    Raises `MoebenchError` for two that would be written to one place, on a file system that ignores case, too.
    """
    named_models, named_domains = model_names(models), domain_names(domains)
    pairs: dict[tuple[str, str], Path | None] = {}
    taken: dict[str, str] = {}
    for model, domain in product(named_models, named_domains):
        pairs[model, domain] = pair = None if output is None else _place(Path(output), model, domain)
        name = f"{model} on {domain}"
        other = name if pair is None else taken.setdefault(str(pair).casefold(), name)
        if other != name:
            raise MoebenchError(f"{other} and {name} would both be written to {pair}: tell them apart as NAME=...")
    return Planned(named_models, named_domains, pairs)


def _place(folder: Path, model: str, domain: str) -> Path:
    return folder / plain_name(model) / f"{plain_name(domain)}.json"
