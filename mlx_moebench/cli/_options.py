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


def flag_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--tau and --collapse-on, which define the flag ``collapsed``."""
    for option in reversed(_FLAG):
        command = option(command)
    return command


def interval_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--ci, --resamples and --seed, from which a `routing.Plan` is made."""
    for option in reversed(_INTERVALS):
        command = option(command)
    return command
