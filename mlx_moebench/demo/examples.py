"""Texts to begin with: one click, and something is seen."""

from __future__ import annotations

from typing import NamedTuple

from .routed import MODES, Mode


class Example(NamedTuple):
    """What a button puts into the widgets."""

    name: str
    mode: Mode
    a: str
    b: str = ""


PROSE = "A router sends every token to a few experts.\n"
EXAMPLE_B = "Sum the squares of the first ten integers: 1 + 4 + 9 + ... + 100 = 385."

EXAMPLES = (
    Example("Prose and code", MODES[0], f"{PROSE}for i in range(10):\n    print(i ** 2)\n"),
    Example("A sum", MODES[0], "Question: What is 12 + 30?\nAnswer: 12 + 30 ="),
    Example("A story to go on with", MODES[0], "Once upon a time there was a farmer who"),
    Example("One word, twice", MODES[1], "She sat on the bank of the river.", "He works in the bank of the town."),
    Example("A name, changed", MODES[1], "def area(width): return width * 2", "def area(height): return height * 2"),
    Example("Three scripts", MODES[0], "The sheep, die Schäfchen, 羊, овцы."),
)  # fmt: skip
