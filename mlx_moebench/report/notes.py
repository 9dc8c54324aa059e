"""Prose with numbers from JSON files: a template names where each number stands, so that text and files cannot drift.

A template is Jinja: ``{{ read("profiles/nano.json").models[0].name }}``. Numbers go through the filters below, which
show the interval, or say why there is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from ..errors import DataError


def with_interval(entry: Mapping[str, Any], digits: int = 3, scale: float = 1.0) -> str:
    """``value [low, high]`` of {value, low, high} (or ``effect``, ``rho``); the reason where there is none."""
    value = next(entry[key] for key in ("value", "effect", "rho") if key in entry)
    if value is None:
        return f"null ({entry.get('reason', 'undefined')})"
    sign = "+" if "effect" in entry else ""
    if entry.get("low") is None:
        return f"{number(value * scale, digits, sign)} (no interval: {entry.get('reason', 'none was made')})"
    low, high = (number(entry[key] * scale, digits, sign) for key in ("low", "high"))
    return f"{number(value * scale, digits, sign)} [{low}, {high}]"


def percent(entry: Mapping[str, Any], digits: int = 1) -> str:
    """`with_interval` of a share, in percent; the unit stands behind."""
    return f"{with_interval(entry, digits, 100)}%"


def number(value: float, digits: int = 3, sign: str = "") -> str:
    """With so many decimals, thousands apart, and no minus before a zero."""
    return f"{round(value, digits) + 0.0:{sign},.{digits}f}"


def listed(values: list[float], digits: int = 3) -> str:
    """``1.2, 3.4``."""
    return ", ".join(number(value, digits) for value in values)


def least(p: float, digits: int = 3) -> str:
    """A p-value: ``p = 0.012``, or ``p < 0.001``."""
    return f"p = {p:.{digits}f}" if p >= 10**-digits else f"p < {10**-digits:g}"


FILTERS: dict[str, Callable[..., str]] = {
    "ci": with_interval,
    "percent": percent,
    "num": number,
    "listed": listed,
    "p": least,
}


def render_notes(template: Path, results: Path) -> str:
    """The text of ``template`` with its numbers, read from the files below ``results``.

    Raises `DataError` with one sentence for a file or a number that is not there.
    """
    kept: dict[str, Any] = {}

    def read(name: str) -> Any:
        if name not in kept:
            kept[name] = json.loads((results / name).read_text(encoding="utf-8"))
        return kept[name]

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= FILTERS
    environment.globals["read"] = read
    try:
        return environment.from_string(template.read_text(encoding="utf-8")).render()
    except (OSError, ValueError, KeyError, TypeError, StopIteration, jinja2.TemplateError) as error:
        raise DataError(
            f"{template} cannot be filled in from {results} ({error!r}): make the results again."
        ) from error
