"""The answer in a sentence, with its numbers, and the few figures that stand behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...types import Facts
from ..inputs import Inputs, Run, Training
from ..names import SUMMARY, data_warnings, isolated, missing, tie_warnings
from ..numbers import count
from .base import Value, value_of
from .differences import difference_sentence, difference_series
from .dynamics import course_sentence, dynamics_series
from .quant import kept_sentence, quant_series
from .sentences import findings_sentence, report_sentence
from .testbed import sentences as testbed_sentences
from .training import training_series
from .uncertainty import uncertainty_sentence, uncertainty_series
from .verdicts import Verdict, training_verdict


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
    """verdicts: on trainings. sentences: one for each thing that was given. cautions: what limits them."""

    verdicts: tuple[Verdict, ...]
    sentences: tuple[str, ...]
    facts: tuple[Fact, ...]
    cautions: tuple[str, ...]


def answer(inputs: Inputs) -> Answer:
    """What was measured, in words: findings or flags, differences, uncertainty and trainings."""
    verdicts = tuple(training_verdict(training, inputs.trainings) for training in inputs.trainings)
    sentences = [_training(training) for training in inputs.trainings]
    sentences += [difference_sentence(difference_series(comparison)) for comparison in inputs.comparisons]
    sentences += [
        findings_sentence(name, profile, [str(d["name"]) for d in profile["domains"]])
        for name, profile in inputs.profiles.items()
    ]
    sentences += [report_sentence(run.report, run.name) for run in inputs.runs if run.name not in inputs.profiles]
    sentences += [uncertainty_sentence(uncertainty_series(report)) for report in inputs.uncertainties]
    sentences += [kept_sentence(quant_series(report)) for report in inputs.quants]
    sentences += [course_sentence(dynamics_series(report)) for report in inputs.dynamics]
    sentences += [sentence for report in inputs.testbeds for sentence in testbed_sentences(report)]
    facts = tuple(fact for run in inputs.runs for fact in _facts(run))
    return Answer(verdicts, tuple(sentences), facts, tuple(dict.fromkeys([*inputs.notes, *_cautions(inputs)])))


def _training(training: Training) -> str:
    """What was trained, for how long; what became of it its verdict says, alone, so that no two can disagree."""
    series = training_series(training)
    loss = series.loss
    name = "without a routing loss" if loss is None else f"with {loss.get('name')}, weight {loss.get('weight'):g}"
    name = name if series.finished else "not finished"
    steps = f"{count(len(series.steps), 'step')} on {count(series.tokens, 'token')}"
    return f"Training {isolated(series.name)}, {name}: {steps}."


def _facts(run: Run) -> Iterator[Fact]:
    """Of several domains without the flags of one, which findings over them stand in for."""
    summaries = run.report.get("summary_by_router") or {"": run.report["summary"]}
    several = any("findings" in router for router in run.report["routers"])
    for kind, summary in summaries.items():
        of = f" ({kind} routers)" if len(summaries) > 1 else ""
        for name, words, unit in SUMMARY:
            if name in summary and not (name == "collapsed_fraction" and several):
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
