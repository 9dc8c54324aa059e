"""``mlx-moebench evaluate``: what a model knows, on MMLU or on a task of lm-evaluation-harness."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..types import Json
from ._options import (
    PLAN,
    STREAMING,
    command_line,
    file_name,
    hold,
    json_option,
    loading_options,
    model_names,
    output_option,
    quiet_option,
    resume_option,
    typed,
)
from ._streams import say, warn

if TYPE_CHECKING:
    from ..options import Loading

EPILOG = """\b
Examples:
  mlx-moebench evaluate --data mmlu/                     all 57 subjects, 5 shots, the model in the package
  mlx-moebench evaluate --model allenai/OLMoE-1B-7B-0924 --preset 12x25
  mlx-moebench evaluate --model ./checkpoint --data mmlu/ --subjects anatomy,astronomy --limit 50
  mlx-moebench evaluate --model ./checkpoint --data mmlu/ --compare ./adapters   with and without, paired
  mlx-moebench evaluate --data mmlu/ --output nano.json --resume    start, or continue after Ctrl-C or a crash
  mlx-moebench evaluate --model ./checkpoint --task arc_easy,piqa   by lm-evaluation-harness
  mlx-moebench evaluate --backend torch --device cuda --model ./checkpoint   by transformers
"""

MMLU_ONLY = ("data", "subjects", "preset", "split", "max_length", "compare", "resume", "level")


@click.command(epilog=EPILOG)
@click.option(
    "--task",
    default="mmlu",
    show_default=True,
    help="mmlu, or tasks of lm-evaluation-harness, comma-separated (extra `eval`).",
)
@loading_options(without=STREAMING)
@click.option(
    "--data", type=click.Path(), help="Folder of MMLU's CSV files with dev/ and val/ or test/.  [default: the hub]"
)
@click.option("--subjects", help="Subjects of MMLU, comma-separated.  [default: all 57]")
@click.option(
    "--preset",
    type=click.Choice(["12x25"]),
    help="12 subjects, their first 25 questions each. The published benchmark of that size names no subjects; these "
    "are our choice.",
)
@click.option("--limit", type=click.IntRange(min=1), help="The first N questions of each subject.  [default: all]")
@click.option(
    "--split",
    type=click.Choice(["auto", "test", "val"]),
    default="auto",
    show_default=True,
    help="Where MMLU's questions come from; auto: test where all subjects have it, else val.",
)
@click.option(
    "--shots",
    type=click.IntRange(min=0),
    help="Worked examples before each question, at most 5 for MMLU.  [default: 5; the task's own]",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=2),
    help="Tokens of a prompt with its answer; shots that do not fit are dropped.  [default: the model's positions]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Questions per forward pass; fewer where they would take over 1 GiB.",
)
@click.option(
    "--compare",
    type=click.Path(),
    metavar="ADAPTER",
    help="Also evaluate the model with this adapter (and without --adapter-path) on the same questions, and compare.",
)
@click.option("--include-path", type=click.Path(), help="Folder with your own task files for lm-evaluation-harness.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the bootstrap and of a task's shots.",
)
@PLAN["level"]
@output_option("JSON report to write.  [default: evaluation_MODEL_TASK.json]")
@resume_option("the report at --output")
@json_option("the report")
@quiet_option
def command(
    task: str,
    model: str | None,
    loading: Loading,
    data: str | None,
    subjects: str | None,
    preset: str | None,
    limit: int | None,
    split: str,
    shots: int | None,
    max_length: int | None,
    batch_size: int,
    compare: str | None,
    include_path: str | None,
    seed: int,
    level: float,
    output: Path | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure what a model knows: its choices on MMLU, or any task of lm-evaluation-harness.

    A choice is the letter of the highest log-likelihood after the original prompt. Prints accuracy by subject with
    intervals, next to the 0.25 that guessing gives, and writes a JSON report with every answer. With --compare it also
    gives the smallest difference that so many questions can show.
    """
    if quiet and task != "mmlu":  # read when tqdm is imported, for the bars of the harness and of data sets
        os.environ.setdefault("TQDM_DISABLE", "1")
    from ..evaluate.evaluations import check_output, evaluation_path
    from ..pair.seal import sealed_text
    from ..show.tables.accuracy import print_evaluation
    from ._progress import progress

    _refuse(MMLU_ONLY if task != "mmlu" else ("include_path",), task)
    output = output or _default_output(task, model, loading, preset, compare)
    hold(evaluation_path(output))
    check_output(output, resume)
    options: Json = {
        "limit": limit,
        "batch_size": batch_size,
        "loading": loading,
        "seed": seed,
        "output": output,
        "command": command_line(),
    }
    with progress(quiet) as step:
        if task == "mmlu":
            from ..evaluate.mmlu import evaluate_mmlu

            report = evaluate_mmlu(
                model,
                data,
                subjects=_listed(subjects),
                preset=preset,
                split=split,
                shots=5 if shots is None else shots,
                max_length=max_length,
                compare=compare,
                resume=resume,
                level=level,
                step=step,
                **options,
            )
        else:
            from ..evaluate.harness import evaluate_tasks

            report = evaluate_tasks(
                model, task.split(","), include_path=include_path, shots=shots, step=step, **options
            )
    for warning in report["model"].get("warnings", ()):
        warn(warning)
    if as_json:
        click.echo(sealed_text(report), nl=False)
    else:
        print_evaluation(report)
        say(f"Wrote {evaluation_path(output)}")


def _default_output(task: str, model: str | None, loading: Loading, preset: str | None, compare: str | None) -> Path:
    names = [*model_names(model, loading), *task.split(",")]
    names += [preset] if preset else []
    names += ["vs", Path(compare).name or "adapter"] if compare else []
    return file_name("evaluation", names)


def _listed(subjects: str | None) -> list[str] | None:
    return None if subjects is None else [name.strip() for name in subjects.split(",") if name.strip()]


def _refuse(names: tuple[str, ...], task: str) -> None:
    """Raise a usage error for an option that has no meaning for the task."""
    if needless := typed(names):
        belongs = "--task mmlu" if task != "mmlu" else "tasks of lm-evaluation-harness"
        raise click.UsageError(f"{needless[0]} belongs to {belongs}; leave it out.")
