"""Markdown whose text stays text: whatever a name holds, it makes no markup, no cell and no line of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..printable import one_line
from ..types import Facts
from .numbers import UNDEFINED, decimals, with_interval

_MARKUP = re.compile(r"([\\`*_\[\]#|~$!])")
_NUMBER = re.compile(rf"((-?\d[\d.,]*|{UNDEFINED})( \[[^\]]*\]| \([a-z]+\)| of \d+)?)?")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def text(value: object) -> str:
    """``value`` as the text of a line or cell; line ends become spaces, other control characters their escapes."""
    shown = one_line(_joined(value))
    escaped = _MARKUP.sub(r"\\\1", shown)
    escaped = "".join(_ENTITIES.get(c, c) for c in escaped)
    # A bare address or a mention would become a link.
    return escaped.replace("://", ":&#47;&#47;").replace("@", "&#64;").replace("www.", "www&#46;")


def code(value: object) -> str:
    """``value`` between as many backticks as it needs, on one line."""
    line = one_line(_joined(value))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _joined(value: object) -> str:
    return " ".join(str(value).splitlines())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table of cells that are Markdown already; columns of numbers are aligned to the right."""
    # A bare | ends a cell even inside code.
    body = [[re.sub(r"(?<!\\)\|", r"\|", cell) for cell in row] for row in rows]
    numeric = [all(_NUMBER.fullmatch(row[place]) for row in body) for place in range(len(columns))]
    rule = ["---:" if right and body else "---" for right in numeric]
    return [f"| {' | '.join(cells)} |" for cells in (columns, rule, *body)]


class Cells:
    """Numbers as cells. A number without an interval carries a letter, and ``notes`` says what each letter means."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def cell(self, entry: Facts, digits: int) -> str:
        """``value [low, high]``, or ``value (a)`` where (a) is the reason why there is no interval, or no value."""
        words = with_interval(entry["value"], entry, digits, decimals)
        if entry["value"] is not None and entry.get("low") is not None:
            return words
        reason = str(entry.get("reason") or "no interval for this number")
        return f"{words} ({self._reasons.setdefault(reason, _letter(len(self._reasons)))})"

    def notes(self) -> list[str]:
        """``(a) reason`` for each letter that was used."""
        return [f"({letter}) {reason}." for reason, letter in self._reasons.items()]


def _letter(number: int) -> str:
    """a to z, then aa, ab, ..."""
    first, last = divmod(number, 26)
    return (_letter(first - 1) if first else "") + chr(ord("a") + last)


def listed(cells: Cells) -> list[str]:
    """The notes of ``cells`` as a list."""
    return [f"- {text(note)}" for note in cells.notes()]
