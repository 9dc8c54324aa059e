"""What a report is made of: each argument read by what is in it, whatever its name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..data.importers import split_name
from ..data.trace import MANIFEST as TRACE
from ..data.training_log import FILE as TRAINING_LOG
from ..errors import MoebenchError, StatsError
from ..files import plain_name
from ..options import Plan
from ..pair.comparison import compare
from ..pair.comparison import of_this_version as comparison_of_this_version
from ..pair.profile import domain_report, of_this_version, profile_settings, rename
from ..pair.stats import RoutingStats
from ..pair.storage import pair_paths
from ..types import Facts, Json
from .domains import MOST_SHOWN, DomainReports
from .files import TAKEN, Pair, check_there, pair_of_trace, read_pair, read_sealed, require, sums_of, training_log
from .names import model_name
from .plans import chosen_of, plan_of

TRAINING_REPORT = "training_report.json"
BEFORE, AFTER = "routing_before.json", "routing_after.json"
"""The files of a training that a report reads; `train.outcome` writes them."""


@dataclass(frozen=True)
class Run:
    """One model in one phase, on one domain or several.

    name: tells it from the other runs. report: of all its domains together. stats: the sums behind the report, None
    with the JSON alone. domains, parts: the report and the statistics of each of several domains, by name; empty for
    one.
    """

    name: str
    report: Json
    stats: RoutingStats | None
    domains: Mapping[str, Json]
    parts: Mapping[str, RoutingStats] = field(default_factory=dict)

    def view(self, domain: str | None = None, name: str | None = None) -> View:
        """The run on all its data, or on one domain; by default under the name of that."""
        if domain is None:
            return View(name or self.name, self.report, self.stats, "" if self.domains else None)
        return View(name or domain, self.domains[domain], self.parts.get(domain), domain)


class View(NamedTuple):
    """One report with its sums, if they are there, under the name that tells it from others beside it.

    domain: of several of a run the one that it is of, empty for all of them together; None where there are not several.
    """

    name: str
    report: Facts
    stats: RoutingStats | None = None
    domain: str | None = None

    @property
    def size(self) -> str:
        """`` (n = 104)``: of how many sequences."""
        return f" (n = {self.report['data']['n_sequences']:,})"


@dataclass(frozen=True)
class Training:
    """A training: its folder's name, its report, and the lines of its log."""

    name: str
    report: Json
    log: Sequence[Facts]


@dataclass(frozen=True)
class Inputs:
    """Everything that was given, in the order in which it was given.

    profiles: what lies between the domains, {name of a run or model: `domain_report` with its settings}.
    comparisons: `Comparison.to_dict`; two comparable runs have one, too. uncertainties: reports of ``loss``; quants: of
    ``compare --quant``; dynamics: of ``dynamics``; testbeds: of ``lab testbed``. traces: folders of single tokens.
    notes: what a reader must know of how these came together, such as why two runs were not compared.
    """

    runs: tuple[Run, ...] = ()
    profiles: Mapping[str, Json] = field(default_factory=dict)
    comparisons: tuple[Json, ...] = ()
    uncertainties: tuple[Json, ...] = ()
    dynamics: tuple[Json, ...] = ()
    testbeds: tuple[Json, ...] = ()
    quants: tuple[Json, ...] = ()
    trainings: tuple[Training, ...] = ()
    traces: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    plan: Plan = field(default_factory=Plan)


TESTBED = "testbed.json"
"""What `lab testbed` leaves in its folder."""


@dataclass
class _Group:
    """Pairs that are one run: the domains of one model. training: the one before or after which it was measured.

    old: the profile is from before findings were made.
    """

    pairs: list[Pair]
    merged: RoutingStats | None
    label: str | None = None
    profile: Json | None = None
    training: str | None = None
    old: bool = False

    @property
    def joins(self) -> bool:
        """Whether a pair may become a further domain of it: profiles and trainings are whole."""
        return self.profile is None and self.training is None

    def plan(self, plan: Plan, chosen: Collection[str]) -> Plan:
        """How what is made again of it is made: as what was read was made, but for what was ``chosen``."""
        settings = [self.profile["settings"]] if self.profile else [pair.report["settings"] for pair in self.pairs]
        return plan_of(settings, plan, chosen)

    def made_by(self, plan: Plan) -> bool:
        """Whether the findings that were read, those of a profile or of one pair, are what ``plan`` gives."""
        if self.old or (self.profile is None and len(self.pairs) > 1):
            return False
        made = self.profile or self.pairs[0].report
        known = "words_by_router" in made and "thresholds" in made["settings"]
        return known and self.plan(plan, ()) == plan


