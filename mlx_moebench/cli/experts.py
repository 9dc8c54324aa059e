"""``mlx-moebench experts``: which experts matter, and what a model loses without some of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._completion import complete_data
from ._early import check_data
from ._options import (
    STREAMING,
    Command,
    Decorator,
    command_line,
    json_option,
    loading_options,
    output_option,
    plan_options,
    quiet_option,
    reading_options,
    resume_option,
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
@click.option(
    "--dataset",
    help="Texts in place of questions, as in analyze.  [default: none, the questions of --mmlu]",
    shell_complete=complete_data,
    callback=check_data,
)
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
@resume_option("the sums beside the report at --output")
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
    resume: bool,
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
    from ..options import Saving
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
            saving=Saving(output, resume, command=command_line()),
            step=step,
        )
    deliver(report, print_experts, as_json, places, table=experts_csv, draw=plot_experts)


BATCH_OF_LOSSES = (4, "Sequences per forward pass, whose logits over the whole vocabulary are held at once.")
PRUNE_EPILOG = """\b
Examples:
  mlx-moebench experts prune                              a quarter of the experts, by REAP, on maths
  mlx-moebench experts prune --by frequency --keep 0.5 --how zero --dataset code
  mlx-moebench experts prune --by accuracy --mmlu mmlu/   by the questions they are chosen in
  mlx-moebench experts prune --model ./olmoe --export ./olmoe-48 --output pruned.json
"""
REWEIGHT_EPILOG = """\b
Examples:
  mlx-moebench experts reweight --mmlu mmlu/
  mlx-moebench experts reweight --mmlu mmlu/ --strength 4 --output reweighted.json
"""
MERGE_EPILOG = """\b
Examples:
  mlx-moebench experts merge-candidates                   the pairs most alike, and the loss without one of two
  mlx-moebench experts merge-candidates --pairs 10 --no-measure --dataset code
"""


def _compared(questions: str = "", default: str = "") -> Decorator:
    """The options of a command that changes a model and measures what that does."""

    def decorate(function: Command) -> Command:
        options = [
            loading_options(without=("backend", *STREAMING)),
            reading_options(batch_size=BATCH_OF_LOSSES),
            *([question_options(questions, default)] if questions else []),
            plan_options("changes of the loss over sequences"),
            output_option("Write the report as JSON, after every run.  [default: not written]"),
            resume_option("the report at --output"),
            json_option("the report"),
            quiet_option,
        ]
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


positions_option = click.option(
    "--positions",
    type=click.Choice(["last", "answer", "all"]),
    default="last",
    show_default=True,
    help="Tokens whose experts an answer counts for.",
)


def _run(
    measure: Any,
    kind: str,
    show: Any,
    /,
    *,
    model: str | None,
    dataset: str,
    loading: Loading,
    reading: Reading,
    plan: Plan,
    output: Path | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """``measure(model, dataset, options, **choices)``, and what becomes of its report of a ``kind``."""
    from ..options import Options, Saving
    from ._progress import progress

    places = Places(output)
    places.check(f"report of {kind}", ("kind", "runs", "chosen_on"))
    options = Options(loading, reading, saving=Saving(output, resume, command=command_line()), plan=plan)
    with progress(quiet) as step:
        report = measure(model, dataset, options, step=step, **choices)
    deliver(report, show, as_json, places)


@command.command("prune", epilog=PRUNE_EPILOG)
@click.option(
    "--by",
    type=click.Choice(["frequency", "reap", "ean", "accuracy"]),
    default="reap",
    show_default=True,
    help="What an expert is worth: the tokens that choose it, the mean of g |y| over those, the sum of |y|, or how "
    "right the answers are where it is chosen.",
)
@click.option(
    "--keep",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.75,
    show_default=True,
    help="Share of the experts of each router to keep.",
)
@click.option(
    "--how",
    type=click.Choice(["route-around", "zero"]),
    default="route-around",
    show_default=True,
    help="Others are chosen in the place of those that go, as in a checkpoint without them; or nobody is, and the "
    "weights of the others stay.",
)
@click.option(
    "--random", type=click.IntRange(min=0), default=5, show_default=True, help="Random prunings of the same size."
)
@click.option("--export", type=click.Path(path_type=Path), help="Write the smaller checkpoint to this new folder.")
@positions_option
@_compared("Put questions to every run, too.", "none are asked")
def prune_command(**choices: Any) -> None:
    """Take experts away, and measure the loss against that of the model as it is and of random prunings.

    Half of the documents (and questions) choose the experts, the other half judge. Without --export nothing is written
    but the report: the experts are masked.
    """
    from ..analysis.prune import KIND, prune
    from ..show.tables.pruned import print_pruned

    _run(prune, KIND, print_pruned, **choices)


@command.command("reweight", epilog=REWEIGHT_EPILOG)
@click.option(
    "--towards",
    type=click.Choice(["accuracy"]),
    default="accuracy",
    show_default=True,
    expose_value=False,
    help="What raises the weight of an expert.",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Exponent of the factors.",
)
@click.option(
    "--shuffled",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="How often the factors are dealt to the experts at random, for comparison.",
)
@positions_option
@_compared("The questions.", "the hub")
def reweight_command(**choices: Any) -> None:
    """Scale gate weights towards experts whose questions were answered right, and judge it on other questions."""
    from ..analysis.reweight import KIND, reweight
    from ..show.tables.pruned import print_reweighted

    _run(reweight, KIND, print_reweighted, **choices)


@command.command("merge-candidates", epilog=MERGE_EPILOG)
@click.option("--pairs", type=click.IntRange(min=1), default=3, show_default=True, help="Pairs of each router to list.")
@click.option("--measure/--no-measure", default=True, show_default=True, help="Merge the nearest pair of each router.")
@_compared()
def merge_command(**choices: Any) -> None:
    """List experts that are alike in weights or outputs, how often both are chosen, and what merging the nearest costs.

    Half of the documents compare the outputs, the other half judge.
    """
    from ..analysis.merging import KIND, merge_candidates
    from ..show.tables.pruned import print_candidates

    _run(merge_candidates, KIND, print_candidates, **choices)
