"""MMLU: a model's choice on every question, by the log-likelihood of the four letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import mlx.core as mx
import numpy as np

from ..checkpoints.adapters import read_adapter
from ..data import encode_text
from ..data.mmlu import CONTINUATIONS, LETTERS, MAX_SHOTS, PRESETS, SUBJECTS, Mmlu, Question, prompt, read_mmlu
from ..environment import environment
from ..errors import EvaluationError, MoebenchError, did_you_mean
from ..measure.on_mlx import checkpoint_facts
from ..models import Checkpoint, load_checkpoint, select_device
from ..options import Loading, LoadingChoices, Plan, Step, quiet_step, takes, with_choices
from ..types import Json
from .accuracy import compare_answers, summarise
from .choices import Request, encode_choices, fitted, score
from .evaluations import SCHEMA_VERSION, Kept

PRESET_NOTE = "The published benchmark does not name its 12 subjects; these were chosen for this package."


@takes(Loading, without=("backend",))
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

    model, loading (or its fields as keywords): see `models.load_checkpoint`. data, split, limit: see
    `data.mmlu.read_mmlu`. subjects: all 57 by default. preset: ``12x25``, instead of subjects and limit.
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
    select_device(loading.device)

    def load(adapter: str | Path | None) -> Checkpoint:
        step("loading the model", 0, 0)
        return load_checkpoint(model, loading, adapter_path=adapter)

    checkpoint = load(loading.adapter_path)
    length = _length(checkpoint, max_length)
    plan = Plan(seed=seed, level=level)
    report: Json = {
        "schema_version": SCHEMA_VERSION,
        "task": "mmlu",
        "complete": False,
        "model": checkpoint_facts(checkpoint.model, checkpoint),
        "data": _data_facts(mmlu, preset, limit),
        "settings": {
            "shots": shots,
            "max_length": length,
            "batch_size": batch_size,
            "compare": None if compare is None else read_adapter(compare).facts,
            "ci": {"resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
        },
        "environment": environment() | ({} if command is None else {"command": command}),
    }
    asked = sum(map(len, mmlu.questions.values()))
    total = asked if compare is None else 2 * asked
    with Kept(report, output, resume) as kept:
        told = _Told(step, total)
        _answer(checkpoint, mmlu, length, batch_size, report, kept.before, plan, kept.save, told)
        if compare is not None:
            del checkpoint  # one model in memory at a time
            mx.clear_cache()
            checkpoint = load(compare)
            second = report["compared"] = {"model": checkpoint_facts(checkpoint.model, checkpoint)}
            kept.check_compared(second["model"])
            before = kept.before.get("compared") or {}
            _answer(checkpoint, mmlu, length, batch_size, second, before, plan, kept.save, told)
        report["complete"] = True
        if compare is not None:
            shared = {key: report[key] for key in ("complete", "data")}
            report["comparison"] = compare_answers(report, report["compared"] | shared, plan)
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


class _Told:
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


def _answer(
    checkpoint: Checkpoint,
    mmlu: Mmlu,
    length: int | None,
    batch_size: int,
    section: Json,
    before: Json,
    plan: Plan,
    save: Callable[[], None],
    told: _Told,
) -> None:
    """Put the answers of one model and their summary into ``section``, subject by subject; ``before`` has some."""
    known: dict[str, list[Json]] = {}
    for answer in before.get("questions", ()):
        known.setdefault(answer["subject"], []).append(answer)
    answers: list[Json] = []
    for subject, questions in mmlu.questions.items():
        found = known.get(subject)
        if found is None:
            found = answer_questions(checkpoint, questions, mmlu.shots[subject], length, batch_size, told.within)
        answers += found
        told.add(len(questions))
        section |= summarise(answers, plan) | {"questions": answers}
        if subject not in known:
            save()


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
    posed = [_posed(checkpoint.tokenizer, question, shots, length) for question in questions]
    scores: dict[int, list[float]] = {}

    def tell(before: int, requests: int) -> None:
        step(before + requests // len(LETTERS))

    for used in sorted({fitting for fitting, _, _ in posed}, reverse=True):
        numbers = [number for number, (fitting, _, _) in enumerate(posed) if fitting == used]
        requests = [request for number in numbers for request in posed[number][2]]
        found = score(checkpoint.model, requests, batch_size, partial(tell, len(scores)))
        for place, number in enumerate(numbers):
            four = found[place * len(LETTERS) : (place + 1) * len(LETTERS)]
            scores[number] = [s.log_likelihood for s in four]
    return [
        _answered(question, used, truncated, len(requests[0].context), scores[number])
        for number, (question, (used, truncated, requests)) in enumerate(zip(questions, posed, strict=True))
    ]


def _posed(
    tokenizer: Any, question: Question, shots: Sequence[Question], length: int | None
) -> tuple[int, bool, list[Request]]:
    """(shots used, whether the question was cut, one request a letter): as many shots, the last ones, as fit."""
    for used in range(len(shots), -1, -1):
        text = prompt(question, shots[len(shots) - used :])
        if used and length is not None and len(encode_text(tokenizer, text)) > length:
            continue
        requests, cut = fitted(encode_choices(tokenizer, text, CONTINUATIONS), length, tokenizer.bos_token_id)
        if not cut:
            break
    return used, cut, requests


def _answered(question: Question, shots: int, truncated: bool, tokens: int, logs: list[float]) -> Json:
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
