"""Tasks of lm-evaluation-harness on a loaded model; needs the extra ``eval``."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

from ..checkpoints import Checkpoint
from ..data import encode_text
from ..data.encode import pad_id
from ..environment import package_version
from ..errors import EvaluationError, MissingExtraError, RenamedError, did_you_mean, renamed
from ..measure.backends import backend_named, check_alone
from ..options import Loading, LoadingChoices, Step, quiet_step, takes, with_choices
from ..routing.intervals.bootstrap import MIN_CLUSTERS
from ..types import Json
from .choices import Request, Score, encode_choices, fitted, score
from .evaluations import SCHEMA_VERSION, evaluation_path, write_evaluation
from .runs import load_with_facts

try:
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    if (other := renamed(error)) is not None:
        raise other from error
    raise MissingExtraError("A task of lm-evaluation-harness", "eval") from error

import yaml
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # the base of its two possible clients

MAX_TOKENS = 256
"""Tokens generated where a task names no number."""

SHARES = ("acc", "acc_norm", "exact_match")
"""Metrics that lie between 0 and 1."""

Z = 1.96


@takes(Loading)
def evaluate_tasks(
    model: str | Path | None = None,
    tasks: Sequence[str] = (),
    *,
    include_path: str | Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    output: str | Path | None = None,
    command: str | None = None,
    routers: bool = True,
    loading: Loading | None = None,
    step: Step = quiet_step,
    **choices: Unpack[LoadingChoices],
) -> Json:
    """Run tasks of lm-evaluation-harness; returns the report, with {task: {metric: value, low, high}} as ``results``.

    model, loading (or its fields as keywords): see `models.load_checkpoint` and `torch_fallback.load_checkpoint`.
    tasks: names of tasks or groups. include_path: folder with more task files. shots: worked examples; None leaves it
    to the task. limit: the first so many documents of each task. seed: of the choice of worked examples. routers: False
    takes models without any, too, if they are named. Raises `MoebenchError` subclasses.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    step("finding the task", 0, 0)
    names = [name.strip() for name in tasks if name.strip()]
    manager = _manager(include_path, names)
    check_tasks(names, manager)
    loading = with_choices(loading, choices)
    runner = backend_named(loading.backend)
    check_alone(runner, "Tasks are run")
    runner.select_device(loading.device)
    step("loading the model", 0, 0)
    if routers or model is None:
        checkpoint = runner.load(model, loading, step)
        facts = runner.facts(checkpoint)
    else:
        checkpoint, facts = load_with_facts(runner, str(model), loading, step)
    step("loading the data", 0, 0)
    loaded = _load_tasks(manager, names, shots, seed)
    evaluated = lm_eval.evaluate(
        lm=HarnessModel(checkpoint, batch_size, step), task_dict=loaded, limit=limit, log_samples=False
    )
    report = {
        "schema_version": SCHEMA_VERSION,
        "task": ",".join(names),
        "complete": True,
        "model": facts,
        "data": {"lm_eval": package_version("lm-eval"), "tasks": _task_facts(evaluated)},
        "settings": {"shots": shots, "limit": limit, "batch_size": batch_size, "seed": seed},
        "environment": runner.environment() | ({} if command is None else {"command": command}),
        "results": _results(evaluated),
    }
    if output is not None:
        write_evaluation(report, evaluation_path(output))
    return report


def _manager(include_path: str | Path | None, tasks: Sequence[str]) -> Any:
    """Knows the task files; those of the harness, which take seconds to list, only where they are needed."""
    if include_path is None:
        return TaskManager()
    if not Path(include_path).is_dir():
        raise EvaluationError(f"There is no folder {str(include_path)!r} with task files.")
    named = TaskManager(include_path=str(include_path), include_defaults=False)
    # A group may hold tasks of the harness.
    return named if set(tasks) <= set(named.all_subtasks) else TaskManager(include_path=str(include_path))


