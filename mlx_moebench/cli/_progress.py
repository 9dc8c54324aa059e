"""Progress on stderr: what is being done, how far, how long still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..options import Step, quiet_step


@contextmanager
def progress(quiet: bool) -> Iterator[Step]:
    """A `Step` that draws one bar, or that does nothing when ``quiet``."""
    if quiet:
        yield quiet_step
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        current = ""

        def step(what: str, done: int, total: int) -> None:
            nonlocal current
            if what != current:  # a new phase restarts the clock, or its ETA would be that of the one before
                bar.reset(task)
                current = what
            bar.update(task, description=what, completed=done, total=total or None)

        yield step


def speaks(backend: str) -> bool:
    """Whether this process is the one to write and print: of several that share a measurement, the first."""
    from ..measure.backends import backend_named

    place = backend_named(backend).ranks()
    return place is None or place[0] == 0
