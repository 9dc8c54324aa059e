"""How a stats pair that was just written is shown."""

from __future__ import annotations

import json
from pathlib import Path

import click


def show(outputs: list[Path], as_json: bool, plot: Path | None = None) -> None:
    """Print each pair's tables and the files written, or the reports as JSON: one, or an object with one per phase."""
    from ..pair.storage import pair_paths, read_report
    from ..show.plots.load import plot_load
    from ..show.tables.routers import print_report

    pairs = [pair_paths(output) for output in outputs]
    reports = [read_report(report_path) for report_path, _ in pairs]
    for warning in reports[0]["model"].get("warnings", ()):
        click.echo(f"Warning: {warning}", err=True)
    plots = [plot_of(plot, output, outputs[0]) for output in outputs] if plot else [None] * len(outputs)
    for report, picture in zip(reports, plots, strict=True):
        if picture:
            plot_load(report, picture)
    if as_json and len(reports) == 1:
        click.echo(pairs[0][0].read_text(encoding="utf-8"), nl=False)
    elif as_json:
        click.echo(json.dumps({report["data"]["phase"]: report for report in reports}, indent=1))
    else:
        for (report_path, sums_path), report, picture in zip(pairs, reports, plots, strict=True):
            print_report(report)
            click.echo(f"Wrote {report_path} and {sums_path.name}" + (f"; {picture}" if picture else ""))


def plot_of(plot: Path, output: Path, first: Path) -> Path:
    """``plot`` for the first output; for the pair of another phase its name carries the phase."""
    return plot if output == first else plot.with_name(f"{plot.stem}.decode{plot.suffix}")
