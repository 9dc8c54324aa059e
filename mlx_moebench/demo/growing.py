"""Texts that the model goes on with: a line for every token as it comes, and the whole page at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..checkpoints import Checkpoint
from ..measure.text import Grown, Heard, RoutedText, continue_text
from ..routing.record import RouterSpec
from ..routing.tokens import TokenSequence
from ..show.numbers import count
from .routed import MODES, Mode, Models, Shown, Side, shown_of, sides_of

NEW_TOKENS = 64
"""Tokens that a text is continued by, at most."""


def grow(
    models: Models,
    name: str,
    mode: Mode,
    texts: Sequence[str],
    max_tokens: int,
    tell: Callable[[str], bool],
    new_tokens: int = NEW_TOKENS,
) -> Shown:
    """Continue the texts of ``mode`` greedily, one after the other, and make what the page shows of them.

    tell: is given JSON lines, which `header` and `line` make, and says whether to go on. Load and numbers are those of
    what was generated, beside the prompt's where there is one text alone. Raises `MoebenchError` subclasses with one
    sentence.
    """
    every = sides_of(models, name, mode, texts)
    names = [f"{side.name}, generated" if len(every) > 1 else "generated" for side in every]
    parts = [
        _continued(side, called, max_tokens, new_tokens, _telling(every, n, tell))
        for n, (side, called) in enumerate(zip(every, names, strict=True))
    ]
    sequences = []
    for number, (prompt, made) in enumerate(parts):
        sequences += [prompt.tokens, replace(made.tokens, after=2 * number)]
    if mode == MODES[2]:
        sequences[2] = replace(sequences[2], against=0)
    sides = [made for _, made in parts] if len(parts) == 2 else list(parts[0])
    said = f"What is generated is the most probable token each time, at most {count(new_tokens, 'token')}."
    return shown_of(sides, sequences, mode, said)


def _continued(
    side: Side, made_name: str, max_tokens: int, new_tokens: int, heard: Heard
) -> tuple[RoutedText, RoutedText]:
    """Prompt and what was generated of one side; of both, what was cut off is said."""

    def run(checkpoint: Checkpoint, text: str, name: str) -> tuple[RoutedText, RoutedText]:
        return continue_text(checkpoint, text, name=name, max_tokens=max_tokens, new_tokens=new_tokens, heard=heard)

    prompt, made = side.run(run)
    return prompt, replace(made, tokens=replace(made.tokens, name=made_name), cut=prompt.cut)


def _telling(sides: Sequence[Side], number: int, tell: Callable[[str], bool]) -> Heard:
    """Tells the tokens of one side; the first of the first side comes after the header."""

    def heard(grown: Grown) -> bool:
        tokens = grown.tokens
        lines = [header(sides, grown.specs)] if number == tokens.start == 0 else []
        for place in range(len(tokens.texts)):
            lines.append(line(number, tokens, place, tokens.start + place >= grown.prompt))
        return tell("".join(lines))

    return heard


def header(sides: Sequence[Side], specs: Sequence[RouterSpec]) -> str:
    """The first line: which sides and routers there are."""
    routers = [{"layer": s.layer, "router": s.router, "n_experts": s.n_experts} for s in specs]
    return json.dumps({"growing": [side.name for side in sides], "routers": routers}) + "\n"


def line(side: int, tokens: TokenSequence, place: int, made: bool) -> str:
    """The line of one token: its side, its text, whether it was generated, first experts and weights of all routers."""
    first = [int(choices.experts[place, 0]) for choices in tokens.choices]
    weights = [float(f"{choices.weights[place, 0]:.4g}") for choices in tokens.choices]
    return json.dumps([side, tokens.texts[place], int(made), first, weights]) + "\n"
