"""``mlx-moebench report``: one page of everything that was measured, or the same as Markdown, CSV or a model card."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import output_option, plan_options, quiet_option, typed
from ._streams import say
from .compare import KINDS

if TYPE_CHECKING:
    from ..options import Plan
    from ..routing.record import Phase
    from ..show.inputs import Inputs

EPILOG = """\b
Examples:
  mlx-moebench report stats.json -o report.html               one stats pair, either file of it
  mlx-moebench report profile/ -o report.html                 what profile wrote: several domains
  mlx-moebench report math.json code.json -o report.html      domains of one model
  mlx-moebench report before.json after.json loss.json        two runs compared, and a report of loss
  mlx-moebench report adapters/floor -o training.html         a training
  mlx-moebench report stats.json --trace stats_trace          with a view of single tokens
  mlx-moebench report stats.json --trace a --trace b          tokens of two runs side by side
  mlx-moebench report profile/ --format card -o card.md       for a model's page on the hub
"""

SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".csv": "csv"}
PLANNED = {"ci": "method", "level": "level", "resamples": "resamples", "seed": "seed"}
"""Options of intervals, and the field of a plan that each is."""

UNREADABLE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError, StopIteration)
"""What an input raises that lacks something. RuntimeError: the last of them in a generator, and RecursionError."""

MOST_TRACES = 2
"""Traces that a page shows, the second one beside the first."""

FORMATS = {"html": ".html", "md": ".md", "card": ".md", "csv": ".csv"}
"""By which a file of each format is known, whatever its suffix."""


@click.command(epilog=EPILOG)
@click.argument("stats", nargs=-1, required=True, metavar="[NAME=]STATS...")
@output_option("File to write.  [default: report.html; other formats are printed]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "md", "csv", "card"]),
    help="Page, Markdown, tidy table, or block for a model card.  [default: by the suffix of --output, else html]",
)
@click.option("--title", help="Title of the page.  [default: what it is about]")
@click.option(
    "--trace",
    "traces",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Show single tokens of this trace, a folder of analyze --trace; a second one stands beside it in the map.",
)
@click.option(
    "--trace-phase",
    type=click.Choice(["prefill", "decode"]),
    help="Tokens of the trace to show, where it holds prompts and generated ones.  [default: the prompts]",
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(KINDS),
    help="Compare two runs even though they differ in this, as compare does; may be repeated.",
)
@plan_options("differences of means")
@quiet_option
def command(
    stats: tuple[str, ...],
    output: Path | None,
    form: str | None,
    title: str | None,
    traces: tuple[Path, ...],
    trace_phase: Phase | None,
    allow: tuple[str, ...],
    plan: Plan,
    quiet: bool,
) -> None:
    """Make one self-contained page: the answer in a sentence, then the figures, each with unit, n and definition.

    STATS are stats pairs (either file), a profile's folder, comparisons, reports of loss, traces, or folders of
    trainings, in any combination. Pairs of one model on different data become domains; two other runs are compared.
    The page is one file that requests nothing from the network.
    """
    from ..files import MARKS, write_aside
    from ..show.inputs import read_inputs
    from ._progress import progress

    chosen = [field for option, field in PLANNED.items() if typed([option])]
    form = form or _form_of(output)
    _check_trace(form, title, traces, trace_phase)
    place = output or (Path("report.html") if form == "html" else None)
    if place is not None:
        _check(place, form)
    with readable(), progress(quiet) as step:
        step("reading what was measured", 0, 0)
        inputs = read_inputs(stats, plan=plan, chosen=chosen, allow=allow)
        step("making the page" if form == "html" else "writing it out", 0, 0)
        text = _page(inputs, title, traces, trace_phase) if form == "html" else _exported(inputs, form)
    if place is None:
        click.echo(text, nl=False)
        return
    if form in ("md", "card"):
        text = f"{text.rstrip()}\n\n{MARKS['.md'].decode()}\n"
    written = text.encode("utf-8", "backslashreplace")  # the name of a file need not be UTF-8
    write_aside({place: written})
    say(f"Wrote {place} ({max(1, round(len(written) / 1000)):,} kB)")


def _check_trace(form: str, title: str | None, traces: tuple[Path, ...], phase: Phase | None) -> None:
    """Raise a usage error for what only a page shows."""
    if phase and not traces:
        raise click.UsageError("--trace-phase says what of a trace to show: give its folder with --trace.")
    if len(traces) > MOST_TRACES:
        raise click.UsageError(f"A page shows one trace, or two side by side; --trace names {len(traces)}.")
    if form != "html" and (title or traces):
        raise click.UsageError(f"{'--title' if title else '--trace'} is for a page; {form} has none.")


@contextmanager
def readable() -> Iterator[None]:
    """What a file lacks, or holds in another form than this version writes, is a sentence."""
    from ..errors import StatsError

    try:
        yield
    except UNREADABLE as error:
        if os.environ.get("MLX_MOEBENCH_DEBUG"):
            raise
        raise StatsError(
            f"One of the inputs is damaged or from another version ({type(error).__name__}: {error}); "
            "MLX_MOEBENCH_DEBUG=1 shows where it was met."
        ) from error


def _form_of(output: Path | None) -> str:
    if output is None:
        return "html"
    if output.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"{output.name} ends in none of {', '.join(SUFFIXES)}: say --format.")
    return SUFFIXES[output.suffix.lower()]


def _page(inputs: Inputs, title: str | None, traces: tuple[Path, ...], phase: Phase | None) -> str:
    """With the tokens of the traces that options name, then of those among the inputs, at most `MOST_TRACES`."""
    from ..show.page import build_page
    from ..show.tokens import token_data

    inputs = replace(inputs, traces=tuple(dict.fromkeys([*traces, *inputs.traces]))[:MOST_TRACES])
    tokens, beside = [*(token_data(one, phase=phase) for one in inputs.traces), None, None][:MOST_TRACES]
    command = shlex.join(["mlx-moebench", *sys.argv[1:]])
    return build_page(inputs, tokens=tokens, beside=beside, title=title, command=command)


def _exported(inputs: Inputs, form: str) -> str:
    export = import_module("mlx_moebench.show.export")
    write = {"md": "to_markdown", "csv": "to_csv", "card": "to_card"}[form]
    return str(getattr(export, write)(inputs))


def _check(place: Path, form: str) -> None:
    """Raise `StatsError` unless the file can be written and replaces nothing of another kind."""
    from ..files import check_ours, check_output, is_ours
    from ..show.export import COLUMNS

    if form == "csv":
        check_output(place, ".csv", "report", COLUMNS)
    check_ours(place, "report", lambda: is_ours(place, COLUMNS, FORMATS[form]))
