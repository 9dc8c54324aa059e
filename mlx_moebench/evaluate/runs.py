"""Several models, each of one or more trainings, on zero-shot tasks and on text: one report, with average ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from ..data import Corpus, read_corpus
from ..data.zeroshot import LIBMOE, TASKS, Questions, known_tasks, read_task
from ..errors import EvaluationError, MoebenchError, UnsupportedModelError
from ..files import write_aside
from ..measure.backends import Backend, backend_named, check_alone
from ..options import Loading, LoadingChoices, Plan, Reading, Step, quiet_step, takes, with_choices
from ..pair.seal import check_json_seal, read_json, sealed_text
from ..signals import check, stopped_with
from ..types import Json
from .ranks import over_seeds, ranked
from .zeroshot import answer, perplexity, summarised

SCHEMA_VERSION = "1"
KIND = "zero_shot"
TEXT = "text"
"""Under which the perplexity stands among the results of a run."""

PREFERRED = ("acc_norm", "acc", "exact_match")
"""Of a task of lm-evaluation-harness, the metric by which models are ranked: the first that it has."""


class Run(NamedTuple):
    """One training: the name of its model, of which other seeds may be there, and where it is."""

    name: str
    place: str


@dataclass(frozen=True)
class Asked:
    """What every model is asked: tasks read from files, tasks of the harness by name, and a text or none.

    include_path: folder with more task files of the harness.
    """

    questions: Mapping[str, Questions]
    harness: tuple[str, ...] = ()
    corpus: Corpus | None = None
    reading: Reading = field(default_factory=Reading)
    limit: int | None = None
    include_path: str | Path | None = None

    @property
    def names(self) -> list[str]:
        """Everything that a run has a result of."""
        return [*self.questions, *self.harness, *([TEXT] if self.corpus is not None else [])]


def ask(
    tasks: Sequence[str] = (),
    data: str | Path | None = None,
    text: Any = None,
    *,
    limit: int | None = None,
    reading: Reading | None = None,
    include_path: str | Path | None = None,
) -> Asked:
    """Read what is asked.

    tasks: NAME of `TASKS`, found in the folder ``data``; NAME=FILE for one of them elsewhere, or for one's own (rows
    of ``context``, ``choices`` and ``answer``); ``harness:NAME`` for a task of lm-evaluation-harness. Without any,
    those of `LIBMOE` of which ``data`` has a file. include_path: folder with task files of the harness. text: a data
    set whose perplexity is measured, as for `read_corpus`.

    Raises DataError for what cannot be read, and EvaluationError where nothing is asked.
    """
    reading = reading or Reading()
    if not tasks and data is not None:
        there = known_tasks(data)
        tasks = [name for name in LIBMOE if name in there]
    questions, harness = {}, []
    for task in tasks:
        name, _, place = task.partition("=")
        if name.startswith("harness:"):
            harness.append(name.removeprefix("harness:"))
        elif not place and name not in TASKS:
            raise EvaluationError(
                f"There is no task {name!r} here ({', '.join(TASKS)} are): write {name}=FILE for one of your own, or "
                f"harness:{name} for one of lm-evaluation-harness."
            )
        else:
            questions[name] = read_task(name, place or data, limit)
    corpus = None if text is None else read_corpus(text, **reading.of_corpus())
    if not questions and not harness and corpus is None:
        raise EvaluationError("Nothing is asked: give --data FOLDER with questions, or --text for perplexity.")
    return Asked(questions, tuple(harness), corpus, reading, limit, include_path)


@takes(Loading)
def evaluate_runs(
    runs: Sequence[Run | tuple[str, str]],
    asked: Asked,
    *,
    plan: Plan | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    command: str | None = None,
    loading: Loading | None = None,
    step: Step = quiet_step,
    **choices: Unpack[LoadingChoices],
) -> Json:
    """Put the same questions and the same text to every run; returns the report as JSON has it.

    runs: those of one name are seeds of one model, in order; where all models have as many of them, average ranks are
    made, the runs of one number ranked among each other. Models without routers are taken, too. loading, or its fields
    as keywords: see `models.load_checkpoint`. output: JSON report, saved after every task; resume: go on from it.

    ``runs`` holds what each run answered, with intervals over questions, or over documents of the text; ``models`` the
    means over seeds, with intervals over those. Raises `MoebenchError` subclasses.
    """
    plan, loading = plan or Plan(), with_choices(loading, choices)
    every = [Run(*run) for run in runs]
    if not every:
        raise EvaluationError("Name a model.")
    if resume and output is None:
        raise MoebenchError("Only a run with an output can be resumed: name the report.")
    if len(set(every)) < len(every):
        raise EvaluationError("A model is named twice under one name: give each run once.")
    runner = backend_named(loading.backend)
    check_alone(runner, "Questions are answered")
    runner.select_device(loading.device)
    report, path = _begun(runner, asked, plan, command), None if output is None else Path(output)
    before = {} if path is None or not path.exists() else _before(report, path, resume)

    def save() -> None:
        if path is not None:
            write_aside({path: sealed_text(report).encode()})
        check()

    try:
        for number, run in enumerate(every):
            told = _told(step, run, number, len(every))
            entry = before.get(run) or {"name": run.name, "place": run.place, "model": None, "results": {}}
            report["runs"].append(entry)
            for _ in _answered(runner, run, entry, asked, loading, plan, told):
                save()
            runner.forget()
    except KeyboardInterrupt as error:
        if path is None or not any(one["results"] for one in report["runs"]):
            raise
        raise stopped_with(error, f"; the answers are in {path}, and --resume continues from there.") from error
    report["models"] = summary(report["runs"], asked.names, plan.level)
    report["complete"] = True
    save()
    return report


def _begun(runner: Backend, asked: Asked, plan: Plan, command: str | None) -> Json:
    text = None
    if asked.corpus is not None:
        text = {"name": asked.corpus.name, "sha256": asked.corpus.sha256, "documents": len(asked.corpus.documents)}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "complete": False,
        "environment": runner.environment() | ({} if command is None else {"command": command}),
        "settings": {
            "limit": asked.limit,
            "batch_size": asked.reading.batch_size,
            "max_length": asked.reading.max_length,
            "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
        },
        "tasks": {name: one.facts() for name, one in asked.questions.items()},
        "harness": list(asked.harness),
        "text": text,
        "runs": [],
    }


def _before(report: Json, path: Path, resume: bool) -> dict[Run, Json]:
    """The runs of the report at ``path`` to go on from; raises EvaluationError where other things were asked there, or
    where it is not finished and would be replaced."""
    before = read_json(path, EvaluationError)
    if not resume:
        if isinstance(before, dict) and before.get("kind") == KIND and not before.get("complete"):
            raise EvaluationError(f"{path} holds a run that did not finish: continue with --resume, or delete it.")
        return {}
    if not isinstance(before, dict) or before.get("kind") != KIND:
        raise EvaluationError(f"{path} is JSON, but no report of lab eval.")
    check_json_seal(before, str(path))
    for section in ("settings", "tasks", "harness", "text"):
        if before.get(section) != report[section]:
            raise EvaluationError(f"Cannot resume {path}: the {section} in it are not those of this run; repeat them.")
    return {Run(one["name"], one["place"]): one for one in before["runs"]}


def _told(step: Step, run: Run, number: int, runs: int) -> Callable[[str, int, int], None]:
    def told(what: str, done: int, total: int) -> None:
        step(f"{run.name} ({number + 1} of {runs}): {what}", done, total)

    return told


def _answered(
    runner: Backend, run: Run, entry: Json, asked: Asked, loading: Loading, plan: Plan, step: Step
) -> Iterator[None]:
    """Put what a run has no result of yet into its entry; yields after each."""
    missing = [name for name in asked.names if name not in entry["results"]]
    mine = [name for name in missing if name not in asked.harness]
    if mine:
        step("loading the model", 0, 0)
        checkpoint, facts = _loaded(runner, run.place, loading, step)
        if entry["model"] not in (None, facts):
            raise EvaluationError(f"{run.place} is not the model it was when the report was begun; start it again.")
        entry["model"] = facts
        for name in mine:
            entry["results"][name] = _result(runner, checkpoint, name, asked, plan, step)
            yield
        del checkpoint
    if theirs := [name for name in missing if name in asked.harness]:
        from .harness import evaluate_tasks

        report = evaluate_tasks(
            run.place,
            theirs,
            include_path=asked.include_path,
            limit=asked.limit,
            batch_size=asked.reading.rows,
            loading=loading,
            step=step,
        )
        entry["model"] = entry["model"] or report["model"]
        for name in theirs:
            entry["results"][name] = _of_harness(name, report)
        yield


def _result(runner: Backend, checkpoint: Any, name: str, asked: Asked, plan: Plan, step: Step) -> Json:
    if name == TEXT:
        assert asked.corpus is not None
        n = len(asked.corpus.documents)
        return perplexity(
            runner, checkpoint, asked.corpus, asked.reading, plan, lambda done: step(f"{TEXT}, sequences", done, n)
        )
    questions = asked.questions[name]
    label, n = questions.task.label, len(questions.items)
    told = lambda done: step(f"{label}, questions", done, n)  # noqa: E731
    return summarised(questions, answer(runner, checkpoint, questions.items, asked.reading.rows, told), plan)


def _loaded(runner: Backend, place: str, loading: Loading, step: Step) -> tuple[Any, Json]:
    """A checkpoint with its facts; on MLX also one without routers."""
    if runner.name != "mlx":
        checkpoint = runner.load(place, loading, step)
        return checkpoint, runner.facts(checkpoint)
    from ..models.plain import load_any, plain_facts

    checkpoint = load_any(place, loading)
    try:
        return checkpoint, runner.facts(checkpoint)
    except UnsupportedModelError:
        return checkpoint, plain_facts(checkpoint)


def _of_harness(name: str, report: Json) -> Json:
    metrics = report["results"].get(name, {})
    chosen = next((metric for metric in PREFERRED if metric in metrics), next(iter(metrics), None))
    if chosen is None:
        raise EvaluationError(f"The task {name} of lm-evaluation-harness gives no number.")
    n = report["data"]["tasks"].get(name, {}).get("n")
    entry: Json = metrics[chosen]
    return entry | {"n": n, "metric": chosen, "by": f"lm-evaluation-harness {report['data']['lm_eval']}"}


def summary(runs: Sequence[Json], names: Sequence[str], level: float = 0.95) -> list[Json]:
    """For each model the means over its seeds: ``results`` by task, ``average`` over tasks, and ``rank``.

    Intervals are over seeds. The text counts in none of average and rank, as in LibMoE's table 2. No rank where there
    is one model, no task, or where models have not the same number of seeds (``rank`` then says why).
    """
    tasks = [name for name in names if name != TEXT]
    models: dict[str, list[Json]] = {}
    for run in runs:
        models.setdefault(run["name"], []).append(run["results"])
    entries: list[Json] = []
    for name, results in models.items():
        entry: Json = {"name": name, "seeds": len(results), "results": {}}
        for task in names:
            ends = (0.0, np.inf) if task == TEXT else (0.0, 1.0)
            values = [_value(one[task], task) for one in results]
            entry["results"][task] = {"value": float(np.mean(values)), **over_seeds(values, level, ends).to_dict()}
        if tasks:
            means = [float(np.mean([_value(one[task], task) for task in tasks])) for one in results]
            entry["average"] = {"value": float(np.mean(means)), **over_seeds(means, level, (0.0, 1.0)).to_dict()}
        entries.append(entry)
    for entry, rank in zip(entries, _ranks(list(models.values()), tasks, level), strict=True):
        entry["rank"] = rank
    return entries


def _ranks(models: Sequence[list[Json]], tasks: Sequence[str], level: float) -> list[Json]:
    why = None
    if len(models) < 2 or not tasks:
        why = "there is one model" if tasks else "there is no task"
    elif len({len(runs) for runs in models}) > 1:
        why = "the models have different numbers of seeds"
    if why is not None:
        return [{"value": None, "low": None, "high": None, "reason": why} for _ in models]
    scores = [[[_value(run[task], task) for task in tasks] for run in runs] for runs in models]
    return [dict(one) for one in ranked(scores, level)]


def _value(result: Json, name: str) -> float:
    value = result["perplexity"]["value"] if name == TEXT else result["value"]
    return float("nan") if value is None else float(value)
