"""``mlx-moebench dynamics``: how routers change over the checkpoints of a training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import (
    STREAMING,
    command_line,
    hold,
    json_option,
    loading_options,
    output_option,
    plan_options,
    quiet_option,
    reading_options,
)
from ._streams import say

if TYPE_CHECKING:
    from ..options import Loading, Plan, Reading

EPILOG = """\b
Examples:
  mlx-moebench dynamics runs/smoe --max-length 128        the copies of lab train --snapshot-every, and its end
  mlx-moebench dynamics runs/smoe --dataset held_out.txt -o dynamics.json --plot dynamics.png
  mlx-moebench dynamics before=./base tuned=./tuned --dataset code
  mlx-moebench dynamics owner/model@step5000 owner/model@step10000 owner/model@main --output-dir kept
  mlx-moebench dynamics runs/smoe --json | jq '.trends.mlp.change_rate'
"""


@click.command(epilog=EPILOG)
@click.argument("checkpoints", nargs=-1, required=True, metavar="[NAME=]CHECKPOINT...")
@loading_options(without=STREAMING, model=False)
@reading_options()
@plan_options("numbers over sequences")
@output_option("Write the report as JSON.  [default: not written]")
@click.option("--csv", type=click.Path(path_type=Path), help="Write every number to this .csv.")
@click.option("--plot", type=click.Path(path_type=Path), help="Picture of the course, .png, .svg or .pdf.")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep each checkpoint's measurement here; the same command goes on after the last that is kept.",
)
@json_option("the report")
@quiet_option
def command(
    checkpoints: tuple[str, ...],
    dataset: str,
    loading: Loading,
    reading: Reading,
    plan: Plan,
    output: Path | None,
    csv: Path | None,
    plot: Path | None,
    output_dir: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Follow every router over the checkpoints of a training, on the same tokens.

    Saturation (what the last checkpoint chooses, too), change rate (what the one before did not choose), load,
    entropies, margins with their trend by depth, stability of co-activation, similarity of the experts' weights; with
    intervals over sequences, and what chance gives beside them. CHECKPOINTs come in the order of the training; a folder
    of a training stands for the copies in it.
    """
    from ..analysis.checkpoints import stages
    from ..analysis.dynamics import dynamics_report
    from ..files import check_output, write_aside
    from ..options import Options, Saving
    from ..pair.seal import sealed_text
    from ..show.export.tidy import COLUMNS, csv_of, followed
    from ..show.plots import check_plot
    from ..show.plots.dynamics import plot_dynamics
    from ..show.tables.dynamics import print_dynamics
    from ._progress import progress

    if output:
        check_output(output, ".json", "report of dynamics", ("checkpoints", "overall", "trends"))
    if csv:
        check_output(csv, ".csv", "table of dynamics", COLUMNS)
    if plot:
        check_plot(plot)
    hold(*(path for path in (output, csv) if path), *([output_dir / "stages"] if output_dir else []))
    series = stages(checkpoints)
    with progress(quiet) as step:
        options = Options(loading, reading, saving=Saving(command=command_line()), plan=plan)
        report = dynamics_report(series, dataset, options, output_dir=output_dir, step=step)
    text = sealed_text(report)
    if output:
        write_aside({output: text.encode()})
    if csv:
        write_aside({csv: csv_of(followed(report)).encode()})
    pages = plot_dynamics(report, plot) if plot else []
    if as_json:
        click.echo(text, nl=False)
        return
    print_dynamics(report)
    for path in (output, csv, *pages):
        if path:
            say(f"Wrote {path}")
