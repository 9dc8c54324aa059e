"""Options that several subcommands share."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_BACKEND = click.option(
    "--backend",
    type=click.Choice(["mlx", "torch"]),
    default="mlx",
    show_default=True,
    help="What runs the model: MLX, or transformers on torch (CUDA, Apple GPU, CPU).",
)

_PRECISION = (
    click.option(
        "--device", type=click.Choice(["auto", "gpu", "cpu", "mps", "cuda"]), default="auto", show_default=True
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Cast the weights.  [default: as stored; float32 on a CPU]",
    ),
    click.option(
        "--bits",
        type=click.Choice(["4", "8"]),
        help="Quantise while loading; routers keep 8 bit (on torch 4 only, as NF4, routers 16).  [default: as stored]",
    ),
    click.option("--4bit", "four_bit", is_flag=True, help="The same as --bits 4."),
    click.option(
        "--router-bits",
        type=click.Choice(["4", "8", "16"]),
        help="Bits of the routers, 16 for unquantised.  [default: 8 with --bits, else as stored]",
    ),
    click.option(
        "--adapter-path", type=click.Path(), help="Folder of a LoRA, DoRA or full adapter made by mlx_lm.lora."
    ),
)

_MODEL = (
    click.option(
        "--model", help="Folder or hub id of an MoE checkpoint in safetensors.  [default: the embedded moebench-nano]"
    ),
    *_PRECISION,
    click.option("--trust-remote-code", is_flag=True, help="Allow a checkpoint to run its own Python."),
)

_TEXTS = (
    click.option("--text-field", help="Field of a .jsonl or .csv that holds the text.  [default: found by name]"),
    click.option("--max-samples", type=click.IntRange(min=1), help="Use the first N documents.  [default: all]"),
    click.option(
        "--max-length",
        type=click.IntRange(min=2),
        default=256,
        show_default=True,
        help="Tokens kept of a document (of a window, for .txt).",
    ),
)

_DATA = (
    click.option(
        "--dataset",
        default="math",
        show_default=True,
        help="math, general, code; a .jsonl, .txt or .csv file or a folder of them; or hub:ID[:CONFIG[:SPLIT]].",
    ),
    *_TEXTS,
)

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def command_line() -> str:
    """What the user typed, for a report."""
    program = click.get_current_context().find_root().info_name or "mlx-moebench"
    return f"{program} {shlex.join(sys.argv[1:])}"


def size_in_bytes(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Click callback: bytes, written as ``500MB`` or ``2 GB`` in decimal units."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", value.strip(), re.IGNORECASE)
    if not found:
        raise click.BadParameter(f"{value!r} is no size: write 500MB or 2GB.", context, parameter)
    return int(float(found[1]) * _UNITS[found[2].upper()])


_METHOD = click.option(
    "--ci",
    type=click.Choice(["bca", "percentile", "layer"]),
    default="bca",
    show_default=True,
    help="Interval of means: over sequences (bca, percentile), or over layers as published tables do.",
)


def _method_over_sequences(of: str) -> Callable[..., Any]:
    """--ci where layers cannot be resampled."""
    return click.option(
        "--ci", type=click.Choice(["bca", "percentile"]), default="bca", show_default=True, help=f"Interval of {of}."
    )


_LEVEL = click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Level of the intervals.",
)
_RESAMPLING = (
    click.option(
        "--resamples", type=click.IntRange(min=100), default=2000, show_default=True, help="Bootstrap resamples."
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Seed of the bootstrap; the measurement has none.",
    ),
)

_FLAG = (
    click.option(
        "--tau",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.40,
        show_default=True,
        help="A router is flagged as collapsed when its busiest expert's share exceeds this.",
    ),
    click.option(
        "--collapse-on",
        type=click.Choice(["top_share_token", "top_share_selection", "top_share_top1"]),
        default="top_share_token",
        show_default=True,
        help="The share that --tau is compared with.",
    ),
)


def backend_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--backend: the library that runs a model."""
    return _BACKEND(command)


def precision_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--device, --dtype, --bits, --4bit, --router-bits and --adapter-path: how a model is loaded."""
    return _with(_PRECISION, command)


def flag_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--tau and --collapse-on, which define the flag ``collapsed``."""
    return _with(_FLAG, command)


def interval_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--ci, --resamples and --seed, from which a `routing.Plan` is made."""
    return _with((_METHOD, *_RESAMPLING), command)


def difference_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same and --level, for intervals of differences."""
    return _with((_method_over_sequences("differences of means"), _LEVEL, *_RESAMPLING), command)


def sequence_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--ci without layers, --resamples and --seed, for intervals that only sequences can give."""
    return _with((_method_over_sequences("mean losses over sequences"), *_RESAMPLING), command)


def _with(options: tuple[Callable[..., Any], ...], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--model and how it is loaded: --device, --dtype, --bits, --4bit, --router-bits, --adapter-path, ..."""
    return _with(_MODEL, command)


def text_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--text-field, --max-samples and --max-length: how a data set is read."""
    return _with(_TEXTS, command)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--dataset and `text_options`."""
    return _with(_DATA, command)


def chosen_bits(bits: str | None, four_bit: bool) -> str | None:
    """What --bits and --4bit say together."""
    if four_bit and bits not in (None, "4"):
        raise click.UsageError(f"--4bit means --bits 4 and contradicts --bits {bits}; give one of them.")
    return "4" if four_bit else bits


def model_names(model: str | None, bits: str | None, router_bits: str | None, adapter_path: str | None) -> list[str]:
    """The parts of a default file name that tell this model from others."""
    names = [Path(model or "moebench-nano").name or "data"]
    names += [f"{bits}bit"] if bits else []
    names += [f"router{router_bits}bit"] if router_bits else []
    return [*names, Path(adapter_path).name or "adapter"] if adapter_path else names


def file_name(kind: str, names: list[str]) -> Path:
    """KIND_NAME_NAME.json, with nothing in it that a shell or a file system minds."""
    from ..pair.storage import plain_name

    return Path(plain_name("_".join([kind, *names])) + ".json")
