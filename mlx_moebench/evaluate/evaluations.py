"""Reports of ``evaluate`` on disk: one JSON file, kept while a run goes on, and going on from one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import EvaluationError
from ..files import probe_folder, write_aside
from ..pair.storage import pair_paths
from ..types import Json

SCHEMA_VERSION = "1"
_PROGRESS = ("questions", "subjects", "results")


def evaluation_path(output: str | Path) -> Path:
    """``output`` with the suffix .json; raises StatsError where it names no file."""
    return pair_paths(Path(output))[0]


def read_evaluation(path: str | Path) -> Json:
    """The report at ``path``; raises EvaluationError where there is none."""
    where = evaluation_path(path)
    try:
        report = json.loads(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"Cannot read {where}: {error.strerror or error}.") from error
    except ValueError as error:
        raise EvaluationError(f"{where} is not JSON: {error}.") from error
    if not isinstance(report, dict) or not isinstance(report.get("task"), str) or "complete" not in report:
        raise EvaluationError(f"{where} is JSON, but no report of evaluate.")
    return report


def check_output(output: str | Path, resume: bool = False) -> None:
    """Raise where no report can be written, or where it would replace another file or, unless resumed, unfinished work.

    Asked before evaluating, so that no answer is lost. Makes no folder.
    """
    path = evaluation_path(output)
    for place in (Path(output), path):
        if place.is_dir():
            raise EvaluationError(f"Cannot write {place}: it is a folder; name a file in it.")
    probe_folder(path)
    if not path.exists():
        return
    try:
        report = read_evaluation(path)
    except EvaluationError as error:
        raise EvaluationError(f"{path} exists and is not a report of evaluate: choose another --output.") from error
    if not report["complete"] and not resume:
        raise EvaluationError(
            f"{path} holds a run that did not finish: continue with --resume, or delete it to start again."
        )


def write_evaluation(report: Json, path: Path) -> None:
    """Write the report aside and rename it; raises StatsError where the disk refuses."""
    write_aside({path: (json.dumps(report, indent=1, allow_nan=False) + "\n").encode()})


class Kept:
    """A growing report, saved at ``output`` after every subject; None saves nothing.

    report: with ``complete`` false and no questions yet. resume: take over the questions of the report that is there.
    A context manager: an error says where the subjects answered before it are.
    """

    def __init__(self, report: Json, output: str | Path | None, resume: bool) -> None:
        self.report = report
        self._path = None if output is None else evaluation_path(output)
        self._saved = False
        self.before: Json = {}
        if resume and self._path is not None and self._path.exists():
            self.before = read_evaluation(self._path)
            _check_same(report, self.before, self._path)
            if self.before["complete"]:  # nothing is left to ask here
                report["environment"] = self.before["environment"]
            self._saved = True

    def save(self) -> None:
        """Write the report as it is now."""
        if self._path is not None:
            write_evaluation(self.report, self._path)
            self._saved = True

    def check_compared(self, model: Json) -> None:
        """Raise EvaluationError if the second model is not the one that the report to go on from compared."""
        compared = self.before.get("compared")
        if compared and self._path is not None:
            _check_same({"model": model}, {"model": compared["model"]}, self._path)

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or not self._saved:
            return
        sections = [self.report, self.report.get("compared") or {}]
        reached = sum(len({q["subject"] for q in section.get("questions", ())}) for section in sections)
        subjects = f"{reached} subject{'' if reached == 1 else 's'}"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(
                f"Stopped by Ctrl-C after {subjects}; the answers are in {self._path}, "
                "and --resume continues from there."
            ) from error
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
