"""The answer in a sentence, with its numbers, and the few figures that stand behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..inputs import Inputs, Run
from ..numbers import count, number
from ..tables.routers import SUMMARY, _missing
from .base import Estimate, estimate, isolated, labels, unit_of_text
from .differences import DifferenceSeries, difference_series
from .domains import DomainSeries, domain_series
from .training import training_series
from .uncertainty import uncertainty_series

WORDS = ("collapsed", "specialised", "balanced", "undetermined")
CLEAR = 0.05


@dataclass(frozen=True)
class Fact:
    """One figure behind the answer, of one run: words, unit, value with interval or reason."""

    run: str
    metric: str
    words: str
    unit: str
    value: Estimate


@dataclass(frozen=True)
class Answer:
    """sentences: one for each thing that was given, the first the answer itself. cautions: what limits them."""

    sentences: tuple[str, ...]
    facts: tuple[Fact, ...]
    cautions: tuple[str, ...]


def answer(inputs: Inputs) -> Answer:
    """What was found, in words: verdicts or flags, differences, uncertainty and trainings."""
    sentences = [_training(training) for training in inputs.trainings]
    sentences += [_difference(difference_series(found)) for found in inputs.comparisons]
    sentences += [_verdicts(domain_series(name, profile)) for name, profile in inputs.profiles.items()]
    sentences += [_flags(run) for run in inputs.runs if run.name not in inputs.profiles]
    sentences += [_uncertainty(report) for report in inputs.uncertainties]
    facts = tuple(fact for run in inputs.runs for fact in _facts(run))
    return Answer(tuple(sentences), facts, tuple(dict.fromkeys([*inputs.notes, *_cautions(inputs)])))


def with_interval(value: Estimate, digits: int = 3) -> str:
    """``value [low, high]``, the value alone without an interval, ``null`` where it is undefined."""
    if value.value != value.value:
        return "null"
    text = number(value.value, digits)
    return f"{text} [{number(value.low, digits)}, {number(value.high, digits)}]" if value.has_interval else text


def _verdicts(found: DomainSeries) -> str:
    parts = []
    for kind, counted in found.counts.items():
        of = f"{kind} " if len(found.counts) > 1 else ""
        total = sum(counted.values())
        said = [f"{counted[word]} {word}" for word in WORDS if counted.get(word)]
        said += [f"{counted['null']} without a verdict"] if counted.get("null") else []
        parts.append(f"of {count(total, f'{of}router')} {', '.join(said)}")
    sizes = f"{count(sum(found.n_sequences), unit_of_text(found.model))}, {count(sum(found.n_tokens), 'token')}"
    how = "" if any(r.mi.has_interval for r in found.routers) else ", by values alone, for there are no intervals"
    worst, busy = (_largest([getattr(r, name) for r in found.routers]) for name in ("a", "b"))
    where = labels([r.router for r in found.routers])
    named = f"{isolated(found.name)} over {', '.join(map(isolated, found.domains))}"
    return (
        f"{named} ({sizes}): {'; '.join(parts)}{how}. The most that one expert takes of every domain is "
        f"{with_interval(found.routers[worst].a, 2)} of the tokens (layer {where[worst]}), and of a single "
        f"domain {with_interval(found.routers[busy].b, 2)} (layer {where[busy]}); tau is {found.tau:g}."
    )


def _largest(values: Sequence[Estimate]) -> int:
    """Number of the largest value; an undefined one is the last choice."""
    return max(range(len(values)), key=lambda n: (values[n].value == values[n].value, values[n].value))


def _flags(run: Run) -> str:
    report = run.report
    data, summaries = report["data"], report.get("summary_by_router") or {"": report["summary"]}
    texts = count(data["n_sequences"], unit_of_text(report["model"]))
    sizes = f"{texts}, {count(data['n_tokens'], 'token')}, {data['phase']}"
    flagged = "; ".join(_flagged(report, kind if len(summaries) > 1 else "") for kind in summaries)
    named = f"{isolated(run.name)} on {isolated(str(data['name']))}"
    said = " ".join(_busiest(summary, f" {kind}" if len(summaries) > 1 else "") for kind, summary in summaries.items())
    return (
        f"{named} ({sizes}): {flagged} as collapsed at tau {report['settings']['tau']:g}, "
        f"a flag on one domain and not a verdict. {said}"
    )


def _flagged(report: Mapping[str, Any], kind: str) -> str:
    """How many routers of a kind, or of all for an empty one, are flagged, of those that can be."""
    flags = [r["collapsed"] for r in report["routers"] if kind in ("", r["router"])]
    flagged, judged = flags.count(True), len(flags) - flags.count(None)
    noun = f"{kind} router".lstrip()
    if not judged:
        return f"no {noun} can be flagged"
    return f"{flagged} of {count(judged, noun)} {'is' if 1 in (flagged, judged) else 'are'} flagged"


def _busiest(summary: Mapping[str, Any], of: str) -> str:
    peak, entropy = summary.get("peak_top_share_token", {}), summary.get("mean_entropy", {})
    return (
        f"The busiest{of} expert of any layer takes {with_interval(estimate(peak.get('value'), peak))} of the tokens; "
        f"mean entropy is {with_interval(estimate(entropy.get('value'), entropy))} nats."
    )


def _difference(found: DifferenceSeries) -> str:
    how = {True: "on the same sequences", False: "on other sequences", None: "by values alone"}[found.paired]
    kind = "mlp" if "mlp" in found.overall else next(iter(found.overall))
    entropy = found.overall[kind].get("mean_entropy")
    moved = sum(1 for load in found.loads if load.l1.q < CLEAR)
    tested = sum(1 for load in found.loads if load.l1.q == load.l1.q)
    parts = []
    if entropy is not None:
        parts.append(f"mean entropy moves by {signed(entropy.effect)} nats")
    parts.append(
        f"the load differs from chance in {moved} of {count(tested, 'router')} (q < {CLEAR:g})"
        if tested
        else "whether the load moved more than by chance cannot be said"
    )
    return f"{isolated(found.names[1])} against {isolated(found.names[0])}, {how}: {', and '.join(parts)}."


def signed(value: Estimate, digits: int = 4) -> str:
    """``+0.0031 [+0.0027, +0.0035]``; ``-2.8e-08 [-6.1e-08, +1.6e-09]`` where those digits would all be 0."""
    if value.value != value.value:
        return "null"
    numbers = [value.value, *((value.low, value.high) if value.has_interval else ())]
    form = f"+.{digits}f" if any(abs(n) >= 0.5 * 10**-digits for n in numbers) else "+.1e"
    text, *interval = (format(n, form) if n else "0" for n in numbers)
    return f"{text} [{', '.join(interval)}]" if interval else text


def _training(training: Any) -> str:
    found = training_series(training)
    loss = found.loss
    name = "without a routing loss" if loss is None else f"with {loss.get('name')}, weight {loss.get('weight'):g}"
    name = name if found.finished else "not finished"
    steps = f"{count(len(found.steps), 'step')} on {count(found.tokens, 'token')}"
    ends = ""
    if len(found.steps) > 1:
        tenth = max(1, len(found.ce) // 10)
        means = (float(part.mean()) for part in (found.ce[:tenth], found.ce[-tenth:]))
        first, last = (number(mean if mean == mean else None) for mean in means)
        ends = f": cross-entropy of the batches went from {first} (first tenth) to {last} nats (last tenth)"
    return f"Training {isolated(found.name)}, {name}: {steps}{ends}."


def _uncertainty(report: Mapping[str, Any]) -> str:
    found = uncertainty_series(report)
    curves = found.curves["entropy"]
    strongest = _largest([Estimate(abs(c.rho.value)) for c in curves])
    where = f"layer {labels([c.router for c in curves])[strongest]}, {count(found.n_tokens, 'token')}"
    return (
        f"{isolated(found.name)}: routing entropy at a token correlates with the loss of the next one, at its "
        f"strongest, by rho = {signed(curves[strongest].rho, 3)} ({where})."
    )


def _facts(run: Run) -> Iterator[Fact]:
    summaries = run.report.get("summary_by_router") or {"": run.report["summary"]}
    for kind, summary in summaries.items():
        of = f" ({kind} routers)" if len(summaries) > 1 else ""
        for name, words, unit in SUMMARY:
            if name in summary:
                yield Fact(run.name, name, words + of, unit, estimate(summary[name]["value"], summary[name]))


def _cautions(inputs: Inputs) -> Iterator[str]:
    reports: Sequence[Mapping[str, Any]] = [*(run.report for run in inputs.runs), *inputs.uncertainties]
    for report in reports:
        yield from map(str, report["model"].get("warnings") or ())
        yield from (f"{missing}." for missing in _missing(dict(report["data"])))
    for run in inputs.runs:
        reason = run.report["summary"].get("mean_entropy", {}).get("reason")
        if run.stats is None:
            yield f"{isolated(run.name)}: no intervals, for the sums beside the report are missing."
        elif reason:
            yield f"{isolated(run.name)}: no interval of the mean entropy: {reason}."
    for found in map(difference_series, inputs.comparisons):
        yield from (f"Compared although the sides differ: {what}." for what in found.allowed)
        yield from found.notes
    for training in inputs.trainings:
        yield from training_series(training).warnings
