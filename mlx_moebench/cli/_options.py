"""Options that several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_METHOD = click.option(
    "--ci",
    type=click.Choice(["bca", "percentile", "layer"]),
    default="bca",
    show_default=True,
    help="Interval of means: over sequences (bca, percentile), or over layers as published tables do.",
)
_METHOD_OF_DIFFERENCES = click.option(
    "--ci",
    type=click.Choice(["bca", "percentile"]),
    default="bca",
    show_default=True,
    help="Interval of differences of means.",
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


def interval_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--ci, --resamples and --seed, from which a `routing.Plan` is made."""
    return _with((_METHOD, *_RESAMPLING), command)


def difference_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same and --level, for intervals of differences."""
    return _with((_METHOD_OF_DIFFERENCES, _LEVEL, *_RESAMPLING), command)


def _with(options: tuple[Callable[..., Any], ...], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
