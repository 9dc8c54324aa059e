"""What became of an input: accepted, or refused as a reader may refuse it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from mlx_moebench.cli import main
from mlx_moebench.errors import MoebenchError

ACCEPTED, REFUSED = "accepted", "refused"


@contextmanager
def quietly() -> Iterator[None]:
    """Sentences of this package are no errors here; warnings of other libraries are, as they tell nobody anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def reading(read: Callable[[], Any]) -> str:
    """Of a function: it returns, or raises one of this package's errors, with a sentence."""
    with quietly():
        try:
            read()
        except MoebenchError as error:
            sentence = str(error)
        else:
            return ACCEPTED
    assert sentence.strip(), "refused without a sentence"
    return REFUSED


def command(*arguments: object) -> str:
    """Of the command line: it succeeds, or stops with one sentence, and never with ``unforeseen``."""
    said, printed = io.StringIO(), io.StringIO()
    status: Any = 0
    with quietly(), redirect_stderr(said), redirect_stdout(printed):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
    text = said.getvalue()
    assert "unforeseen" not in text, text
    assert "Traceback" not in text, text
    if not status:
        return ACCEPTED
    assert text.count("Error: ") == 1, text
    return REFUSED
