"""``mlx-moebench lab eval``: zero-shot tasks and perplexity of several models, ranked."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._early import check_models
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
    resume_option,
)
from ._streams import say

if TYPE_CHECKING:
    from ..options import Loading, Plan, Reading

EPILOG = """\b
Examples:
  mlx-moebench lab eval runs/smoe --data zeroshot/           every task of which the folder has a file
  mlx-moebench lab eval runs/smoe runs/dense --data zeroshot/ --task blimp --task piqa --text held_out.txt
  mlx-moebench lab eval 'smoe=runs/smoe_*' 'tc=runs/tc_*' --data zeroshot/ -o eval.json     seeds, ranked
  mlx-moebench lab eval runs/smoe --task cbt=cbt.jsonl       your own: rows of context, choices and answer
  mlx-moebench lab eval runs/smoe --task harness:race        by lm-evaluation-harness
"""


def _runs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """Click callback: (name, place) of each run; a NAME=PATTERN with a * is every folder that it matches, in order."""
    from ..data.importers import split_name

    runs: list[tuple[str, str]] = []
    for value in values:
        name, place = split_name(value)
        places = sorted(glob.glob(place)) if "*" in place else [place]  # noqa: PTH207  # it may begin with a /
        if not places:
            raise click.BadParameter(f"nothing matches {place!r}.", context, parameter)
        runs += [(name or Path(one).name or one, one) for one in places]
    check_models(context, parameter, tuple(place for _, place in runs))
    return runs


@click.command("eval", epilog=EPILOG)
@click.argument("runs", nargs=-1, required=True, metavar="[NAME=]MODEL...", callback=_runs)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME[=FILE]",
    help="lambada, blimp, hellaswag, piqa, siqa, csqa, arc_easy, arc_challenge, race, found in --data or FILE; "
    "harness:NAME; or a name of your own with its FILE; again for more.  [default: those of LibMoE that --data has]",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the files of the tasks.")
@click.option("--limit", type=click.IntRange(min=1), help="The first N questions of each task, or of its groups.")
@click.option("--include-path", type=click.Path(), help="Folder with your own task files for lm-evaluation-harness.")
@click.option("--text", help="Text for the perplexity: a file, a folder, hub:ID or a bundled name.")
@loading_options(without=STREAMING, model=False)
@reading_options(dataset=False)
@plan_options("perplexity over documents")
@output_option("Write the report as JSON, after every task.  [default: not written]")
@click.option("--csv", type=click.Path(path_type=Path), help="Write every number to this .csv.")
@resume_option("the report at --output")
@json_option("the report")
@quiet_option
def command(
    runs: list[tuple[str, str]],
    tasks: tuple[str, ...],
    data: Path | None,
    limit: int | None,
    include_path: str | None,
    text: str | None,
    loading: Loading,
    reading: Reading,
    plan: Plan,
    output: Path | None,
    csv: Path | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Ask models what they know, zero-shot, scored as LibMoE scores, and measure their perplexity.

    MODELs of one NAME are seeds of one training: their results are averaged, with intervals over the seeds, and models
    are ranked over the tasks. Any model that mlx-lm reads can be asked, dense ones too.
    """
    from ..evaluate.runs import ask, evaluate_runs
    from ..files import check_output, write_aside
    from ..pair.seal import sealed_text
    from ..show.tables.profile import tidy_csv
    from ..show.tables.zeroshot import COLUMNS, print_runs, tidy_rows
    from ._progress import progress

    if output:
        check_output(output, ".json", "report of lab eval", ("runs", "tasks"))
    if csv:
        check_output(csv, ".csv", "table of lab eval", COLUMNS)
    hold(*(path for path in (output, csv) if path))
    with progress(quiet) as step:
        step("reading the questions", 0, 0)
        asked = ask(tasks, data, text, limit=limit, reading=reading, include_path=include_path)
        report = evaluate_runs(
            runs,
            asked,
            plan=plan,
            output=output,
            resume=resume,
            command=command_line(),
            loading=loading,
            step=step,
        )
    if csv:
        write_aside({csv: tidy_csv(tidy_rows(report), COLUMNS)})
    if as_json:
        click.echo(sealed_text(report), nl=False)
    else:
        print_runs(report)
    for path in (output, csv):
        if path and not as_json:
            say(f"Wrote {path}")
