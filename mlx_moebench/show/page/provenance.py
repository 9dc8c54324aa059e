"""Where the numbers of a page come from, as lists of names and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from ...types import Facts
from ..domains import MOST_SHOWN
from ..inputs import Inputs, Run
from ..names import side_name

MODEL = (
    *("id", "revision", "model_type", "dtype", "weight_bits", "router_bits", "quantised_on_load", "backend"),
    *("fingerprint", "adapter", "routers_from"),
)
DATA = (
    *("name", "sha256", "format", "files", "skipped", "n_sequences", "n_tokens", "phase", "unit", "max_length", "long"),
    *("max_samples", "field", "bos", "padding", "imported"),
)


def provenance(inputs: Inputs) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, [(name, value)]) for each thing that was given: model, data, settings, environment and command."""
    parts = [(run.name, [*_report(run.report), *_domain_commands(run)]) for run in inputs.runs]
    known = {run.name for run in inputs.runs}
    for name, profile in inputs.profiles.items():
        if name not in known:
            parts.append((f"{name}, profile", list(_report({**profile, "environment": {}}))))
    parts += [_comparison(comparison) for comparison in inputs.comparisons]
    for report in inputs.uncertainties:
        parts.append((f"Uncertainty of {report['data']['name']}", list(_report(report))))
    for report in inputs.quants:
        arms = ", ".join(arm["arm"] for arm in report["arms"])
        rows = [("arms", arms), *_report(report)]
        parts.append((f"Quantised arms on {report['data']['name']}", rows))
    for report in inputs.dynamics:
        rows = [("checkpoints", ", ".join(str(one["name"]) for one in report["checkpoints"])), *_report(report)]
        parts.append((f"Checkpoints on {report['data']['name']}", rows))
    for report in inputs.testbeds:
        sizes = [row for size in report["sizes"] for row in _flat(size["preset"], size["settings"])]
        parts.append(("Routing testbed", [*sizes, *_flat("environment", report["environment"]), *_command(report)]))
    for training in inputs.trainings:
        rows = [*_flat("routing loss", (training.report.get("settings") or {}).get("routing_loss") or {})]
        parts.append((f"Training {training.name}", rows + _command(training.report)))
    return [(heading, rows) for heading, rows in parts if rows]


def _comparison(comparison: Facts) -> tuple[str, list[tuple[str, str]]]:
    a, b = (side_name(comparison[side]) for side in ("a", "b"))
    rows = [("A", a), ("B", b), *_flat("settings", comparison["settings"])]
    return f"Comparison of {a} and {b}", rows + _command(comparison)


def _report(report: Facts) -> Iterator[tuple[str, str]]:
    model, data = report["model"], report["data"]
    for key in MODEL:
        if model.get(key) is not None:
            yield f"model {key}", _words(model[key])
    for source in data.get("sources", [data]):
        for key in DATA:
            if source.get(key) is not None:
                yield f"data {key}", _words(source[key])
    yield from _flat("settings", report.get("settings", {}))
    yield from _flat("environment", {k: v for k, v in report.get("environment", {}).items() if k != "command"})
    yield from _command(report.get("environment", {}))


def _domain_commands(run: Run) -> Iterator[tuple[str, str]]:
    """How each domain was measured, where that is not the command of the whole run."""
    whole = _command(run.report.get("environment", {}))
    for domain in islice(run.domains, MOST_SHOWN):
        command = _command(run.domains[domain].get("environment", {}))
        if command != whole:
            yield from ((f"{name}, {domain}", value) for name, value in command)


def _flat(prefix: str, settings: Facts) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix} {key}", value)
        elif value is not None:
            yield f"{prefix} {key}", _words(value)


def _command(holder: Facts) -> list[tuple[str, str]]:
    return [("command", str(holder["command"]))] if holder.get("command") else []


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items() if entry is not None)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
