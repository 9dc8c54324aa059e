"""Options that several subcommands share: each is spelt once, and means the same wherever it stands.

A group of them reaches its command as the one object of `mlx_moebench.options` that they make.
"""

from __future__ import annotations

import copy
import shlex
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..options import (
    AUTO,
    BITS,
    COLLAPSE_SHARES,
    DTYPES,
    LONG,
    ROUTER_BITS,
    SPLITS,
    STREAM,
    UNQUANTISED,
    Flag,
    Loading,
    Plan,
    Reading,
    Thresholds,
)
from ._completion import complete_data, complete_models
from ._early import check_adapter, check_data, check_models
from ._values import Sequences, size_or_none

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

LOADING: Mapping[str, Decorator] = {
    "backend": click.option(
        "--backend",
        type=click.Choice(["mlx", "torch"]),
        default="mlx",
        show_default=True,
        help="What runs the model: MLX, or transformers on torch (CUDA, Apple GPU, CPU).",
    ),
    "device": click.option(
        "--device",
        type=click.Choice(["auto", "gpu", "cpu", "mps", "cuda"]),
        default="auto",
        show_default=True,
        help="Where the model runs.",
    ),
    "dtype": click.option(
        "--dtype", type=click.Choice(DTYPES), help="Cast the weights.  [default: as stored; float32 on a CPU]"
    ),
    "bits": click.option(
        "--bits",
        type=click.Choice(BITS),
        help="Quantise while loading; routers keep 8 bit (on torch 4 only, as NF4, routers 16).  [default: as stored]",
    ),
    "four_bit": click.option("--4bit", "four_bit", is_flag=True, help="The same as --bits 4."),
    "router_bits": click.option(
        "--router-bits",
        type=click.Choice(ROUTER_BITS),
        help="Bits of the routers, 16 for unquantised.  [default: 8 with --bits, else as stored]",
    ),
    "routers_from": click.option(
        "--routers-from",
        metavar="MODEL",
        help="The model that a quantised one was made from: its unquantised routers take the place of the quantised "
        "ones.",
        shell_complete=complete_models,
        callback=check_models,
    ),
    "adapter_path": click.option(
        "--adapter-path",
        type=click.Path(),
        callback=check_adapter,
        help="Folder of a LoRA, DoRA or full adapter made by mlx_lm.lora.",
    ),
    "trust_remote_code": click.option(
        "--trust-remote-code", is_flag=True, help="Allow a checkpoint to run its own Python."
    ),
    "stream": click.option(
        "--stream",
        type=click.Choice(STREAM),
        default=STREAM[0],
        show_default=True,
        help="Read the weights one layer at a time, all texts through each: always (on), or where all of them do not "
        "fit into memory (auto).",
    ),
    "stream_memory": click.option(
        "--stream-memory",
        metavar="SIZE",
        callback=size_or_none,
        help="Hidden states between two layers that stay in memory, as 2GB; others go to the disk.  [default: a "
        "quarter of what is free]",
    ),
}
"""How a model is loaded: all of them stand in every command that loads one; the tests list the exceptions."""


def batch_size_option(text: str, default: int = 8, fitted: bool = False) -> Decorator:
    """--batch-size. fitted: whether it may be ``auto``."""
    kind, metavar = (Sequences(min=1), f"N|{AUTO}") if fitted else (click.IntRange(min=1), None)
    return click.option("--batch-size", type=kind, metavar=metavar, default=default, show_default=True, help=text)


READING: Mapping[str, Decorator] = {
    "text_field": click.option("--text-field", help="Field of a row that holds the text.  [default: found by name]"),
    "max_samples": click.option(
        "--max-samples", type=click.IntRange(min=1), help="Use the first N documents.  [default: all]"
    ),
    "max_length": click.option(
        "--max-length",
        type=click.IntRange(min=2),
        default=256,
        show_default=True,
        help="Tokens of a sequence.",
    ),
    "split_on": click.option(
        "--split-on",
        type=click.Choice(SPLITS),
        default=SPLITS[0],
        show_default=True,
        help="What a document of a file of text is: the file, a paragraph (blank), a line. Elsewhere it is a row.",
    ),
    "long": click.option(
        "--long",
        type=click.Choice(LONG),
        help="What becomes of a document of more than --max-length tokens, in every format: cut off, or cut into "
        "windows.  [default: windows where it is a whole file, else truncate]",
    ),
    "batch_size": batch_size_option(
        "Sequences per forward pass; auto: as many of about the same length as make 2,048 tokens, and fit into 512 MiB "
        "of work.",
        fitted=True,
    ),
}
"""How a data set is read."""

