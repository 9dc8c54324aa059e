"""How a command ends that makes one report: where it is written, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import click

from ..types import Json
from ._options import hold
from ._streams import say, warn


class Places(NamedTuple):
    """Where a report goes besides the terminal: as JSON, as a table, as a picture."""

    output: Path | None = None
    csv: Path | None = None
    plot: Path | None = None

    def check(self, kind: str, names: Collection[str], columns: Collection[str] = ()) -> None:
        """Raise where one cannot be written, and be the one process that writes the output. kind: ``report of loss``,
        which has the keys ``names``; columns: of its table."""
        from ..files import check_output

        if self.output:
            hold(self.output)
            check_output(self.output, ".json", kind, names)
        if self.csv:
            check_output(self.csv, ".csv", kind, columns)
        if self.plot:
            from ..show.plots import check_plot

            check_plot(self.plot)


def deliver(
    report: Json,
    show: Callable[[Json], None],
    as_json: bool,
    places: Places,
    *,
    table: Callable[[Json], str] | None = None,
    draw: Callable[[Json, Path], list[Path]] | None = None,
) -> None:
    """Write ``report`` to its places and print it, by ``show`` or as JSON."""
    from ..files import write_aside
    from ..pair.seal import sealed_text

    text = sealed_text(report)
    contents = {} if places.output is None else {places.output: text.encode()}
    if places.csv and table:
        contents[places.csv] = table(report).encode()
    if contents:
        write_aside(contents)
    pages = draw(report, places.plot) if places.plot and draw else []
    for warning in report["model"].get("warnings", ()):
        warn(warning)
    if as_json:
        click.echo(text, nl=False)
        return
    show(report)
    for path in (places.output, places.csv, *pages):
        if path:
            say(f"Wrote {path}")
