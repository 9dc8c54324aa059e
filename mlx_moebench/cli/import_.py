"""``mlx-moebench import``: routing that another program recorded becomes a stats pair."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..types import Json
from ._options import command_line, flag_options, hold, json_option, output_option, plan_options, quiet_option

if TYPE_CHECKING:
    from ..data.importers import Importer
    from ..options import Flag, Plan

EPILOG = """\b
Examples:
  mlx-moebench import olmoe expert_counts/*.json --output olmoe.json
  mlx-moebench import csv counts.csv --experts 64 --top-k 8 --output counts.json
  mlx-moebench import trace traces/math --output math.json
  mlx-moebench import vllm math=math_ids/ code=code_ids/ --experts 128 --output served.json
  mlx-moebench import csv --help
"""


def _layers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.strip().isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise click.BadParameter("give different whole numbers joined by commas, as in 0,7,15")
    return tuple(map(int, parts))


def _prompt_tokens(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter("give whole numbers joined by commas, as in 12,7,30, or one for all sequences")
    return tuple(map(int, parts))


OPTIONS: dict[str, tuple[Json, str]] = {
    "experts": ({"type": click.IntRange(min=1)}, "Experts of a router, E; never inferred from the largest id."),
    "top_k": ({"type": click.IntRange(min=1)}, "Experts that a token uses, K."),
    "layers": (
        {"callback": _layers, "metavar": "N,N,..."},
        "Block index of each layer in the files, in order; if they hold ids of every block, the blocks that have a "
        "router.",
    ),
    "top1": (
        {"type": click.Path(exists=True, path_type=Path)},
        "Counts of first choices: a folder with a file of the same name for each FILE, or the one file.",
    ),
    "model_id": ({}, "Name of the model in the report."),
    "data": (
        {"metavar": "NAME"},
        "Name of the data set that all FILES are sequences of.  [default: each FILE, or folder, is a domain]",
    ),
    "phase": (
        {"type": click.Choice(["prefill", "decode", "unsplit"])},
        "Prompts, what was generated after them, or both, where the files do not keep them apart.",
    ),
    "prompt_tokens": (
        {"callback": _prompt_tokens, "metavar": "N,N,..."},
        "Length of each sequence's prompt, or one for all, for --phase to count that part only.",
    ),
    "skip_padding": (
        {"is_flag": True},
        "Leave out rows that are no text: padding, and stale rows that repeat one.  [default: refuse them]",
    ),
    "cumulative": (
        {"type": click.Choice(["last", "all"])},
        "Where sequences begin with others, as answers that hold the conversation so far: count the last of each "
        "conversation, or all.  [default: refuse them]",
    ),
    "shared_expert": (
        {"type": click.IntRange(min=0), "multiple": True, "metavar": "ID"},
        "Leave out an expert that every token has because the engine fused a shared one into the routed; may be "
        "repeated. "
        "K is that without it.",
    ),
    "omitted_prefix": (
        {"is_flag": True},
        "Read answers that lack the rows of a prompt's cached first tokens, as far as they go.  [default: refuse them]",
    ),
    "allow": (
        {"type": click.Choice(["repeats", "shared"]), "multiple": True},
        "Count what is otherwise refused: rows that repeat, an expert that every token has in every layer; may be "
        "repeated.",
    ),
    "ranks": (
        {"type": click.Choice(["add"])},
        "The FILES are counts of the ranks of one run: add them to one sum.",
    ),
}
"""What a reader may ask for, by the name of its keyword argument: keywords of ``click.option``, and its help."""


class _Formats(click.Group):
    """One command per format, made from what its reader asks for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from ..data.importers import formats

        return formats()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        from ..data.importers import importer

        reader = importer(cmd_name)
        command: Any = _run(reader)
        asked = inspect.signature(reader.read).parameters
        for name in reversed(OPTIONS):
            if name in asked:
                keywords, text = OPTIONS[name]
                keywords = {**_default(asked[name]), **keywords, "help": text}
                command = click.option(f"--{name.replace('_', '-')}", **keywords)(command)
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in asked.values()):
            command = flag_options(command)  # the settings of statistics that the files do not bring
        if reader.sequences:
            command = plan_options()(command)
        epilog = f"\b\nExamples:\n  mlx-moebench import {reader.example}\n"
        return click.command(cmd_name, help=reader.summary, epilog=epilog)(command)


def _default(parameter: inspect.Parameter) -> Json:
    default = parameter.default
    if default is inspect.Parameter.empty:
        return {"required": True}
    if default in (False, ()):  # a flag, or an option that may be repeated
        return {}
    text = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return {"default": text, "show_default": text is not None}


def _run(reader: Importer) -> Callable[..., None]:
    @click.argument("files", nargs=-1, required=True, metavar="[NAME=]FILE...")
    @output_option("Stats pair to write: OUT.json and OUT.safetensors.", required=True)
    @json_option("the report")
    @quiet_option
    def run(
        files: tuple[str, ...],
        output: Path,
        as_json: bool,
        quiet: bool,
        plan: Plan | None = None,
        flag: Flag | None = None,
        **asked: Any,
    ) -> None:
        from ..data.importers import named_files
        from ..pair.storage import check_writable, pair_paths, save_pairs
        from ._progress import progress
        from ._result import show

        hold(*pair_paths(output))
        check_writable(output)
        if flag is not None:  # the settings of statistics that the files do not bring
            asked |= {"tau": flag.tau, "collapse_on": flag.collapse_on}
        with progress(quiet) as step:
            step("reading the files", 0, 0)
            stats = reader.read(named_files(files, one_domain=bool(asked.get("ranks"))), **asked)
            stats.environment["command"] = command_line()
            step("computing the intervals", 0, 0)
            (report,) = save_pairs([(stats, output)], plan)
        show(output, {stats.phase: report}, as_json)

    return run


@click.command("import", cls=_Formats, epilog=EPILOG)
def command() -> None:
    """Turn routing that another program recorded into a stats pair.

    Several files are several domains, named after their files or as NAME=FILE, and the report then has
    findings on each router: collapsed, dominated, idle, specialised. What the files do not tell is null or open, with
    the reason.
    """
