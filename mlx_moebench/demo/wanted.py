"""What the page may ask to be run: its own functions, with what its widgets hold, and nothing beside."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..types import Json
from .gate import SESSION, Refused

LONGEST = 200_000
"""Characters that a text box takes; far more than is run."""

MOST_BYTES = 2 * 12 * LONGEST + 10_000
"""Of a request: two texts, of which JSON may write every character as two escapes."""

TEXTS, BOXES = 4, 1
"""Inputs of the page's functions: model, mode and two texts, or the mode, which says what boxes there are."""


def too_long(*texts: str) -> str | None:
    """Why texts are not run, in one sentence; None where they may be."""
    for name, text in zip(("The text", "Text B"), texts, strict=False):
        if len(text) > LONGEST:
            return f"{name} has {len(text):,} characters, and at most {LONGEST:,} are taken: shorten it."
    return None


class Wanted:
    """Checks what a page sent to be run.

    functions: of each function, by its number, how many inputs it has. names, modes: what the widgets offer.
    """

    def __init__(self, functions: Mapping[int, int], names: Collection[str], modes: Collection[str]) -> None:
        self._functions = {number: inputs for number, inputs in functions.items() if inputs in (TEXTS, BOXES)}
        self._names, self._modes = names, modes

    def __call__(self, asked: Any) -> Json:
        """What Gradio is told; raises `Refused`."""
        if not isinstance(asked, dict):
            raise Refused(400, "The request is no JSON object.")
        session, number, data = (asked.get(key) for key in ("session_hash", "fn_index", "data"))
        if not isinstance(session, str) or not SESSION.fullmatch(session):
            raise Refused(400, "Say which session_hash asks.")
        if isinstance(number, bool) or not isinstance(number, int) or number not in self._functions:
            raise Refused(404, "The page has no such function.")
        if not isinstance(data, list) or len(data) != self._functions[number]:
            raise Refused(400, "The function takes another number of inputs.")
        self._check(data)
        trigger = asked.get("trigger_id")
        return {
            "data": data,
            "fn_index": number,
            "session_hash": session,
            "trigger_id": trigger if isinstance(trigger, int) else None,
            "event_data": None,
        }

    def _check(self, data: list[Any]) -> None:
        if not all(isinstance(one, str) for one in data):
            raise Refused(400, "Every input of the page is text.")
        model, mode, *texts = data if len(data) == TEXTS else (None, *data)
        if model is not None and model not in self._names:
            raise Refused(400, "There is no such model here.")
        if mode not in self._modes:
            raise Refused(400, "There is nothing of that kind to show.")
        if (why := too_long(*texts)) is not None:
            raise Refused(413, why)
        if any("\ud800" <= c <= "\udfff" for text in texts for c in text):
            raise Refused(400, "A text holds half a character, a lone surrogate: take it out.")
