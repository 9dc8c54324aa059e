"""Prose with numbers from JSON files: a template names where each number stands, so that text and files cannot drift.

A template is Jinja: ``{{ read("profiles/nano.json").models[0].name }}``; ``read`` gives a CSV file as a list of rows.
Numbers go through the filters below, which show the interval, or say why there is none. ``{{ claim(...) }}`` stands
beside a sentence that holds only if its argument does: where new numbers contradict the words, the page is not made.
"""

from __future__ import annotations

import csv
import json
import math
import re
import textwrap
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from mlx_moebench.errors import DataError
from mlx_moebench.show.numbers import decimals, signed, with_interval


def estimate(entry: Mapping[str, Any], digits: int = 3, scale: float = 1.0) -> str:
    """``value [low, high]`` of {value, low, high} (or ``effect``, ``rho``); the reason where there is none."""
    value = next(entry[key] for key in ("value", "effect", "rho") if key in entry)
    if value is None:
        return f"null ({entry.get('reason', 'undefined')})"
    write = signed if "effect" in entry else decimals
    if entry.get("low") is None:
        return f"{write(value * scale, digits)} (no interval: {entry.get('reason', 'none was made')})"
    ends = {end: entry[end] * scale for end in ("low", "high")}
    return with_interval(value * scale, ends, digits, write)


def percent(entry: Mapping[str, Any], digits: int = 1) -> str:
    """`estimate` of a share, in percent; the unit stands behind."""
    return f"{estimate(entry, digits, 100)}%"


def percent_cell(entry: Mapping[str, Any], digits: int = 1) -> str:
    """`percent` for the cell of a table: no unit, and a dash where there is no interval."""
    if entry.get("low") is None:
        return f"{decimals(entry['value'] * 100, digits)} -"
    return estimate(entry, digits, 100)


def listed(values: list[float], digits: int = 3) -> str:
    """``1.2, 3.4``."""
    return ", ".join(decimals(value, digits) for value in values)


def p_value(p: float, digits: int = 3) -> str:
    """``0.012``, or ``< 0.001``."""
    return f"{p:.{digits}f}" if p >= 10**-digits else f"< {10**-digits:g}"


def _claim(holds: bool) -> str:
    if not holds:
        raise ValueError("a claim does not hold any more: mend the sentence beside it")
    return ""


WIDTH = 120
_WRAP: dict[str, Any] = {"width": WIDTH, "break_long_words": False, "break_on_hyphens": False}
_BLOCK = re.compile(r"[|#<]|- |\d+\. ")

FILTERS: dict[str, Callable[..., Any]] = {
    "ci": estimate,
    "percent": percent,
    "percent_cell": percent_cell,
    "num": decimals,
    "listed": listed,
    "p": p_value,
    "median": lambda values: median(list(values)),
    "ln": math.log,
}


def _rows(text: str) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header; cells that are numbers become them, empty ones None."""

    def cell(value: str) -> Any:
        try:
            return float(value) if value else None
        except ValueError:
            return value

    return [{key: cell(value) for key, value in row.items()} for row in csv.DictReader(text.splitlines())]


def render_notes(template: Path, results: Path) -> str:
    """The text of ``template`` with its numbers, read from the files below ``results``.

    Raises `DataError` with one sentence for a file or a number that is not there.
    """
    kept: dict[str, Any] = {}

    def read(name: str) -> Any:
        if name not in kept:
            text = (results / name).read_text(encoding="utf-8")
            kept[name] = _rows(text) if name.endswith(".csv") else json.loads(text)
        return kept[name]

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= FILTERS
    environment.globals |= {"read": read, "claim": _claim}
    try:
        return _wrapped(environment.from_string(template.read_text(encoding="utf-8")).render())
    except (OSError, ValueError, KeyError, TypeError, StopIteration, jinja2.TemplateError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == "<template>"), "?")
        raise DataError(f"{template}, line {line}, cannot be filled in from {results}: {error}.") from error


def _wrapped(text: str) -> str:
    """Paragraphs in lines of `WIDTH`, one blank line at most; tables, headings and lists as they are."""
    parts: list[list[str]] = [[]]
    for line in (line.strip() for line in text.splitlines()):
        if not line or _BLOCK.match(line):
            parts += [[line], []]
        else:
            parts[-1].append(line)
    lines = (
        line
        for part in parts
        for line in (
            part if not part or _BLOCK.match(part[0]) or part == [""] else textwrap.wrap(" ".join(part), **_WRAP)
        )
    )
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