def read_inputs(
    arguments: Sequence[str | Path],
    *,
    plan: Plan | None = None,
    chosen: Collection[str] | None = None,
    allow: Sequence[str] = (),
) -> Inputs:
    """Read what is named, each as PATH or NAME=PATH, into `Inputs`.

    Stats pairs of one model on different data become one run of several domains; others stay runs side by side, and
    two of those are compared. plan: for the intervals of comparisons, and of what is put together here. chosen: the
    fields of it that hold against the settings of what was read, where that is of several domains; by default what a
    given plan says of intervals, and its thresholds where they are not the usual ones. allow: as for `compare`.

    Raises `StatsError` for what is none of `TAKEN`, cannot be read, or lacks what its kind must have.
    """
    reader = _Reader()
    named = [split_name(str(argument)) for argument in arguments]
    for _, path in named:  # before the first is read, which may take minutes
        check_there(Path(path))
    for label, path in named:
        reader.read(Path(path), label)
    if not reader.anything:
        raise StatsError(f"There is nothing to report: give {TAKEN}.")
    return reader.inputs(plan or Plan(), chosen_of(plan) if chosen is None else chosen, tuple(allow))


class _Reader:
    """Collects what the arguments hold."""

    def __init__(self) -> None:
        self.groups: list[_Group] = []
        self.profiles: dict[str, Json] = {}
        self.comparisons: list[Json] = []
        self.uncertainties: list[Json] = []
        self.quants: list[Json] = []
        self.dynamics: list[Json] = []
        self.testbeds: list[Json] = []
        self.trainings: list[Training] = []
        self.traces: list[Path] = []
        self._seen: set[Path] = set()

    @property
    def anything(self) -> bool:
        reports = (self.comparisons, self.uncertainties, self.quants, self.dynamics, self.testbeds)
        kinds = (*reports, self.trainings, self.traces)
        return any((self.groups, self.profiles, *kinds))

    def read(self, path: Path, label: str | None) -> None:
        """Add what is at ``path``; the same file a second time is nothing new."""
        if path.is_dir():
            if (path / "profile.json").is_file():
                self.read(path / "profile.json", label)
            elif (path / TESTBED).is_file():
                self.read(path / TESTBED, label)
            elif (path / TRACE).is_file():
                self.traces.append(path)
            elif any((path / name).is_file() for name in (TRAINING_REPORT, TRAINING_LOG)):
                self._add_training(path, label)
            else:
                raise StatsError(f"{path} is a folder of neither a profile, a trace nor a training: give {TAKEN}.")
            return
        if path.name in (TRAINING_LOG, TRAINING_REPORT):
            self._add_training(path.parent, label)
            return
        report_path, sums_path = pair_paths(path)
        place = report_path.resolve()
        if place in self._seen:
            return
        self._seen.add(place)
        if path.suffix == ".safetensors" or sums_path.exists():
            self._add_pair(read_pair(path, label))
            return
        if not path.is_file() and report_path.is_file():
            path = report_path
        self._add_json(path, read_sealed(path), label)

    def _add_json(self, path: Path, content: Any, label: str | None) -> None:
        keys = set(content) if isinstance(content, dict) else set()
        if keys >= {"models", "settings"}:
            self._add_profile(path, content, label)
        elif keys >= {"direction", "overall", "design"}:
            require(content, ("a", "b", "units", "routers", "settings"), path)
            self.comparisons.append(comparison_of_this_version(content))
        elif keys >= {"mean_loss", "n_pairs"}:
            require(content, ("model", "data", "settings", "routers", "summary"), path)
            self.uncertainties.append(content)
        elif keys >= {"arms", "separations"}:
            require(content, ("model", "data", "settings", "measures"), path)
            self.quants.append(content)
        elif keys >= {"sizes", "quantities", "chance"}:
            require(content, ("domains", "quantities", "sizes", "chance", "level"), path)
            self.testbeds.append(content)
        elif keys >= {"checkpoints", "overall", "trends"}:
            require(content, ("model", "data", "settings", "routers", "depth"), path)
            self.dynamics.append(content)
        elif keys >= {"routers", "summary", "data", "model"}:
            self._add_pair(read_pair(path, label))
        else:
            raise StatsError(f"{path} is JSON, but nothing that a report is made of: give {TAKEN}.")

    def _add_pair(self, pair: Pair) -> None:
        """Join the first run that it is a further domain of, or start one."""
        for group in self.groups:
            if group.joins and group.merged is not None and pair.stats is not None:
                try:
                    group.merged = RoutingStats.merge([group.merged, pair.stats])
                except StatsError:
                    continue
                group.pairs.append(pair)
                return
        self.groups.append(_Group([pair], pair.stats))

    def _add_profile(self, path: Path, profile: Json, label: str | None) -> None:
        """The models of a profile, each with the stats pairs that lie beside it, if they are those of the profile."""
        old = profile.get("schema_version") == "1"
        profile = of_this_version(profile)
        for model in profile["models"]:
            require(model, ("name", "model", "domains", "routers", "data"), path)
            name = label if label and len(profile["models"]) == 1 else str(model["name"])
            between = model | {"settings": profile["settings"]}
            folder = path.parent / plain_name(str(model["name"]))
            places = {str(d["name"]): folder / f"{plain_name(str(d['name']))}.json" for d in model["domains"]}
            pairs = [read_pair(place, domain) for domain, place in places.items() if _whole(place)]
            if len(pairs) == len(places) and _measured(pairs) == _promised(model):
                for pair in pairs:
                    self._seen.add(pair.place.resolve())
                    rename(sums_of(pair), str(pair.label))
                merged = RoutingStats.merge([sums_of(pair) for pair in pairs])
                self.groups.append(_Group(pairs, merged, name, between, old=old))
            else:
                self.profiles[_unused(name, self.profiles)] = between

    def _add_training(self, folder: Path, label: str | None) -> None:
        if folder.resolve() in self._seen:
            return
        self._seen.add(folder.resolve())
        name = label or folder.resolve().name
        report_path, log_path = folder / TRAINING_REPORT, folder / TRAINING_LOG
        report = read_sealed(report_path) if report_path.is_file() else {}
        if report:
            require(report, ("model", "settings", "ce", "routing_loss"), report_path)
        self.trainings.append(Training(name, report, training_log(log_path) if log_path.is_file() else ()))
        for place, when in ((BEFORE, "before"), (AFTER, "after")):
            if pair_paths(folder / place)[0].is_file():
                pair = read_pair(folder / place, f"{name} {when}")
                self._seen.add(pair.place.resolve())
                self.groups.append(_Group([pair], pair.stats, pair.label, training=name))

    def inputs(self, plan: Plan, chosen: Collection[str], allow: tuple[str, ...]) -> Inputs:
        """What was read, with what follows from it: reports of merged runs, profiles, a comparison of two runs."""
        if not self.groups:  # traces alone are runs, too; beside other runs they are about the tokens of those
            self.groups = [_Group([pair], pair.stats) for pair in map(pair_of_trace, dict.fromkeys(self.traces))]
        plans = [group.plan(plan, chosen) for group in self.groups]
        runs = self._named_runs(plans)
        profiles = dict(self.profiles)
        for group, run, of_run in zip(self.groups, runs, plans, strict=True):
            if run.domains and group.merged is not None:
                whole = group.profile if group.made_by(of_run) else None
                profiles[run.name] = whole or between(group.merged, run.domains, of_run)
        comparisons, notes = self._compared(runs, plan, allow)
        return Inputs(
            tuple(runs),
            profiles,
            (*self.comparisons, *comparisons),
            uncertainties=tuple(self.uncertainties),
            dynamics=tuple(self.dynamics),
            testbeds=tuple(self.testbeds),
            quants=tuple(self.quants),
            trainings=tuple(self.trainings),
            traces=tuple(dict.fromkeys(self.traces)),
            notes=tuple(notes),
            plan=plan,
        )

    def _named_runs(self, plans: Sequence[Plan]) -> list[Run]:
        """A run of each group, no two of one name."""
        named: list[Run] = []
        runs = [_run(group, plan) for group, plan in zip(self.groups, plans, strict=True)]
        for group, run in zip(self.groups, runs, strict=True):
            alike = sum(run.name == other.name for other in runs) > 1
            name = f"{run.name} ({group.pairs[0].place.stem})" if alike else run.name
            named.append(replace(run, name=_unused(name, [other.name for other in named])))
        return named

    def _compared(self, runs: Sequence[Run], plan: Plan, allow: tuple[str, ...]) -> tuple[list[Json], list[str]]:
        """(comparisons of the runs that are to be compared, why others cannot be)."""
        comparisons: list[Json] = []
        notes: list[str] = []
        for pair in self._to_compare():
            names = [runs[number].name for number in pair]
            places = [pair_paths(self.groups[number].pairs[0].place)[0] for number in pair]
            a, b = (runs[number].stats or place for number, place in zip(pair, places, strict=True))
            try:
                comparisons.append(compare(a, b, allow=allow, plan=plan).to_dict() | {"names": names})
            except MoebenchError as error:
                notes.append(f"{' and '.join(names)} stand side by side and are not compared: {error}")
        return comparisons, notes

    def _to_compare(self) -> list[list[int]]:
        """Numbers of two runs each: before and after a training, and the only two that were given beside those."""
        by_training: dict[str | None, list[int]] = {}
        for number, group in enumerate(self.groups):
            by_training.setdefault(group.training, []).append(number)
        if self.comparisons:
            by_training.pop(None, None)
        return [pair for pair in by_training.values() if len(pair) == 2]