def check_tasks(names: Sequence[str], manager: Any) -> None:
    """Raise EvaluationError for a name that the harness's ``manager`` does not know, or for none."""
    if not names:
        raise EvaluationError("No task is named; name mmlu, or a task of lm-evaluation-harness such as arc_easy.")
    for name in names:
        if name not in manager.all_tasks:
            # Of thousands of tasks only a close one is worth telling.
            hint = did_you_mean(name, list(manager.all_tasks))
            hint = hint if "Did you mean" in hint else " `lm_eval ls tasks` lists them."
            raise EvaluationError(f"lm-evaluation-harness has no task {name!r}.{hint}")


def _load_tasks(manager: Any, names: list[str], shots: int | None, seed: int) -> Any:
    """Tasks with their data. The harness keeps tasks without examples that way, whatever number is asked for."""
    try:
        loaded = manager.load(names)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, HTTPError, DatasetsError, yaml.YAMLError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        raise EvaluationError(
            f"{', '.join(names)} cannot be loaded ({type(error).__name__}: {reason[:200]}); check the network, or the "
            "task's file and the data that it names."
        ) from error
    for task in loaded["tasks"].values():
        default = task.get_config("num_fewshot")
        if default != 0:
            task.set_config("num_fewshot", (default or 0) if shots is None else shots)
        task.set_fewshot_seed(seed=seed)
    return loaded


def _task_facts(evaluated: Json) -> dict[str, Json]:
    return {
        task: {
            "version": _part(evaluated, "versions").get(task),  # a group has none
            "shots": _part(evaluated, "n-shot").get(task),
            "n": _documents(evaluated, task),
        }
        for task in _part(evaluated, "results")
    }


def _part(section: Json, key: str) -> Any:
    if key not in section:
        raise RenamedError("lm_eval", f"{key!r} in its results", "the report is made from")
    return section[key]


def _documents(evaluated: Json, task: str) -> int | None:
    """How many documents were scored; None for a group."""
    counts = _part(evaluated, "n-samples").get(task)
    return None if counts is None else int(_part(counts, "effective"))


def _results(evaluated: Json) -> dict[str, Json]:
    """{task: {metric: value, stderr, low, high, method or reason}}; a metric's filter is named unless it is none."""
    results: dict[str, Json] = {}
    for task, metrics in _part(evaluated, "results").items():
        n = _documents(evaluated, task)
        results[task] = {}
        for key, value in metrics.items():
            name, comma, applied = key.partition(",")
            if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = _part(metrics, f"{name}_stderr,{applied}")
            shown = name if applied == "none" else f"{name} ({applied})"
            results[task][shown] = _with_interval(float(value), stderr, n, (0.0, 1.0) if name in SHARES else None)
        if n is not None and not results[task]:
            raise RenamedError("lm_eval", f"'METRIC,FILTER' among the results of {task}", "scores are read from")
    return results


def _with_interval(value: float, stderr: Any, n: int | None, ends: tuple[float, float] | None) -> Json:
    known = isinstance(stderr, int | float) and math.isfinite(stderr)
    entry: Json = {"value": value if math.isfinite(value) else None, "stderr": stderr if known else None}
    reason = None
    if not known or entry["value"] is None:
        reason = "the harness gives no standard error for this metric"
    elif n is not None and n < MIN_CLUSTERS:
        reason = f"{n} documents are too few for an interval: {MIN_CLUSTERS} or more are needed"
    elif stderr == 0:
        reason = "all documents scored alike, so their standard error says nothing"
    if reason:
        return entry | {"low": None, "high": None, "reason": reason}
    low, high = value - Z * stderr, value + Z * stderr
    if ends is not None:
        low, high = max(low, ends[0]), min(high, ends[1])
    return entry | {"low": low, "high": high, "method": "normal"}


