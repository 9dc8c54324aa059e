"""What every metric means: its label, unit, range and interval, from where it is declared."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from ...routing.metrics import METRICS
from ...routing.metrics.registry import IntervalKind
from ...types import Json
from .base import Terminal, plain_table

GROUPS = {
    "entropy": "How spread routing is",
    "load": "How selections are shared out",
    "margin": "How close decisions were",
    "structure": "From token to token",
}
"""The heading of each group of metrics."""

INTERVALS: dict[IntervalKind, str] = {
    "mean": "Interval: bootstrap of a mean.",
    "maximum": "Interval: of the largest of many shares.",
    "plugin": "Shown corrected; interval from random halves.",
    "distance": "Shown corrected as a square; interval from random halves.",
    "none": "No interval.",
}
"""How each kind of interval is made, in words."""

FIELDS = ("Formula", "Unit", "Range", "Null", "Source")
"""What the docstring of a metric says, each a paragraph of its own."""


def parts(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """(summary, {field: text}) of a docstring, without its examples."""
    text = (inspect.getdoc(function) or "").split("\n>>>")[0]
    text = re.sub(r" Returns\s[^.]*\.\.\.[^.]*\.", "", text)  # of use in Python only
    summary, _, rest = text.partition("\n\n")
    sections = dict(re.findall(rf"^({'|'.join(FIELDS)}): (.*?)(?=^\w+: |\Z)", rest, flags=re.DOTALL | re.MULTILINE))
    return " ".join(summary.split()), {field: " ".join(value.split()) for field, value in sections.items()}


def described() -> list[Json]:
    """Every metric, in the order of its group."""
    return [
        {
            "name": metric.name,
            "group": metric.group,
            "label": metric.label,
            "unit": metric.unit,
            "range": fields["Range"].partition(";")[0].rstrip("."),
            "interval": metric.interval,
            "interval_meaning": INTERVALS[metric.interval],
            "meaning": summary,
            "formula": fields["Formula"],
            "undefined_or_by_chance": fields["Null"],
        }
        for group in GROUPS
        for metric in METRICS.values()
        if metric.group == group
        for summary, fields in [parts(metric.function)]
    ]


def print_metrics(metrics: list[Json], console: Console | None = None) -> None:
    """A table of each group, and what the kinds of interval are."""
    (console or Terminal(highlight=False)).print(render(metrics))


def render(metrics: list[Json]) -> Group:
    """What `described` returns as one rich renderable."""
    blocks: list[Any] = []
    for group, heading in GROUPS.items():
        table = plain_table(heading)
        for column in ("metric", "unit and range", "interval", "meaning"):
            table.add_column(column)
        for metric in (one for one in metrics if one["group"] == group):
            size = f"{metric['unit']}, {metric['range']}"
            table.add_row(*map(Text, (metric["name"], size, metric["interval"], _meaning(metric))))
        blocks += [table, Text()] if table.row_count else []
    kinds = [f"{kind}: {words}" for kind, words in INTERVALS.items() if any(one["interval"] == kind for one in metrics)]
    return Group(*blocks, *map(Text, kinds))


def _meaning(metric: Json) -> str:
    """The label, and the first line of the docstring where that says more."""
    label, meaning = metric["label"], metric["meaning"].replace("`", "")
    return meaning if meaning.casefold().startswith(label.casefold()) else f"{label}: {meaning}"