def _run(group: _Group, plan: Plan) -> Run:
    """The run of a group: the report that lies beside one pair, or one made of several."""
    first, merged = group.pairs[0], group.merged
    if merged is None:
        return _without_sums(group)
    if len(group.pairs) > 1 and group.profile is None:
        merged = _renamed(group.pairs, merged)
    parts = merged.by_domain() if len(set(merged.strata)) > 1 else {}
    domains = _domain_reports(group.pairs, parts, plan) if parts else {}
    single = len(group.pairs) == 1
    # A report of several domains is made again where it is from before findings were made, or others are asked for.
    report = first.report if single and (not parts or group.made_by(plan)) else merged.report(plan)
    name = group.label or (first.label if single else None) or model_name(report["model"])
    return Run(name, report, merged, domains, parts)


def _without_sums(group: _Group) -> Run:
    first = group.pairs[0]
    return Run(group.label or first.label or model_name(first.report["model"]), first.report, None, {})


def _renamed(pairs: Sequence[Pair], merged: RoutingStats) -> RoutingStats:
    """The merged statistics with the domains' names that the user gave."""
    named = [pair for pair in pairs if pair.label]
    for pair in named:
        rename(sums_of(pair), str(pair.label))
    return RoutingStats.merge([sums_of(pair) for pair in pairs]) if named else merged


