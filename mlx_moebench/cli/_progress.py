"""Progress on stderr: what is being done, how far, how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ..options import LISTENER, Step, quiet_step
from ..printable import one_line
from ._streams import guarded, say

SECONDS = 30.0
"""Between two lines of progress in a log, where there is no terminal to draw a bar on."""


@contextmanager
def progress(quiet: bool, first: float | None = None) -> Iterator[Step]:
    """A `Step` that draws one bar, or writes a line now and then to a log, or does nothing when ``quiet``.

    What happens meanwhile inside of others, as downloads, is told to it, too. first: seconds until a log gets a line,
    `SECONDS` unless given.
    """
    with _steps(quiet, SECONDS if first is None else first) as step:
        before = LISTENER.set(step)
        try:
            yield step
        finally:
            LISTENER.reset(before)


def _steps(quiet: bool, first: float) -> AbstractContextManager[Step]:
    if quiet:
        return nullcontext(quiet_step)
    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext(_logged(first))
    return _bar()


def _logged(first: float) -> Step:
    spoke = time.monotonic() - SECONDS + first

    def step(what: str, done: int, total: int) -> None:
        nonlocal spoke
        if time.monotonic() - spoke >= SECONDS and sys.stderr is not None:
            spoke = time.monotonic()
            say(f"{what}{f': {done:,} of {total:,}' if total else ''}", err=True)

    return step


@contextmanager
def _bar() -> Iterator[Step]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    from ..show.tables.base import Terminal

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Rich puts streams of its own in the place of ours, which are guarded again: it reads colours out of what it gets.
    with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar, guarded():
        task = bar.add_task("", total=None)
        current = ""

        def step(what: str, done: int, total: int) -> None:
            nonlocal current
            if what != current:  # a new phase restarts the clock, or its ETA would be that of the one before
                bar.reset(task)
                current = what
            bar.update(task, description=one_line(what), completed=done, total=total or None)

        yield step


def speaks(backend: str) -> bool:
    """Whether this process is the one to write and print: of several that share a measurement, the first."""
    from ..measure.backends import backend_named

    place = backend_named(backend).ranks()
    return place is None or place[0] == 0
