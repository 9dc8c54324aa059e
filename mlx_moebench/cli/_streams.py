"""Stdout and stderr while a command runs: whoever writes, nothing written acts on the terminal."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..printable import one_line, printable

_UP = re.compile(r"(?:\x1b\[A)+")
"""What tqdm writes to go back to the line of an outer bar."""


class Guarded(io.TextIOBase):
    """A stream whose text goes to ``unguarded`` as `printable`.

    Colours are ours alone: what knows which text is another's (`show.tables.base.Terminal`) writes to ``unguarded``
    what it has made printable itself. Bars of other libraries go back to the beginning of their line, which they may
    where nothing else stands in it.
    """

    def __init__(self, unguarded: Any) -> None:
        self.unguarded = unguarded
        self._line, self._bar = False, False  # whether the line holds anything, and whether it is a bar

    def write(self, text: str) -> int:
        """Write all of ``text``; its length."""
        shown, free = text, ""
        if text.startswith("\r") and not text.startswith("\r\n") and (self._bar or not self._line):
            self._bar, free, shown = True, "\r", text[1:]
        elif self._bar and _UP.fullmatch(text):
            free, shown = text, ""
        shown = printable(shown.replace("\r\n", "\n"))
        if shown:
            last = shown.rpartition("\n")
            self._line = bool(last[2]) or (self._line and not last[1])
            self._bar = self._bar and not last[1]
        self.unguarded.write(free + shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush what is below."""
        self.unguarded.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return bool(self.unguarded.isatty())

    def fileno(self) -> int:
        """The descriptor, which nothing guards."""
        return int(self.unguarded.fileno())

    def writable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Leave the stream below open: it is the process's own."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream below."""
        return str(self.unguarded.encoding)

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """How the stream below treats what it cannot encode."""
        return getattr(self.unguarded, "errors", None)


@contextmanager
def guarded() -> Iterator[None]:
    """`sys.stdout` and `sys.stderr` are guarded while it lasts; None where the shell has closed one."""
    before = sys.stdout, sys.stderr
    try:
        for name, stream in zip(("stdout", "stderr"), before, strict=True):
            if stream is not None and not isinstance(stream, Guarded):
                setattr(sys, name, Guarded(stream))
        yield
    finally:
        sys.stdout, sys.stderr = before


def say(sentence: object, err: bool = False) -> None:
    """Print a sentence, which stays one line whatever names are in it."""
    click.echo(one_line(sentence), err=err)


def warn(sentence: object) -> None:
    """Print a warning on stderr, one line."""
    say(f"Warning: {sentence}", err=True)
