"""``mlx-moebench perturb``: how much a model's loss rests on what its routers choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import MoebenchError
from ..perturbations import DEFAULT, KINDS, Perturbation, perturbations_named
from ._options import (
    STREAMING,
    command_line,
    json_option,
    loading_options,
    output_option,
    plan_options,
    quiet_option,
    reading_options,
    resume_option,
)
from ._questions import question_options
from ._report import Places, deliver

if TYPE_CHECKING:
    from ..analysis.answers import Questions
    from ..options import Loading, Plan, Reading

EPILOG = """\b
Examples:
  mlx-moebench perturb                               the model in the package, on maths
  mlx-moebench perturb --what drop-top1 --by-layer   which layer's first choice matters most
  mlx-moebench perturb --what k=1 --what k=4 --dataset code
  mlx-moebench perturb --model allenai/OLMoE-1B-7B-0924 --output perturbed.json
  mlx-moebench perturb --mmlu mmlu/                  and what becomes of the answers to MMLU's questions
  mlx-moebench perturb --json | jq '.runs[] | [.perturbation, .loss_change.value]'
"""


def _named(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[Perturbation] | None:
    """Click callback; None where none is named."""
    try:
        return perturbations_named(values) if values else None
    except MoebenchError as error:
        raise click.BadParameter(str(error)) from error


@click.command(epilog=EPILOG)
@loading_options(without=("backend", *STREAMING))
@reading_options(batch_size=(4, "Sequences per forward pass, whose logits over the whole vocabulary are held at once."))
@click.option(
    "--what",
    "perturbations",
    multiple=True,
    callback=_named,
    metavar="NAME[=NUMBER]",
    help="What is done to the choice; again for more: "
    + "; ".join(f"{kind.name}{f'={kind.number}' if kind.number else ''}, {kind.what}" for kind in KINDS)
    + f".  [default: {', '.join(DEFAULT)}, where the routers can]",
)
@click.option("--by-layer", is_flag=True, help="Each of all routers, and then of each router alone.")
@question_options("Put questions to every run, too.", "none are asked")
@plan_options("changes of the loss over sequences")
@output_option("Write the report as JSON, after every run.  [default: not written]")
@resume_option("the report at --output")
@json_option("the report")
@quiet_option
def command(
    model: str | None,
    dataset: str,
    loading: Loading,
    reading: Reading,
    perturbations: list[Perturbation] | None,
    by_layer: bool,
    questions: Questions | None,
    plan: Plan,
    output: Path | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Change what the routers choose, and measure the loss against that of the model as it is.

    Every run sees the same texts, so that the changes are paired: of the loss, of the most likely next token, and of
    the set of experts that a router would have chosen unchanged.
    """
    from ..analysis.perturb import perturb_report
    from ..options import Options, Saving
    from ..show.tables.perturb import print_perturbed
    from ._progress import progress

    places = Places(output)
    places.check("report of perturb", ("runs", "loss"))
    with progress(quiet) as step:
        report = perturb_report(
            model,
            dataset,
            perturbations,
            Options(loading, reading, saving=Saving(output, resume, command=command_line()), plan=plan),
            by_layer=by_layer,
            questions=questions,
            step=step,
        )
    deliver(report, print_perturbed, as_json, places)
