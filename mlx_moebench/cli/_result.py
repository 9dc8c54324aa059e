"""How a stats pair that was just written is shown."""

from __future__ import annotations

from pathlib import Path

import click


def show(output: Path, as_json: bool, plot: Path | None = None) -> None:
    """Print the report as JSON, or its tables and the files written."""
    from ..report.table import print_report
    from ..routing.storage import pair_paths, read_report

    report_path, sums_path = pair_paths(output)
    report = read_report(report_path)
    if as_json:
        click.echo(report_path.read_text(encoding="utf-8"), nl=False)
        return
    print_report(report)
    click.echo(f"Wrote {report_path} and {sums_path.name}" + (f"; {plot}" if plot else ""))
