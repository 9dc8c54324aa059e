"""Models on zero-shot tasks and text: a table for a terminal, and every number as a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group

from ...types import Json
from ..numbers import count, decimals, percent, with_interval
from .base import Terminal, plain_table, sentences

TEXT = "text"
COLUMNS = (
    *("model", "run", "place", "task", "metric", "value", "low", "high", "over", "method", "n"),
    "reason",
)
"""Columns of the tidy table; ``over`` says of what the interval is: questions, documents or seeds."""


def print_runs(report: Json, console: Console | None = None) -> None:
    """Print a row for each model: its perplexity, its accuracies, their mean and its average rank."""
    (console or Terminal()).print(render(report))


def render(report: Json) -> Group:
    """The table and its notes as one rich renderable."""
    several = any(model["seeds"] > 1 for model in report["models"])
    names = list(report["models"][0]["results"]) if report["models"] else []
    heads = {name: task["label"] for name, task in report["tasks"].items()} | {TEXT: "perplexity"}
    table = plain_table()
    table.add_column("model", no_wrap=True)
    order = list(dict.fromkeys(name for name in (TEXT, *names) if name in names))
    for name in order:
        table.add_column(heads.get(name, name), no_wrap=True)
    ranked = any(model["rank"]["value"] is not None for model in report["models"])
    for head in ("mean of tasks", *(["average rank"] if ranked else [])):
        table.add_column(head, no_wrap=True)
    for model in report["models"]:
        (first, *_) = [run for run in report["runs"] if run["name"] == model["name"]]
        cells = [model["name"]]
        for name in order:
            own = first["results"][name]
            entry = model["results"][name] if several else own["perplexity"] if name == TEXT else own
            cells.append(with_interval(entry["value"], entry, 2 if name == TEXT else 3, decimals))
        cells.append(_mean(model, several))
        cells += [with_interval(model["rank"]["value"], model["rank"], 2, decimals)] if ranked else []
        table.add_row(*cells)
    if report["tasks"]:
        table.add_section()
        chances = [decimals(task["chance"], 3) for task in report["tasks"].values()]
        table.add_row("guessing", *([""] if TEXT in names else []), *chances)
    return Group(sentences([_heading(report)], "bold"), table, sentences(_notes(report, several), "dim"))


def _mean(model: Json, several: bool) -> str:
    entry = model.get("average")
    return "" if entry is None else with_interval(entry["value"], entry if several else None, 3, decimals)


def _heading(report: Json) -> str:
    asked = [f"{task['label']} ({task['n']:,})" for task in report["tasks"].values()]
    asked += [f"{name} of lm-evaluation-harness" for name in report["harness"]]
    asked += [f"perplexity on {report['text']['name']}"] if report["text"] else []
    return f"{count(len(report['runs']), 'run')} of {count(len(report['models']), 'model')}: {', '.join(asked)}"


def _notes(report: Json, several: bool) -> Iterator[str]:
    if not report["complete"]:
        yield "unfinished: --resume continues it."
    level = percent(report["settings"]["ci"]["level"])
    if report["tasks"]:
        yield (
            "As LibMoE scores: the right choice has the highest log-likelihood per token (of BLiMP: in all); "
            "of LAMBADA every token of the last word is the likeliest; BLiMP and RACE are means over their groups."
        )
    if several:
        yield f"[low, high]: {level}, over the seeds of a model; the JSON has those over questions of each run."
    else:
        yield f"[low, high]: {level}, for other questions of these tasks, or other documents of this text."
    if any(model["rank"]["value"] is not None for model in report["models"]):
        yield "Average rank over the tasks, 1 the best, equal scores sharing theirs; perplexity is not ranked."
    cut = sum(one.get("truncated", 0) for run in report["runs"] for one in run["results"].values())
    if cut:
        yield f"{count(cut, 'question')} had to be cut to fit a model's positions."


def tidy_rows(report: Json) -> Iterator[Json]:
    """Every number of a report as a row of `COLUMNS`: of each run, then of each model over its seeds."""
    seen: dict[str, int] = {}
    for run in report["runs"]:
        seed = seen[run["name"]] = seen.get(run["name"], -1) + 1
        about = {"model": run["name"], "run": seed, "place": run["place"]}
        for task, result in run["results"].items():
            for metric, entry, over, n in _numbers(task, result):
                yield about | {"task": task, "metric": metric, "over": over, "n": n} | _ends(entry)
    for model in report.get("models", ()):
        about = {"model": model["name"], "over": "seeds", "n": model["seeds"]}
        for task, entry in model["results"].items():
            metric = "perplexity" if task == TEXT else "accuracy"
            yield about | {"task": task, "metric": metric} | _ends(entry)
        for name in ("average", "rank"):
            if name in model:
                yield about | {"metric": name} | _ends(model[name])


def _numbers(task: str, result: Json) -> Iterator[tuple[str, Any, str, int]]:
    if task == TEXT:
        for name in ("loss", "perplexity"):
            yield name, result[name], "documents", result["n_tokens"]
        return
    yield str(result.get("metric", "accuracy")), result, "questions", result["n"]
    for rule, entry in result.get("by_rule", {}).items():
        yield f"accuracy.{rule}", entry, "questions", result["n"]


def _ends(entry: Json) -> Json:
    return {key: entry.get(key) for key in ("value", "low", "high", "method", "reason")}
