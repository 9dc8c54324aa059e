"""How a number is written, with its interval: once for tables, plots, pages and exports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

Write = Callable[[float, int], str]

UNDEFINED = "not defined"
"""What people read where a file has null: the number has no value there. The reason stands beside it or below."""


def with_interval(
    value: float | None, interval: Any = None, digits: int = 3, write: Write | None = None, ends: Write | None = None
) -> str:
    """``value [low, high]``; the value alone where there is no interval, `UNDEFINED` where there is no value, or NaN.

    interval: what has ``low`` and ``high``, as keys or as attributes. write: of the value, by default `number`; ends:
    of low and high, where that is another.
    """
    write = write or number
    if not _defined(value):
        return UNDEFINED
    low, high = _ends(interval)
    if not (_defined(low) and _defined(high)):
        return write(value, digits)
    ends = ends or write
    return f"{write(value, digits)} [{ends(low, digits)}, {ends(high, digits)}]"


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` decimals below 10, one above; `UNDEFINED` for None and NaN."""
    if not _defined(value):
        return UNDEFINED
    return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.1f}"


def decimals(value: float | None, digits: int = 3) -> str:
    """So many decimals, commas between thousands, no minus before a zero; `UNDEFINED` for None and NaN."""
    return f"{value:z,.{digits}f}" if _defined(value) else UNDEFINED


def signed(value: float | None, digits: int = 3) -> str:
    """`decimals` with the sign of what is not zero."""
    if not _defined(value):
        return UNDEFINED
    text = f"{value:+z,.{digits}f}"
    return text if text.strip("+0.") else text[1:]


def difference(value: float | None, interval: Any = None, digits: int = 4) -> str:
    """``+0.0031 [+0.0027, +0.0035]``; ``-2.8e-08 [-6.1e-08, +1.6e-09]`` where those digits would all be 0."""
    parts = filter(_defined, (value, *_ends(interval)))
    form = f"+.{digits}f" if any(abs(part) >= 0.5 * 10**-digits for part in parts) else "+.1e"
    return with_interval(value, interval, digits, lambda part, _: format(part, form) if part else "0")


def percent(level: float) -> str:
    """``95%``, ``99.5%``: of the level of an interval, which rounding would make a wrong one."""
    return f"{100 * level:g}%"


def share(value: float | None, digits: int = 0) -> str:
    """``98%``, ``12.5%``, ``3.1%``: a share as people say it, with two significant digits at least.

    What is not none and not all never reads as 0% or 100%.
    """
    if not _defined(value):
        return UNDEFINED
    size = 100 * value
    if 0 < size < 0.05:
        return "<0.1%"
    if 99.95 <= size < 100:
        return ">99.9%"
    places = max(digits, 0 if 9.95 <= size < 99.5 or size in (0, 100) else 1)
    return f"{size:.{places}f}%"


def even_share(value: float) -> str:
    """``12.5%``, ``6.25%``: K/E as it is."""
    return f"{100 * value:.3g}%"


def count(n: int, noun: str) -> str:
    """``1 token``, ``12,300 tokens``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _defined(value: float | None) -> TypeGuard[float]:
    return value is not None and value == value


def _ends(interval: Any) -> tuple[float | None, float | None]:
    if isinstance(interval, Mapping):
        return interval.get("low"), interval.get("high")
    return getattr(interval, "low", None), getattr(interval, "high", None)