def _domain_reports(pairs: Sequence[Pair], parts: Mapping[str, RoutingStats], plan: Plan) -> DomainReports:
    """The report of each of several domains: as it lies there where a domain is one pair, else of its sums."""
    alone = {strata.pop(): pair for pair in pairs if len(strata := set(sums_of(pair).strata)) == 1}
    whole = {name for name, pair in alone.items() if len(sums_of(pair).clusters) == len(parts[name].clusters)}
    return DomainReports(parts, {name: alone[name].report for name in parts if name in whole}, plan)


def between(merged: RoutingStats, domains: Mapping[str, Json], plan: Plan) -> Json:
    """What lies between the domains of a run, as an entry of `Inputs.profiles`."""
    made = domains if len(domains) <= MOST_SHOWN else {}
    return domain_report(merged, made, plan) | {"settings": profile_settings(plan)}


def _whole(place: Path) -> bool:
    try:
        return all(half.is_file() for half in pair_paths(place))
    except OSError:  # a name that is too long for a file
        return False


def _measured(pairs: Iterable[Pair]) -> list[tuple[Any, ...]]:
    return [(p.label, *(p.report["data"].get(key) for key in ("sha256", "n_sequences", "n_tokens"))) for p in pairs]


def _promised(model: Facts) -> list[tuple[Any, ...]]:
    return [(d["name"], d["sha256"], d["n_sequences"], d["n_tokens"]) for d in model["domains"]]


def _unused(name: str, taken: Iterable[str]) -> str:
    """``name``, or with a number after it where it is taken."""
    taken, number, free = set(taken), 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free