class HarnessModel(LM):
    """What the harness asks of a model, answered by a checkpoint on the backend that loaded it.

    Prompts are cut from the front to the model's number of positions. Nothing is sampled unless a task asks for it.
    """

    def __init__(self, checkpoint: Checkpoint, batch_size: int = 8, step: Step = quiet_step) -> None:
        super().__init__()
        self._checkpoint, self._tokenizer = checkpoint, checkpoint.tokenizer
        self._runner = backend_named(checkpoint.backend)
        self._positions: int | None = checkpoint.config.get("max_position_embeddings")
        self._batch_size, self._step = batch_size, step

    @property
    def tokenizer_name(self) -> str:
        return str(getattr(self._tokenizer, "name_or_path", "")).replace("/", "__")

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is the greedy continuation) of each (context, continuation)."""
        bos = self._tokenizer.bos_token_id
        encoded = [encode_choices(self._tokenizer, *_context_and_endings(r)) for r in requests]
        fitting = [fitted(one, self._positions, bos)[0][0] for one in encoded]
        likelihoods: dict[int, tuple[float, bool]] = {}
        for numbers in _groups(fitting):
            results = self._score([fitting[n] for n in numbers])
            for number, result in zip(numbers, results, strict=True):
                likelihoods[number] = (result.log_likelihood, result.greedy)
            self._step("scoring, continuations", len(likelihoods), len(fitting))
        return [likelihoods[number] for number in range(len(fitting))]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Log-likelihood of each text, in windows of the model's positions, every token predicted once."""
        totals = []
        for request in requests:
            ids = encode_text(self._tokenizer, request.args[0])
            start = self._tokenizer.bos_token_id
            ids = ids[1:] if ids and ids[0] == start else ids
            start = pad_id(self._tokenizer) if start is None else start
            windows = get_rolling_token_windows(list(ids), start, self._positions or len(ids) + 1, 1)
            parts = [Request(tuple(a), tuple(b)) for a, b in map(make_disjoint_window, windows)]
            totals.append(sum(s.log_likelihood for s in self._score(parts)))
            self._step("scoring, texts", len(totals), len(requests))
        return totals

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The continuation of each context, up to the first of the task's stop texts."""
        texts = []
        for request in requests:
            context, options = request.args
            stops, most, heat = _generation(options)
            ids = encode_text(self._tokenizer, context)
            if self._positions is not None:
                most = min(most, self._positions - 1)
                ids = ids[-(self._positions - most) :]
            texts.append(self._generated(ids or (pad_id(self._tokenizer),), most, stops, heat))
            self._step("generating, prompts", len(texts), len(requests))
        return texts

    def _generated(self, ids: Sequence[int], most: int, stops: Sequence[str], heat: float) -> str:
        text, made = "", []
        for token in self._runner.tokens_after(self._checkpoint, ids, most, heat):
            made.append(token)
            text = str(self._tokenizer.decode(made))
            ends = [text.index(stop) for stop in stops if stop in text]
            if ends:
                return text[: min(ends)]
        return text

    def _score(self, requests: Sequence[Request]) -> list[Score]:
        return score(self._runner, self._checkpoint, requests, self._batch_size)


def _generation(options: Json) -> tuple[list[str], int, float]:
    """(stop texts, most tokens, temperature) that a task asks for, under any of the names that the harness takes."""
    known = normalize_gen_kwargs(options, MAX_TOKENS)
    sampled = bool(_part(known, "do_sample"))
    unused = known.keys() - {"until", "max_gen_toks", "do_sample", "temperature"}
    if unused and sampled:
        warnings.warn(
            f"The task sets {', '.join(sorted(unused))}, which is not used: only the temperature of sampling is.",
            UserWarning,
            stacklevel=2,
        )
    heat = float(known.get("temperature", 0.0)) if sampled else 0.0
    return [stop for stop in _part(known, "until") if stop], int(_part(known, "max_gen_toks")), heat


def _context_and_endings(request: Any) -> tuple[str, list[str]]:
    context, continuation = request.args
    return context, [continuation]


def _groups(requests: Sequence[Request]) -> Iterator[list[int]]:
    """Numbers of requests to score together: several rows of one context apart, all others at once."""
    by_context: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        by_context.setdefault(request.context, []).append(number)
    rest: list[int] = []
    for numbers in by_context.values():
        if len({requests[n].continuation[:-1] for n in numbers}) > 1:
            yield numbers
        else:
            rest += numbers
    if rest:
        yield rest
