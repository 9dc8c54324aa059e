"""MMLU: a model's choice on every question, by the log-likelihood of the four letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ..checkpoints import Checkpoint
from ..checkpoints.adapters import read_adapter
from ..data import encode_text
from ..data.mmlu import CONTINUATIONS, LETTERS, MAX_SHOTS, PRESETS, SUBJECTS, Mmlu, Question, prompt, read_mmlu
from ..errors import EvaluationError, MoebenchError, did_you_mean
from ..measure.backends import Backend, backend_named, check_alone
from ..options import Loading, LoadingChoices, Plan, Step, quiet_step, takes, with_choices
from ..types import Json
from .accuracy import compare_answers, summarise
from .choices import Request, encode_choices, fitted, score
from .evaluations import SCHEMA_VERSION, Kept

PRESET_NOTE = "The published benchmark does not name its 12 subjects; these were chosen for this package."


@takes(Loading)
def evaluate_mmlu(
    model: str | Path | None = None,
    data: str | Path | None = None,
    *,
    subjects: Sequence[str] | None = None,
    preset: str | None = None,
    limit: int | None = None,
    split: str = "auto",
    shots: int = MAX_SHOTS,
    max_length: int | None = None,
    batch_size: int = 8,
    compare: str | Path | None = None,
    seed: int = 0,
    level: float = 0.95,
    output: str | Path | None = None,
    resume: bool = False,
    command: str | None = None,
    loading: Loading | None = None,
    step: Step = quiet_step,
    **choices: Unpack[LoadingChoices],
) -> Json:
    """Let a model answer MMLU; returns the report, as docs/evaluate.md describes it.

    model, loading (or its fields as keywords): see `models.load_checkpoint` and `torch_fallback.load_checkpoint`.
    data, split, limit: see `data.mmlu.read_mmlu`. subjects: all 57 by default. preset: ``12x25``, instead of subjects
    and limit.
    shots: worked examples before each question, 0 to 5; they are dropped from the front where the prompt with its
    answer has more tokens than max_length, by default the model's number of positions. A question that does not fit
    alone is cut from the front.
    compare: folder of an adapter; the same model with it, instead of adapter_path, answers the same questions.
    seed, level: of the bootstrap. output: JSON report, saved after every subject. resume: go on from it, if there is
    one.

    Raises `MoebenchError` subclasses with one sentence that says what to do.
    """
    if resume and output is None:
        raise MoebenchError("Only a run with an output can be resumed: name the report.")
    if preset is not None:
        subjects, limit = _preset(preset, subjects, limit)
    if batch_size < 1:
        raise EvaluationError(f"batch_size is {batch_size}; put at least 1 question into a batch.")
    mmlu = read_mmlu(data, subjects=SUBJECTS if subjects is None else subjects, split=split, limit=limit, shots=shots)
    if compare is not None:
        read_adapter(compare)
    loading = with_choices(loading, choices)
    runner = backend_named(loading.backend)
    check_alone(runner, "Questions are answered")
    runner.select_device(loading.device)

    def load(adapter: str | Path | None) -> Checkpoint:
        step("loading the model", 0, 0)
        return runner.load(model, replace(loading, adapter_path=adapter), step)

    checkpoint = load(loading.adapter_path)
    models = 1 if compare is None else 2
    progress = _Progress(step, models * sum(map(len, mmlu.questions.values())))
    exam = _Exam(mmlu, _length(checkpoint, max_length), batch_size, Plan(seed=seed, level=level), progress)
    report = _begun(runner, checkpoint, _data_facts(mmlu, preset, limit), _settings(exam, shots, compare), command)
    with Kept(report, output, resume) as kept:
        _answer(exam, checkpoint, report, kept.before, kept.save)
        if compare is not None:
            del checkpoint  # one model in memory at a time
            runner.forget()
            _compare(exam, load(compare), report, kept)
        report["complete"] = True
        kept.save()
    return report


def _preset(preset: str, subjects: Sequence[str] | None, limit: int | None) -> tuple[Sequence[str], int]:
    if preset not in PRESETS:
        raise EvaluationError(f"There is no preset {preset!r}.{did_you_mean(preset, list(PRESETS))}")
    if subjects is not None or limit is not None:
        raise EvaluationError(f"Preset {preset} says which subjects and how many questions; leave out both.")
    return PRESETS[preset]


def _length(checkpoint: Checkpoint, max_length: int | None) -> int | None:
    """Most tokens of a prompt with its answer; None for a model that names no number of positions."""
    positions: int | None = checkpoint.config.get("max_position_embeddings")
    if max_length is not None and positions is not None and max_length > positions:
        raise EvaluationError(f"A prompt of {max_length} tokens does not fit the model's {positions} positions.")
    return positions if max_length is None else max_length


def _begun(runner: Backend, checkpoint: Checkpoint, data: Json, settings: Json, command: str | None) -> Json:
    """The report before the first answer."""
    return {
        "schema_version": SCHEMA_VERSION,
        "task": "mmlu",
        "complete": False,
        "model": runner.facts(checkpoint),
        "data": data,
        "settings": settings,
        "environment": runner.environment() | ({} if command is None else {"command": command}),
    }


def _settings(exam: _Exam, shots: int, compare: str | Path | None) -> Json:
    return {
        "shots": shots,
        "max_length": exam.length,
        "batch_size": exam.batch_size,
        "compare": None if compare is None else read_adapter(compare).facts,
        "ci": {"resamples": exam.plan.resamples, "seed": exam.plan.seed, "level": exam.plan.level},
    }


def _data_facts(mmlu: Mmlu, preset: str | None, limit: int | None) -> Json:
    return {
        "name": mmlu.name,
        "format": mmlu.format,
        "split": mmlu.split,
        "sha256": mmlu.sha256,
        "preset": preset,
        **({} if preset is None else {"preset_note": PRESET_NOTE}),
        "limit": limit,
        "subjects": list(mmlu.questions),
        "n_questions": sum(map(len, mmlu.questions.values())),
    }


class _Progress:
    """Counts answered questions for ``step``."""

    def __init__(self, step: Step, total: int) -> None:
        self._step, self._total, self._before = step, total, 0

    def within(self, done: int) -> None:
        """done: of the subject at hand."""
        self._step("answering, questions", self._before + done, self._total)

    def add(self, done: int) -> None:
        """A subject of so many questions is answered."""
        self._before += done
        self.within(0)


@dataclass(frozen=True)
class _Exam:
    """What each model is asked, and how: the same questions, prompts of at most ``length`` tokens."""

    mmlu: Mmlu
    length: int | None
    batch_size: int
    plan: Plan
    progress: _Progress


def _answer(exam: _Exam, checkpoint: Checkpoint, section: Json, before: Json, save: Callable[[], None]) -> None:
    """Put the answers of one model and their summary into ``section``, subject by subject; ``before`` has some."""
    known: dict[str, list[Json]] = {}
    for answer in before.get("questions", ()):
        known.setdefault(answer["subject"], []).append(answer)
    answers: list[Json] = []
    for subject, questions in exam.mmlu.questions.items():
        of_subject = known.get(subject)
        if of_subject is None:
            of_subject = answer_questions(
                checkpoint, questions, exam.mmlu.shots[subject], exam.length, exam.batch_size, exam.progress.within
            )
        answers += of_subject
        exam.progress.add(len(questions))
        section |= summarise(answers, exam.plan) | {"questions": answers}
        if subject not in known:
            save()


def _compare(exam: _Exam, checkpoint: Checkpoint, report: Json, kept: Kept) -> None:
    """Put the answers of a second model, and how they differ from those in ``report``, into it."""
    second = report["compared"] = {"model": backend_named(checkpoint.backend).facts(checkpoint)}
    kept.check_compared(second["model"])
    _answer(exam, checkpoint, second, kept.before.get("compared") or {}, kept.save)
    both = {"complete": True, "data": report["data"]}
    report["comparison"] = compare_answers(report | both, second | both, exam.plan)


def answer_questions(
    checkpoint: Checkpoint,
    questions: Sequence[Question],
    shots: Sequence[Question],
    length: int | None = None,
    batch_size: int = 8,
    step: Callable[[int], None] = lambda done: None,
) -> list[Json]:
    """The answers of a model to questions of one subject, in order, as a report lists them.

    Each: subject, row, shots (as many as fit into ``length`` tokens), truncated, tokens (of the context),
    log_likelihoods of A to D in nats, probabilities (their softmax), choice (the most likely letter, the first of
    equals), answer, correct, and tied, whether another letter is as likely as the choice.
    """
    runner = backend_named(checkpoint.backend)
    asked = [posed(checkpoint.tokenizer, question, shots, length) for question in questions]
    scores: dict[int, list[float]] = {}

    def tell(before: int, requests: int) -> None:
        step(before + requests // len(LETTERS))

    for used in sorted({fitting for fitting, _, _ in asked}, reverse=True):
        numbers = [number for number, (fitting, _, _) in enumerate(asked) if fitting == used]
        requests = [request for number in numbers for request in asked[number][2]]
        scored = score(runner, checkpoint, requests, batch_size, partial(tell, len(scores)))
        for place, number in enumerate(numbers):
            four = scored[place * len(LETTERS) : (place + 1) * len(LETTERS)]
            scores[number] = [s.log_likelihood for s in four]
    return [
        answered(question, used, truncated, len(requests[0].context), scores[number])
        for number, (question, (used, truncated, requests)) in enumerate(zip(questions, asked, strict=True))
    ]


def posed(
    tokenizer: Any, question: Question, shots: Sequence[Question], length: int | None
) -> tuple[int, bool, list[Request]]:
    """(shots used, whether the question was cut, one request a letter): as many shots, the last ones, as fit.

    length: most tokens of a prompt with its answer; None for any number.
    """
    for used in range(len(shots), -1, -1):
        text = prompt(question, shots[len(shots) - used :])
        if used and length is not None and len(encode_text(tokenizer, text)) > length:
            continue
        requests, cut = fitted(encode_choices(tokenizer, text, CONTINUATIONS), length, tokenizer.bos_token_id)
        if not cut:
            break
    return used, cut, requests


def answered(question: Question, shots: int, truncated: bool, tokens: int, logs: list[float]) -> Json:
    """An answer as `answer_questions` lists it; logs: log-likelihoods of A to D, nats."""
    best = int(np.argmax(logs))
    odds = np.exp(np.array(logs) - logs[best])
    return {
        "subject": question.subject,
        "row": question.row,
        "shots": shots,
        "truncated": truncated,
        "tokens": tokens,
        "log_likelihoods": logs,
        "probabilities": (odds / odds.sum()).tolist(),
        "choice": LETTERS[best],
        "answer": LETTERS[question.answer],
        "correct": best == question.answer,
        "tied": logs.count(logs[best]) > 1,
    }
