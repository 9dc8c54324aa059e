"""Options for MMLU's questions, where a command asks them beside or in place of reading a data set."""

from __future__ import annotations

from typing import Any

import click

from ._options import Decorator, grouped

HUB = "hub"


def question_options(use: str, default: str) -> Decorator:
    """--mmlu and what belongs to it; the command gets ``questions``, a `Questions`, or None without --mmlu.

    use: what the questions are for. default: what happens without --mmlu.
    """
    options: dict[str, Decorator] = {
        "mmlu": click.option(
            "--mmlu",
            type=click.Path(),
            metavar="FOLDER",
            help=f"{use} Folder of MMLU's CSV files with dev/ and val/ or test/, or {HUB}.  [default: {default}]",
        ),
        "split": click.option(
            "--split",
            type=click.Choice(["auto", "test", "val"]),
            default="auto",
            show_default=True,
            help="Where MMLU's questions come from; auto: test where all subjects have it, else val.",
        ),
        "subjects": click.option("--subjects", help="Subjects of MMLU, comma-separated.  [default: all 57]"),
        "per_subject": click.option(
            "--per-subject", type=click.IntRange(min=1), help="The first N questions of each subject.  [default: all]"
        ),
        "shots": click.option(
            "--shots",
            type=click.IntRange(0, 5),
            default=0,
            show_default=True,
            help="Worked examples before each question; fewer where they do not fit.",
        ),
    }
    return grouped("questions", _made, options)


def _made(mmlu: str | None, split: str, subjects: str | None, per_subject: int | None, shots: int) -> Any:
    from ..analysis.answers import Questions
    from ..data.mmlu import SUBJECTS

    if mmlu is None and (split, subjects, per_subject, shots) == ("auto", None, None, 0):
        return None
    named = SUBJECTS if subjects is None else tuple(s.strip() for s in subjects.split(",") if s.strip())
    return Questions(None if mmlu in (None, HUB) else mmlu, split, named, per_subject, shots)
