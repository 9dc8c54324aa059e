"""How a stats pair that was just written is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..types import Json
from ._streams import say, warn

if TYPE_CHECKING:
    from ..routing.record import Phase


def show(output: Path, reports: Mapping[Phase, Json], as_json: bool, plot: Path | None = None) -> None:
    """Print the tables of each phase's report and the files written, or the reports as JSON: one, or one per phase.

    ``output`` is the pair of the first phase; those of others lie beside it, and so do their pictures.
    """
    from ..pair.seal import sealed_text
    from ..pair.storage import decode_output, pair_paths
    from ..show.plots.load import plot_load
    from ..show.tables.routers import print_report

    for warning in next(iter(reports.values()))["model"].get("warnings", ()):
        warn(warning)
    if as_json:
        every = {phase: sealed_text(report) for phase, report in reports.items()}
        whole = json.dumps({phase: json.loads(text) for phase, text in every.items()}, indent=1) + "\n"
        click.echo(whole if len(every) > 1 else next(iter(every.values())), nl=False)
    for number, (phase, report) in enumerate(reports.items()):
        picture = plot and (plot if number == 0 else plot.with_name(f"{plot.stem}.{phase}{plot.suffix}"))
        written = plot_load(report, picture) if picture else []
        if not as_json:
            report_path, sums_path = pair_paths(output if number == 0 else decode_output(output))
            print_report(report)
            say("; ".join([f"Wrote {report_path} and {sums_path.name}", *map(str, written)]))
