"""The answer in a sentence, with its numbers, and the few figures that stand behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...types import Facts
from ..findings import counted
from ..inputs import Inputs, Run, Training
from ..names import OPEN, SUMMARY, data_warnings, flag_of, isolated, missing, sizes, tie_warnings, unit_of_text
from ..numbers import count, difference, number, with_interval
from .base import Value, labels, value_of
from .differences import DifferenceSeries, difference_series
from .domains import DomainSeries, domain_series
from .drawing import CLEAR
from .dynamics import DynamicsSeries, dynamics_series
from .quant import QuantSeries, quant_series
from .testbed import sentences as testbed_sentences
from .training import training_series
from .uncertainty import uncertainty_series


@dataclass(frozen=True)
class Fact:
    """One figure behind the answer, of one run: words, unit, value with interval or reason."""

    run: str
    metric: str
    words: str
    unit: str
    value: Value


@dataclass(frozen=True)
class Answer:
    """sentences: one for each thing that was given, the first the answer itself. cautions: what limits them."""

    sentences: tuple[str, ...]
    facts: tuple[Fact, ...]
    cautions: tuple[str, ...]


def answer(inputs: Inputs) -> Answer:
    """What was measured, in words: findings or flags, differences, uncertainty and trainings."""
    sentences = [_training(training) for training in inputs.trainings]
    sentences += [_difference(difference_series(comparison)) for comparison in inputs.comparisons]
    sentences += [_findings(domain_series(name, profile)) for name, profile in inputs.profiles.items()]
    sentences += [_flags(run) for run in inputs.runs if run.name not in inputs.profiles]
    sentences += [_uncertainty(report) for report in inputs.uncertainties]
    sentences += [_quantised(quant_series(report)) for report in inputs.quants]
    sentences += [_followed(dynamics_series(report)) for report in inputs.dynamics]
    sentences += [sentence for report in inputs.testbeds for sentence in testbed_sentences(report)]
    facts = tuple(fact for run in inputs.runs for fact in _facts(run))
    return Answer(tuple(sentences), facts, tuple(dict.fromkeys([*inputs.notes, *_cautions(inputs)])))


def _words(value: Value, digits: int = 3) -> str:
    return with_interval(value.value, value, digits)


def _findings(series: DomainSeries) -> str:
    parts = []
    for kind, words in series.counts.items():
        of = f"{kind} " if len(series.counts) > 1 else ""
        parts.append(_words_of(words, f"{of}router"))
    texts = f"{count(sum(series.n_sequences), unit_of_text(series.model))}, {count(sum(series.n_tokens), 'token')}"
    known = any(r.mi.has_interval for r in series.routers)
    how = (
        ""
        if known
        else f", because there are no intervals ({next((r.reason for r in series.routers if r.reason), '')})"
    )
    where = labels([r.router for r in series.routers])
    least = _largest([Value(-r.used.value) for r in series.routers])
    busy = _largest([r.dominant for r in series.routers])
    named = f"{isolated(series.name)} over {', '.join(map(isolated, series.domains))}"
    return (
        f"{named} ({texts}): {'; '.join(parts)}{how}. The least share of the experts in effective use over all domains "
        f"is {_words(series.routers[least].used, 2)} (layer {where[least]}); the most that one expert has in most "
        f"domains is {_words(series.routers[busy].dominant, 2)} of the tokens (layer {where[busy]})."
    )


def _words_of(words: Facts, noun: str) -> str:
    total = sum(words.values())
    if total == 1:
        return f"its only {noun} is {counted(words).removeprefix('1 ')}"
    if words.get("null") == total:
        return f"its {count(total, noun)} are without a word"
    return f"of {count(total, noun)} {counted(words)}"


def _largest(values: Sequence[Value]) -> int:
    """Number of the largest value; an undefined one is the last choice."""
    return max(range(len(values)), key=lambda n: (values[n].value == values[n].value, values[n].value))


def _flags(run: Run) -> str:
    report = run.report
    summaries = report.get("summary_by_router") or {"": report["summary"]}
    several = len(summaries) > 1
    flagged = "; ".join(_flagged(report, kind if several else "") for kind in summaries)
    named = f"{isolated(run.name)} on {isolated(str(report['data']['name']))}"
    busiest = " ".join(_busiest(summary, f" {kind}" if several else "") for kind, summary in summaries.items())
    opened = [flag_of(r, report["settings"]) for r in report["routers"]].count("open")
    unsure = f" ({count(opened, 'flag')} open: {OPEN})" if opened else ""
    return (
        f"{named} ({sizes(report)}): {flagged} as collapsed at tau {report['settings']['tau']:g}{unsure}, "
        f"a flag on one domain, which cannot tell collapse from specialisation. {busiest}"
    )


def _flagged(report: Facts, kind: str) -> str:
    """How many routers of a kind, or of all for an empty one, are flagged, of those that can be."""
    flags = [r.get("collapsed") for r in report["routers"] if kind in ("", r["router"])]
    flagged, judged = flags.count(True), len(flags) - flags.count(None)
    noun = f"{kind} router".lstrip()
    if not judged:
        return f"no {noun} can be flagged"
    return f"{flagged} of {count(judged, noun)} {'is' if 1 in (flagged, judged) else 'are'} flagged"


def _busiest(summary: Facts, of: str) -> str:
    peak, entropy = (_entry(summary.get(name, {})) for name in ("peak_top_share_token", "mean_entropy"))
    return f"The busiest{of} expert of any layer takes {peak} of the tokens; mean entropy is {entropy} nats."


def _entry(entry: Facts) -> str:
    return with_interval(entry.get("value"), entry)


def _difference(series: DifferenceSeries) -> str:
    how = {True: "on the same sequences", False: "as independent samples", None: "by values alone"}[series.paired]
    kind = "mlp" if "mlp" in series.overall else next(iter(series.overall))
    entropy = series.overall[kind].get("mean_entropy")
    moved = sum(1 for load in series.loads if load.l1.q < CLEAR)
    tested = sum(1 for load in series.loads if load.l1.q == load.l1.q)
    parts = []
    if entropy is not None:
        parts.append(f"mean entropy moves by {difference(entropy.effect.value, entropy.effect)} nats")
    parts.append(
        f"the load differs in {moved} of {count(tested, 'router')} (q < {CLEAR:g})"
        if tested
        else "whether the load moved by more than chance cannot be said"
    )
    return f"{isolated(series.names[1])} against {isolated(series.names[0])}, {how}: {', and '.join(parts)}."


def _training(training: Training) -> str:
    series = training_series(training)
    loss = series.loss
    name = "without a routing loss" if loss is None else f"with {loss.get('name')}, weight {loss.get('weight'):g}"
    name = name if series.finished else "not finished"
    steps = f"{count(len(series.steps), 'step')} on {count(series.tokens, 'token')}"
    ends = ""
    if len(series.steps) > 1:
        tenth = max(1, len(series.ce) // 10)
        first, last = (number(float(part.mean())) for part in (series.ce[:tenth], series.ce[-tenth:]))
        ends = f": cross-entropy of the batches went from {first} (first tenth) to {last} nats (last tenth)"
    return f"Training {isolated(series.name)}, {name}: {steps}{ends}."


def _uncertainty(report: Facts) -> str:
    series = uncertainty_series(report)
    curves = series.curves["entropy"]
    strongest = _largest([Value(abs(c.rho.value)) for c in curves])
    rho = curves[strongest].rho
    where = f"layer {labels([c.router for c in curves])[strongest]}, {count(series.n_tokens, 'token')}"
    return (
        f"{isolated(series.name)}: routing entropy at a token correlates with the loss of the next one, at its "
        f"strongest, by rho = {difference(rho.value, rho, 3)} ({where})."
    )


def _quantised(series: QuantSeries) -> str:
    several = len(series.arms[0].overall) > 1
    kept = [
        f"{_words(row['exact_set_rate'])} in {arm.name}{f' ({kind} routers)' if several else ''}"
        for arm in series.arms
        for kind, row in arm.overall.items()
    ]
    return (
        f"{isolated(series.name)}: with weights/routers quantised to so many bits, this share of "
        f"{count(series.n_tokens, 'token')} keeps its set of experts, over all layers: {'; '.join(kept)}."
    )


def _followed(series: DynamicsSeries) -> str:
    """How much of its routing a training had at its start, and how much still moved at its end."""
    parts = []
    for kind, course in series.overall.items():
        of = f" ({kind} routers)" if len(series.overall) > 1 else ""
        parts.append(
            f"{_words(course['saturation'][0])} of a token's experts at {isolated(series.names[0])} are those of "
            f"{isolated(series.names[-1])}{of}; from {isolated(series.names[0])} to {isolated(series.names[1])} "
            f"{_words(course['change_rate'][1])} of them changed, to the last one {_words(course['change_rate'][-1])}"
        )
    return f"{isolated(series.name)}, {count(len(series.names), 'checkpoint')}: {'; '.join(parts)}."


def _facts(run: Run) -> Iterator[Fact]:
    summaries = run.report.get("summary_by_router") or {"": run.report["summary"]}
    for kind, summary in summaries.items():
        of = f" ({kind} routers)" if len(summaries) > 1 else ""
        for name, words, unit in SUMMARY:
            if name in summary:
                yield Fact(run.name, name, words + of, unit, value_of(summary[name]["value"], summary[name]))


def _cautions(inputs: Inputs) -> Iterator[str]:
    others = (*inputs.uncertainties, *inputs.quants, *inputs.dynamics)
    reports: Sequence[Facts] = [*(run.report for run in inputs.runs), *others]
    for report in reports:
        yield from map(str, report["model"].get("warnings") or ())
        yield from (f"{part}." for part in missing(report["data"]))
        yield from data_warnings(report["data"])
    for run in inputs.runs:
        yield from (f"{isolated(run.name)}: {sentence}" for sentence in tie_warnings(run.report["routers"]))
        reason = run.report["summary"].get("mean_entropy", {}).get("reason")
        if run.stats is None:
            yield f"{isolated(run.name)}: no intervals, for the sums beside the report are missing."
        elif reason:
            yield f"{isolated(run.name)}: no interval of the mean entropy: {reason}."
    for series in map(difference_series, inputs.comparisons):
        yield from (f"Compared although the sides differ: {what}." for what in series.allowed)
        yield from series.notes
    for training in inputs.trainings:
        yield from training_series(training).warnings
