"""A report of ``evaluate`` as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...types import Json
from ..names import model_name
from ..numbers import count, decimals, percent, signed, with_interval
from .base import Terminal, plain_table, sentences


def print_evaluation(report: Json, console: Console | None = None) -> None:
    """Print one row per subject, or per metric of a task, then the summary, each number with its interval."""
    console = console or Terminal()
    console.print(render(report))


def render(report: Json) -> Group:
    """The tables of a report as one rich renderable."""
    if report["task"] != "mmlu":
        return Group(_heading(report), _tasks(report), _task_notes(report))
    compared = report.get("compared")
    parts: list[Any] = [_heading(report), _subjects(report), _summary(report["results"], compared)]
    parts += [_comparison(report["comparison"])] if "comparison" in report else []
    return Group(*parts, _notes(report))


def _heading(report: Json) -> Text:
    data, settings = report["data"], report["settings"]
    name = model_name(report["model"])
    if report["task"] != "mmlu":
        return sentences([f"{name} on {report['task']}, by lm-evaluation-harness {data['lm_eval']}"], "bold")
    if "compared" in report:
        name += f", and with {report['compared']['model']['adapter']['name']}"
    n = count(report["results"]["n"], "question")
    subjects = count(len(report["subjects"]), "subject")
    return sentences([f"{name} on MMLU ({data['split']}): {n} of {subjects}, {settings['shots']}-shot"], "bold")


def _subjects(report: Json) -> Table:
    compared = report.get("compared")
    table = plain_table()
    table.add_column("subject", no_wrap=True)
    table.add_column("n", justify="right")
    if not compared:  # or the longest subject would not fit a terminal of 80 columns
        table.add_column("right", justify="right")
    table.add_column("accuracy, share", no_wrap=True)
    if compared:
        table.add_column("with adapter", no_wrap=True)
    others = {entry["subject"]: entry for entry in compared.get("subjects", ())} if compared else {}
    for entry in report["subjects"]:
        cells = [entry["subject"], f"{entry['n']:,}"]
        cells += [] if compared else [f"{entry['correct']:,}"]
        cells.append(with_interval(entry["accuracy"], entry, 2, decimals))
        if entry["subject"] in others:
            other = others[entry["subject"]]
            cells.append(with_interval(other["accuracy"], other, 2, decimals))
        table.add_row(*cells)
    return table


def _summary(results: Json, compared: Json | None) -> Table:
    table = plain_table("Summary", show_header=False)
    for name, words in (("macro", "Accuracy, mean of subjects (macro)"), ("micro", "Accuracy, all questions (micro)")):
        entry = results[f"{name}_accuracy"]
        table.add_row(words, with_interval(entry["value"], entry, 3, decimals), "share")
        if compared:
            entry = compared["results"][f"{name}_accuracy"]
            table.add_row("  with the adapter", with_interval(entry["value"], entry, 3, decimals), "share")
    table.add_row("Guessing", f"{results['chance']:.3f}", "share")
    shots = results["shots"]
    table.add_row("Shots used", f"mean {shots['mean']:.2f}, min {shots['min']}, max {shots['max']}", "examples")
    if results["truncated"]:
        table.add_row("Cut to fit, from the front", f"{results['truncated']:,}", "questions")
    if results["ties"]:
        table.add_row("Ties, the first letter taken", f"{results['ties']:,}", "questions")
    return table


def _comparison(comparison: Json) -> Table:
    table = plain_table("With the adapter minus without, same questions", show_header=False)
    for name in ("macro", "micro"):
        entry = comparison[f"{name}_difference"]
        table.add_row(f"Difference ({name})", with_interval(entry["value"], entry, 3, signed), "share")
    pairs, seen = comparison["mcnemar"], comparison["smallest_detectable"]
    table.add_row("Right only without, only with", f"{pairs['first_only']:,}, {pairs['second_only']:,}", "questions")
    table.add_row("McNemar's exact test", f"{pairs['p_value']:.3g}", "p")
    for name in ("macro", "micro"):
        if seen[name] is not None:
            table.add_row(f"Smallest detectable ({name})", f"{seen[name]:.3f}", "share, at 80% power")
            needed = seen["questions_for_one_point"][name]
            table.add_row("  to detect one point (0.010)", f"{needed:,}", "questions")
    return table


def _notes(report: Json) -> Text:
    results, data = report["results"], report["data"]
    lines = [] if report["complete"] else ["unfinished: evaluate --resume continues it."]
    lines.append(results["reading"])
    if "compared" in report:
        lines.append(f"With the adapter: {report['compared']['results']['reading']}")
    if data["preset"]:
        lines.append(f"{data['preset']}: {data['preset_note']}")
    lines += [f"Warning: {warning}" for warning in report["model"].get("warnings", [])]
    entries = [results["macro_accuracy"], *report["subjects"]]
    if "comparison" in report:
        comparison = report["comparison"]
        entries.append(comparison["macro_difference"])
        reason = comparison["smallest_detectable"].get("reason")
        lines += [f"No smallest detectable difference: {reason}."] if reason else []
    lines += [f"Note: {reason}." for reason in dict.fromkeys(e["reason"] for e in entries if e.get("reason"))]
    ci = report["settings"]["ci"]
    lines.append(
        f"[low, high]: {percent(ci['level'])}, for other questions on the same subjects: Wilson's for a subject, for "
        f"averages a bootstrap of {ci['resamples']:,} resamples of the questions inside each subject."
    )
    return sentences(lines, "dim")


def _tasks(report: Json) -> Table:
    table = plain_table()
    for column in ("task", "documents", "shots", "metric", "value"):
        table.add_column(column, justify="right" if column in ("documents", "shots") else "left", no_wrap=True)
    for task, metrics in report["results"].items():
        facts = report["data"]["tasks"].get(task, {})
        for name, entry in metrics.items():
            n, shots = facts.get("n"), facts.get("shots")
            cells = ["-" if x is None else f"{x:,}" for x in (n, shots)]
            table.add_row(task, *cells, name, with_interval(entry["value"], entry, 3, decimals))
    return table


def _task_notes(report: Json) -> Text:
    entries = [entry for metrics in report["results"].values() for entry in metrics.values()]
    lines = [f"Warning: {warning}" for warning in report["model"].get("warnings", [])]
    lines += [f"Note: {reason}." for reason in dict.fromkeys(e["reason"] for e in entries if e.get("reason"))]
    lines.append("[low, high]: 95%, 1.96 of the harness's standard errors to either side.")
    return sentences(lines, "dim")
