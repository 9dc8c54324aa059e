"""Reports of ``evaluate`` on disk: one JSON file, kept while a run goes on, and going on from one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

import msgspec

from ..errors import EvaluationError
from ..files import check_ours, is_ours, write_aside
from ..locks import holding
from ..pair.format.base import Count
from ..pair.seal import check_json_seal, read_json, sealed_text
from ..pair.storage import pair_paths
from ..signals import check, stopped_with
from ..types import Json

SCHEMA_VERSION = "1"
_PROGRESS = ("questions", "subjects", "results")


Letter = Literal["A", "B", "C", "D"]
Four = Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]


class Answer(msgspec.Struct, kw_only=True):
    """One question of MMLU, as `mmlu.answer_questions` gives it."""

    subject: str
    row: Count
    shots: Count
    truncated: bool
    tokens: Count
    log_likelihoods: Four
    probabilities: Four
    choice: Letter
    answer: Letter
    correct: bool
    tied: bool


class Answers(msgspec.Struct, kw_only=True):
    """What one model answered; a task of the harness has results in their place."""

    model: Json | msgspec.UnsetType = msgspec.UNSET
    questions: list[Answer] | msgspec.UnsetType = msgspec.UNSET


class EvaluationFile(Answers, kw_only=True):
    """What a report of ``evaluate`` must hold for others to read it, and to go on from it."""

    task: str
    complete: bool
    data: Json | msgspec.UnsetType = msgspec.UNSET
    settings: Json | msgspec.UnsetType = msgspec.UNSET
    environment: Json | msgspec.UnsetType = msgspec.UNSET
    compared: Answers | msgspec.UnsetType = msgspec.UNSET


def evaluation_path(output: str | Path) -> Path:
    """``output`` with the suffix .json; raises StatsError where it names no file."""
    return pair_paths(Path(output))[0]


def read_evaluation(path: str | Path) -> Json:
    """The report at ``path``; raises EvaluationError where there is none."""
    where = evaluation_path(path)
    report = read_json(where, EvaluationError)
    if not isinstance(report, dict) or not isinstance(report.get("task"), str) or "complete" not in report:
        raise EvaluationError(f"{where} is JSON, but no report of evaluate.")
    check_json_seal(report, str(where))
    try:
        msgspec.convert(report, EvaluationFile)
    except (msgspec.ValidationError, ValueError) as error:  # the second for half of a surrogate pair
        raise EvaluationError(f"{where} is damaged or from another version ({error}).") from error
    return report


def check_output(output: str | Path, resume: bool = False) -> None:
    """Raise where no report can be written, or where it would replace another file or, unless resumed, unfinished work.

    Asked before evaluating, so that no answer is lost. Makes no folder.
    """
    path = evaluation_path(output)
    if Path(output).is_dir():
        raise EvaluationError(f"Cannot write {output}: it is a folder; name a file in it.")
    check_ours(path, "report of evaluate", lambda: is_ours(path, ("task", "complete")))
    if not is_ours(path, ("task", "complete")):
        return
    if not read_evaluation(path)["complete"] and not resume:
        raise EvaluationError(
            f"{path} holds a run that did not finish: continue with --resume, or delete it to start again."
        )


def write_evaluation(report: Json, path: Path) -> None:
    """Write the report aside and rename it; raises StatsError where the disk refuses."""
    write_aside({path: sealed_text(report).encode()})


class Kept:
    """A growing report, saved at ``output`` after every subject; None saves nothing.

    report: with ``complete`` false and no questions yet. resume: take over the questions of the report that is there.
    A context manager: no other process writes the report meanwhile, and an error says where the subjects answered
    before it are.
    """

    def __init__(self, report: Json, output: str | Path | None, resume: bool) -> None:
        self.report = report
        self._path = None if output is None else evaluation_path(output)
        self._saved = False
        self._resume, self._lock = resume, ExitStack()
        self.before: Json = {}

    def save(self) -> None:
        """Write the report as it is now."""
        if self._path is not None:
            write_evaluation(self.report, self._path)
            self._saved = True
        check()

    def check_compared(self, model: Json) -> None:
        """Raise EvaluationError if the second model is not the one that the report to go on from compared."""
        compared = self.before.get("compared")
        if compared and self._path is not None:
            _check_same({"model": model}, {"model": compared.get("model", {})}, self._path)

    def __enter__(self) -> Kept:
        if self._path is not None:
            self._lock.enter_context(holding(self._path))
            if self._resume and self._path.exists():
                with self._lock:
                    self._take_over(self._path)
                    self._lock = self._lock.pop_all()
        return self

    def _take_over(self, path: Path) -> None:
        self.before = read_evaluation(path)
        _check_same(self.report, self.before, path)
        if self.before["complete"]:  # nothing is left to ask here
            self.report["environment"] = self.before["environment"]
        self._saved = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.close()
        if error is None or not self._saved:
            return
        sections = [self.report, self.report.get("compared") or {}]
        reached = sum(len({q["subject"] for q in section.get("questions", ())}) for section in sections)
        subjects = f"{reached} subject{'' if reached == 1 else 's'}"
        if isinstance(error, KeyboardInterrupt):
            kept = f"the answers are in {self._path}, and --resume continues from there."
            raise stopped_with(error, f" after {subjects}; {kept}") from error
        error.add_note(f"The answers on the {subjects} before are in {self._path}.")


def _check_same(run: Json, before: Json, path: Path) -> None:
    """Raise EvaluationError with the first difference between a run that starts and the report it goes on from."""
    for what, x, y in _compared(run, before):
        if x != y:
            x, y = ("not given" if value is None else str(value) for value in (x, y))
            raise EvaluationError(
                f"Cannot resume {path}: its {what.replace('_', ' ')} is {x[:80]}, this run's is {y[:80]}; repeat its "
                "options, or delete it to start again."
            )


def _compared(run: Json, before: Json) -> Iterator[tuple[str, Any, Any]]:
    """(what, there, here) of all that decides the answers."""
    yield "task", before.get("task"), run.get("task")
    for section in ("settings", "model", "data"):
        x, y = before.get(section, {}), run.get(section, {})
        for key in dict.fromkeys((*y, *x)):
            if key != "ci":  # made from the answers, at the end
                yield f"{section}'s {key}" if section != "settings" else f"setting {key}", x.get(key), y.get(key)
    for key in ("device", "blas", "mlx"):  # another arithmetic rounds otherwise
        yield key, before.get("environment", {}).get(key), run.get("environment", {}).get(key)