PLAN: Mapping[str, Decorator] = {
    "ci": click.option(
        "--ci",
        type=click.Choice(["bca", "percentile", "layer"]),
        default="bca",
        show_default=True,
        help="Interval of means: over sequences (bca, percentile), or over layers, as in published tables.",
    ),
    "level": click.option(
        "--level",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.95,
        show_default=True,
        help="Level of the intervals.",
    ),
    "resamples": click.option(
        "--resamples", type=click.IntRange(min=100), default=2000, show_default=True, help="Bootstrap resamples."
    ),
    "seed": click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Seed of the bootstrap; measuring itself is not random.",
    ),
}
"""How intervals are made."""

FLAG: Mapping[str, Decorator] = {
    "tau": click.option(
        "--tau",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.40,
        show_default=True,
        help="A router is flagged as collapsed when its busiest expert's share exceeds this.",
    ),
    "collapse_on": click.option(
        "--collapse-on",
        type=click.Choice(COLLAPSE_SHARES),
        default=COLLAPSE_SHARES[0],
        show_default=True,
        help="The share that --tau is compared with.",
    ),
}
"""When a router is flagged as collapsed."""


SPELLINGS: tuple[tuple[str, ...], ...] = (
    ("--max-length", "--max-seq-length", "--max-tokens"),
    ("--max-samples", "--limit"),
    ("--dataset", "--data", "--domain"),
    ("--metric", "--metrics"),
)
"""Names of one idea. Where a command shows one of them, the others are accepted too, and no help lists them."""


def accept_spellings(command: click.Command) -> None:
    """Add the `SPELLINGS` that ``command`` does not show, as hidden options that set the same value."""
    have = {flag: option for option in command.params for flag in option.opts}
    for names in SPELLINGS:
        shown = next((have[name] for name in names if name in have), None)
        for name in names:
            if isinstance(shown, click.Option) and name not in have:
                hidden = copy.copy(shown)
                hidden.opts, hidden.secondary_opts, hidden.hidden = [name], [], True
                command.params.append(hidden)


STREAMING = ("stream", "stream_memory")
"""Those of `LOADING` for commands that run texts through a model and do nothing else with it."""


def loading_options(*, without: Collection[str] = (), model: bool = True) -> Decorator:
    """--model (unless the command spells its own) and `LOADING`; the command gets ``loading``, a `Loading`."""
    named = click.option(
        "--model",
        help="Folder or hub id of an MoE checkpoint in safetensors.  [default: the embedded moebench-nano]",
        shell_complete=complete_models,
        callback=check_models,
    )

    def make(bits: int | None = None, four_bit: bool = False, **choices: Any) -> Loading:
        if four_bit and bits not in (None, 4):
            raise click.UsageError(f"--4bit means --bits 4 and contradicts --bits {bits}; give one of them.")
        return Loading(bits=4 if four_bit else bits, **choices)

    options_of = grouped("loading", make, LOADING, without)
    return (lambda command: named(options_of(command))) if model else options_of


def reading_options(*, dataset: bool = True, batch_size: tuple[int, str] | None = None) -> Decorator:
    """--dataset (unless the command spells its own) and `READING`; the command gets ``reading``, a `Reading`.

    batch_size: another default than 8, and its help.
    """
    named = click.option(
        "--dataset",
        default="math",
        show_default=True,
        help="math, general, code; a file (.jsonl, .json, .csv, .tsv, .parquet, .txt, code; also .gz) or a folder of "
        "them; or hub:ID[:CONFIG[:SPLIT]]; each with @FIELD for its text field.",
        shell_complete=complete_data,
        callback=check_data,
    )
    options = dict(READING)
    if batch_size is not None:
        default, text = batch_size
        options["batch_size"] = batch_size_option(text, default)
    options_of = grouped("reading", Reading, options)
    return (lambda command: named(options_of(command))) if dataset else options_of


