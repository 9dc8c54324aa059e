"""What a page shows against what was printed: words alike, numbers up to the rounding of another machine."""

from __future__ import annotations

import re

import pytest

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
LEFT_OUT = "..."
"""A line that stands for any lines."""


def split(text: str) -> tuple[str, list[float]]:
    """(the words, the numbers) of an output; spaces count for nothing, as the widths of numbers change."""
    numbers = [float(number.replace(",", "")) for number in NUMBER.findall(text)]
    return "".join(NUMBER.sub("#", text).split()), numbers


def same(shown: str, printed: str) -> bool:
    """Whether two texts have the same words, and numbers that differ by no more than rounding."""
    (words, numbers), (other_words, others) = split(shown), split(printed)
    return words == other_words and others == pytest.approx(numbers, rel=0.02, abs=2e-3)


def missing(shown: str, printed: str) -> str | None:
    """The first of the shown lines that was not printed where it stands, or None; `LEFT_OUT` stands for any lines."""
    lines, at, anywhere = [line for line in printed.splitlines() if line.strip()], 0, False
    for line in (line for line in shown.splitlines() if line.strip()):
        if line.strip() == LEFT_OUT:
            anywhere = True
            continue
        window = lines[at:] if anywhere else lines[at : at + 1]
        place = next((number for number, other in enumerate(window) if same(line, other)), None)
        if place is None:
            return line
        at, anywhere = at + place + 1, False
    return None if anywhere or at == len(lines) else f"{lines[at]} (printed, and not shown)"
