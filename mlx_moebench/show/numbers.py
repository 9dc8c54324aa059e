"""Numbers as the cells of tables show them."""

from __future__ import annotations

from typing import Any

from rich.markup import escape


def with_interval(value: float | None, ci: dict[str, Any] | None, digits: int = 3) -> str:
    """``value [low, high]``; the value alone where there is no interval, ``null`` where there is no value."""
    if value is None:
        return "null"
    if not ci or ci["low"] is None:
        return number(value, digits)
    low, high = number(ci["low"], digits), number(ci["high"], digits)
    return escape(f"{number(value, digits)} [{low}, {high}]")


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` decimals below 10, one above; ``null`` for None."""
    if value is None:
        return "null"
    return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.1f}"


def percent(level: float) -> str:
    """``95%``, ``99.5%``: of the level of an interval, which rounding would make a wrong one."""
    return f"{100 * level:g}%"


def count(n: int, noun: str) -> str:
    """``1 token``, ``12,300 tokens``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