def flag_options(command: Command) -> Command:
    """`FLAG`; the command gets ``flag``, a `Flag`."""
    return grouped("flag", Flag, FLAG)(command)


def _thresholds(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Thresholds:
    """Click callback: NAME=VALUE, each."""
    named: dict[str, float] = {}
    for text in values:
        name, _, value = text.partition("=")
        try:
            named[name] = float(value)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no threshold: write NAME=VALUE, such as odds=3.") from error
    return Thresholds.of(named)


THRESHOLDS = click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_thresholds,
    help="What findings over several domains are measured against; again for more. NAME: "
    + ", ".join(f"{one.name} ({one.default:g})" for one in fields(Thresholds))
    + ".",
)


def plan_options(of: str | None = None) -> Decorator:
    """`PLAN`; the command gets ``plan``, a `Plan`. of: of what the intervals are, where layers cannot be resampled.

    Commands whose intervals are of routers have the thresholds of findings, too.
    """
    options = dict(PLAN) | ({"thresholds": THRESHOLDS} if of is None else {})
    if of is not None:
        options["ci"] = click.option(
            "--ci",
            type=click.Choice(["bca", "percentile"]),
            default="bca",
            show_default=True,
            help=f"Interval of {of}.",
        )
    return grouped("plan", lambda ci, **choices: Plan(method=ci, **choices), options)


def _force(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Click callback: files of others may be replaced while the command runs."""
    from ..files import forcing

    if value:
        context.with_resource(forcing())


force_option: Decorator = click.option(
    "--force",
    is_flag=True,
    expose_value=False,
    callback=_force,
    help="Replace files that mlx-moebench did not write, which is otherwise refused; never a run that did not finish.",
)


def output_option(text: str, force: bool = True, **settings: Any) -> Decorator:
    """-o/--output, the file or folder to write, and --force."""
    named = click.option("-o", "--output", help=text, **{"type": click.Path(path_type=Path)} | settings)
    return (lambda command: named(force_option(command))) if force else named


def json_option(what: str) -> Decorator:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")


quiet_option: Decorator = click.option("--quiet", is_flag=True, help="Show no progress on stderr.")


def resume_option(what: str) -> Decorator:
    """--resume."""
    return click.option(
        "--resume", is_flag=True, help=f"Continue from {what}; the options must be those of the first run."
    )


def grouped(
    name: str, make: Callable[..., Any], options: Mapping[str, Decorator], without: Collection[str] = ()
) -> Decorator:
    """Options whose values reach the command as one object, ``make(**values)``, under ``name``."""
    kept = {key: option for key, option in options.items() if key not in without}

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_one(**values: Any) -> Any:
            made = make(**{key: values.pop(key) for key in kept})
            return command(**{name: made}, **values)

        whole: Command = with_one
        for option in reversed(kept.values()):
            whole = option(whole)
        return whole

    return decorate


def hold(*outputs: Path, writes: bool = True) -> None:
    """Be the one process that writes ``outputs`` until the command ends; see `locks.holding`.

    writes: whether this process does, where several share the work.
    """
    from ..locks import holding

    if writes:
        click.get_current_context().with_resource(holding(*outputs))


def typed(names: Collection[str]) -> list[str]:
    """Those of ``names`` that the user typed, spelt as options."""
    context = click.get_current_context()
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name in names
        and not getattr(parameter, "hidden", False)
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]


def command_line() -> str:
    """What the user typed, for a report."""
    program = click.get_current_context().find_root().info_name or "mlx-moebench"
    return f"{program} {shlex.join(sys.argv[1:])}"


def model_names(model: str | None, loading: Loading) -> list[str]:
    """The parts of a default file name that tell this model from others."""
    names = [Path(model or "moebench-nano").name or "data"]
    names += [f"{loading.bits}bit"] if loading.bits else []
    router_bits = loading.router_bits or (UNQUANTISED if loading.routers_from else None)
    names += [f"router{router_bits}bit"] if router_bits else []
    return [*names, Path(loading.adapter_path).name or "adapter"] if loading.adapter_path else names


def file_name(kind: str, names: list[str]) -> Path:
    """KIND_NAME_NAME.json, with nothing in it that a shell or a file system minds."""
    from ..files import plain_name

    return Path(plain_name("_".join([kind, *names])) + ".json")
