"""``mlx-moebench loss``: does a router's uncertainty about a token predict the model's loss on the next one?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import (
    STREAMING,
    command_line,
    json_option,
    loading_options,
    output_option,
    plan_options,
    quiet_option,
    reading_options,
)
from ._report import Places, deliver

if TYPE_CHECKING:
    from ..options import Loading, Plan, Reading

EPILOG = """\b
Examples:
  mlx-moebench loss                                  the model in the package, on maths
  mlx-moebench loss --dataset code --plot loss.png   with the loss by tenths of uncertainty
  mlx-moebench loss --model allenai/OLMoE-1B-7B-0924 --max-samples 40 --output out.json
  mlx-moebench loss --json | jq '.summary.mlp.entropy'
"""


@click.command(epilog=EPILOG)
@loading_options(without=STREAMING)
@reading_options(batch_size=(4, "Sequences per forward pass, whose logits over the whole vocabulary are held at once."))
@click.option(
    "--examples", type=click.IntRange(min=0), default=3, show_default=True, help="Tokens to show of each of four kinds."
)
@plan_options("mean losses over sequences")
@output_option("Write the report as JSON.  [default: not written]")
@click.option("--plot", type=click.Path(path_type=Path), help="Mean loss by tenths of uncertainty, .png, .svg or .pdf.")
@json_option("the report")
@quiet_option
def command(
    model: str | None,
    dataset: str,
    loading: Loading,
    reading: Reading,
    examples: int,
    plan: Plan,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare each router's uncertainty at a token with the model's loss on the next one.

    There are two scores of uncertainty: the entropy of the routing distribution and the selection margin; for each,
    the rank correlation with the loss, the mean loss by tenths of the score, and the tokens that stand out.
    """
    from ..analysis.loss import loss_report
    from ..options import Options, Saving
    from ..show.plots.uncertainty import plot_uncertainty
    from ..show.tables.loss import print_uncertainty
    from ._progress import progress

    places = Places(output, plot=plot)
    places.check("report of loss", ("n_pairs", "mean_loss"))
    with progress(quiet) as step:
        options = Options(loading, reading, saving=Saving(command=command_line()), plan=plan)
        report = loss_report(model, dataset, options, examples=examples, step=step)
    deliver(report, print_uncertainty, as_json, places, draw=plot_uncertainty)
