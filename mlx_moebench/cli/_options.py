"""Options that several subcommands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def size_in_bytes(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Click callback: bytes, written as ``500MB`` or ``2 GB`` in decimal units."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", value.strip(), re.IGNORECASE)
    if not found:
        raise click.BadParameter(f"{value!r} is no size: write 500MB or 2GB.", context, parameter)
    return int(float(found[1]) * _UNITS[found[2].upper()])


_INTERVALS = (
    click.option(
        "--ci",
        type=click.Choice(["bca", "percentile", "layer"]),
        default="bca",
        show_default=True,
        help="Interval of means: over sequences (bca, percentile), or over layers as published tables do.",
    ),
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


def interval_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--ci, --resamples and --seed, from which a `routing.Plan` is made."""
    for option in reversed(_INTERVALS):
        command = option(command)
    return command
