"""``mlx-moebench experts``: which experts matter, and what a model loses without some of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    typed,
)
from ._questions import question_options
from ._report import Places, deliver

if TYPE_CHECKING:
    from ..analysis.answers import Questions
    from ..options import Loading, Plan, Reading

EPILOG = """\b
Examples:
  mlx-moebench experts --mmlu mmlu/                  the model in the package, at the last token of each question
  mlx-moebench experts --mmlu mmlu/ --positions all  at every token: few experts are never chosen
  mlx-moebench experts --dataset code --positions all --csv experts.csv --plot experts.png
  mlx-moebench experts --preset olmoe-mmlu --output olmoe.json   OLMoE-1B-7B-0125-Instruct, 14,042 questions
  mlx-moebench experts prune --by reap --keep 0.75   what the loss is without a quarter of them
"""

BATCH = (4, "Sequences per forward pass; of questions the logits over the whole vocabulary are held at once.")


@click.group(epilog=EPILOG, invoke_without_command=True)
@loading_options(without=("backend", *STREAMING))
@click.option("--dataset", help="Texts in place of questions, as in analyze.  [default: none, the questions of --mmlu]")
@reading_options(dataset=False, batch_size=BATCH)
@question_options("The questions.", "the hub, without --dataset")
@click.option(
    "--positions",
    type=click.Choice(["last", "answer", "all"]),
    default="last",
    show_default=True,
    help="Tokens that count: the last of each prompt, which the answer is read from; the right answer's own; or all of "
    "each prompt.",
)
@click.option(
    "--preset",
    type=click.Choice(["olmoe-mmlu"]),
    help="Chernov's model and questions: OLMoE-1B-7B-0125-Instruct on MMLU's 14,042, from the hub, at the last token.",
)
@click.option("--weights/--no-weights", default=True, show_default=True, help="Compare the experts' weights, too.")
@plan_options("means over sequences")
@output_option("Write the report as JSON.  [default: not written]")
@click.option("--csv", type=click.Path(path_type=Path), help="Write a row for every expert to this .csv.")
@click.option("--plot", type=click.Path(path_type=Path), help="Use and REAP of every expert, .png, .svg or .pdf.")
@json_option("the report")
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    model: str | None,
    dataset: str | None,
    loading: Loading,
    reading: Reading,
    questions: Questions | None,
    positions: Any,
    preset: str | None,
    weights: bool,
    plan: Plan,
    output: Path | None,
    csv: Path | None,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure every expert: how often it is chosen, how heavily it is weighed, what it adds, and how right the answers
    are where it is.

    On MMLU's questions or on texts. Outputs are read of the chosen experts alone, as the model computes them.
    """
    if context.invoked_subcommand is not None:
        if given := typed([str(parameter.name) for parameter in context.command.params]):
            raise click.UsageError(f"Give {given[0]} after {context.invoked_subcommand}.")
        return
    from ..analysis.experts import PRESETS, experts
    from ..show.plots._experts import plot_experts
    from ..show.tables.experts import COLUMNS, experts_csv, print_experts
    from ._progress import progress

    if dataset is not None and questions is not None:
        raise click.UsageError("--dataset takes the place of questions; leave it or --mmlu and its options out.")
    if preset is not None:
        fixed = ("model", "dataset", "mmlu", "split", "subjects", "per_subject", "shots", "positions")
        if given := typed(fixed):
            raise click.UsageError(f"--preset {preset} says what {given[0]} is; leave one of them out.")
        model, questions, positions = PRESETS[preset]
    places = Places(output, csv, plot)
    places.check("report of experts", ("kind", "routers"), COLUMNS)
    with progress(quiet) as step:
        report = experts(
            model,
            dataset,
            questions=questions,
            positions=positions,
            weights=weights,
            loading=loading,
            reading=reading,
            plan=plan,
            command=command_line(),
            step=step,
        )
    deliver(report, print_experts, as_json, places, table=experts_csv, draw=plot_experts)
