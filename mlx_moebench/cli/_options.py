"""Options that several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

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
