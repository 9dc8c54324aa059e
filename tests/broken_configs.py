"""Configs that are wrong in one setting, made of right ones, and what becomes of a checkpoint that has one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

MISSING = object()

VALUES: tuple[tuple[str, Any], ...] = (
    ("missing", MISSING),
    ("null", None),
    ("text", "x"),
    ("empty text", ""),
    ("list", [1, 2]),
    ("empty list", []),
    ("list of null", [None]),
    ("object", {"a": 1}),
    ("empty object", {}),
    ("true", True),
    ("minus one", -1),
    ("zero", 0),
    ("huge", 10**9),
    ("beyond 64 bit", 2**70),
    ("fraction", 2.5),
    ("not a number", math.nan),
    ("infinite", math.inf),
)
"""What is put in the place of a setting, by what it is called."""


class Broken(NamedTuple):
    """A config with one setting changed: where, ``a.b`` being b inside a, and to what of `VALUES`, or nearby."""

    key: str
    change: str
    config: dict[str, Any]


def broken(config: dict[str, Any]) -> Iterator[Broken]:
    """Every setting of ``config``, those inside of others too, changed to each of `VALUES`, and to its neighbours."""
    for path, value in _settings(config, ()):
        for change, other in (*VALUES, *_near(value)):
            if type(other) is type(value) and other == value:
                continue
            copy: Any = deepcopy(config)
            place = copy
            for name in path[:-1]:
                place = place[name]
            if other is MISSING:
                del place[path[-1]]
            else:
                place[path[-1]] = deepcopy(other)
            yield Broken(".".join(path), change, copy)


def _settings(section: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in section.items():
        yield (*path, key), value
        if isinstance(value, dict):
            yield from _settings(value, (*path, key))


def _near(value: Any) -> Iterator[tuple[str, Any]]:
    """Values of the right type that are wrong."""
    if isinstance(value, bool):
        yield "the other", not value
    elif isinstance(value, int):
        yield "one more", value + 1
        yield "double", value * 2
        yield "as text", str(value)
        yield "as fraction", float(value)
    elif isinstance(value, float):
        yield "negative", -value
        yield "as text", str(value)
    elif isinstance(value, list) and value:
        yield "one less", value[:-1]
        yield "one more", [*value, value[-1]]
        yield "reversed", value[::-1]
        yield "of text", ["x" for _ in value]
        yield "nested", [value]
    elif isinstance(value, str):
        yield "misspelt", f"{value}x"
