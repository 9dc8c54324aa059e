"""MMLU's questions put to a model as it is and to one whose routers are changed: accuracy, and the same choices."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..data.mmlu import SUBJECTS, Mmlu, read_mmlu
from ..errors import DataError
from ..evaluate.accuracy import accuracy, mcnemar, paired
from ..evaluate.mmlu import answer_questions
from ..options import Plan, Step, quiet_step
from ..routing.intervals.bootstrap import Interval
from ..types import Json

if TYPE_CHECKING:
    from ..instrument.interventions import Change

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Questions:
    """Which questions of MMLU. folder: of its files, None for the hub; the others as in `data.mmlu.read_mmlu`."""

    folder: str | Path | None = None
    split: str = "auto"
    subjects: Sequence[str] = SUBJECTS
    limit: int | None = None
    shots: int = 0

    def read(self) -> Mmlu:
        """The questions; raises as `data.mmlu.read_mmlu` does."""
        return read_mmlu(self.folder, subjects=self.subjects, split=self.split, limit=self.limit, shots=self.shots)


def halves(mmlu: Mmlu) -> tuple[Mmlu, Mmlu]:
    """(every first, every second question of each subject): one half to choose by, one to judge by.

    Raises `DataError` where a half would be empty.
    """
    parts = []
    for half in (0, 1):
        of_half = {subject: every[half::2] for subject, every in mmlu.questions.items() if every[half::2]}
        if not of_half:
            raise DataError("One question cannot be split into some to choose by and others to judge by: ask for more.")
        parts.append(replace(mmlu, questions=of_half))
    return parts[0], parts[1]


@dataclass(frozen=True)
class Exam:
    """Questions for one model: the same prompts every time."""

    mmlu: Mmlu
    length: int | None
    batch_size: int = 8

    def answers(self, checkpoint: Any, change: Change | None = None, step: Step = quiet_step) -> list[Json]:
        """As `evaluate.mmlu` lists them, of the model with its routers changed, or as it is."""
        from ..instrument.interventions import changing

        given: list[Json] = []
        total = sum(map(len, self.mmlu.questions.values()))
        with nullcontext() if change is None else changing(checkpoint.model, change):
            for subject, questions in self.mmlu.questions.items():
                step("answering, questions", len(given), total)
                shots = self.mmlu.shots[subject]
                given += answer_questions(checkpoint, questions, shots, self.length, self.batch_size)
        return given


def exam_facts(mmlu: Mmlu) -> Json:
    """Which questions were asked, for a report."""
    n = sum(map(len, mmlu.questions.values()))
    facts = {"name": mmlu.name, "format": mmlu.format, "split": mmlu.split, "sha256": mmlu.sha256}
    return facts | {"subjects": list(mmlu.questions), "n_questions": n}


def accuracy_section(answers: Sequence[Json], plan: Plan) -> Json:
    """Share of right answers, with its interval over questions inside each subject."""
    value, interval = _share(_flags(answers), answers, plan)
    return {"value": value, "n": len(answers), "level": plan.level, **interval.to_dict()}


def effect_on_answers(before: Sequence[Json], after: Sequence[Json], plan: Plan) -> Json:
    """``accuracy`` of the changed model, ``accuracy_change`` paired over questions with McNemar's exact p, and
    ``choice_agreement``, the share of questions of which both choose the same letter."""
    first, second = _flags(before), _flags(after)
    subjects, n = _subjects(before)
    first_only, second_only = (
        np.bincount(subjects, weights=flags, minlength=len(n)).astype(np.int64)
        for flags in (first & ~second, second & ~first)
    )
    value, interval = paired(first_only, second_only, n, plan)["micro"]
    same = np.array([x["choice"] == y["choice"] for x, y in zip(before, after, strict=True)])
    agreement, around = _share(same, before, plan)
    p = mcnemar(int(first_only.sum()), int(second_only.sum()))
    return {
        "accuracy": accuracy_section(after, plan),
        "accuracy_change": {"value": value, "level": plan.level, "mcnemar_p": p, **interval.to_dict()},
        "choice_agreement": {"value": agreement, "level": plan.level, **around.to_dict()},
    }


def _flags(answers: Sequence[Json]) -> Flags:
    return np.array([one["correct"] for one in answers], dtype=np.bool_)


def _subjects(answers: Sequence[Json]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """(the number of each answer's subject, questions of each subject)."""
    _, numbers = np.unique([one["subject"] for one in answers], return_inverse=True)
    return numbers, np.bincount(numbers).astype(np.int64)


def _share(flags: Flags, answers: Sequence[Json], plan: Plan) -> tuple[float, Interval]:
    subjects, n = _subjects(answers)
    return accuracy(np.bincount(subjects, weights=flags, minlength=len(n)).astype(np.int64), n, plan)["micro"]
