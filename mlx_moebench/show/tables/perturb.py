"""Perturbed routers against the model as it is: tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...printable import one_line
from ...types import Json
from ..names import model_name
from ..numbers import decimals, percent, with_interval
from .base import Terminal, plain_table, sentences


def print_perturbed(report: Json, console: Console | None = None) -> None:
    """Print what each perturbation of all routers does, and below it, where they were run, of each router alone."""
    (console or Terminal()).print(render(report))


def render(report: Json) -> Group:
    """The tables of a report as one rich renderable."""
    data, ci = report["data"], report["settings"]["ci"]
    heading = sentences(
        [
            f"{model_name(report['model'])} on {data['name']}: {data['n_sequences']:,} sequences, {data['n_tokens']:,} "
            f"tokens, loss {_shown(report['loss'])} nats a token"
        ],
        "bold",
    )
    parts: list[Any] = [heading, _whole(report)]
    if any(one["router"] is not None for one in report["runs"]):
        parts.append(_alone(report))
    note = (
        "loss change: mean over tokens of the loss of the next one, in nats, minus that of the model as it is; of the "
        "same tokens, so paired.\nsame next token: share of tokens of which both find the same next one most likely.\n"
        "sets kept: share of tokens whose set of experts a router would have chosen unchanged, on the hidden state "
        "that it got; mean over routers.\n"
    )
    if report["loss"]["low"] is not None:
        note += f"[low, high]: {percent(ci['level'])} bootstrap over sequences, {ci['resamples']:,} resamples."
    note += "".join(f"\nNo interval: {one_line(reason)}." for reason in dict.fromkeys(_reasons(report)))
    return Group(*parts, Text(note, style="dim"))


def _whole(report: Json) -> Table:
    table = plain_table()
    table.add_column("all routers")
    for name in ("loss change", "same next token", "sets kept"):
        table.add_column(name, no_wrap=True)
    for one in report["runs"]:
        if one["router"] is None:
            kept = sum(each["value"] for each in one["sets_kept"]) / len(one["sets_kept"])
            cells = (_shown(one["loss_change"]), _shown(one["agreement"]), decimals(kept, 3))
            table.add_row(one["perturbation"], *cells)
    return table


def _alone(report: Json) -> Table:
    names = list(dict.fromkeys(one["perturbation"] for one in report["runs"]))
    kinds = {router["router"] for router in report["routers"]}
    table = plain_table("Loss change, of one router alone")
    table.add_column("layer", justify="right")
    if len(kinds) > 1:
        table.add_column("router")
    for name in names:
        table.add_column(name, no_wrap=True)
    found = {(one["perturbation"], one["router"]): one for one in report["runs"]}
    for number, router in enumerate(report["routers"]):
        cells = [str(router["layer"]), *([router["router"]] if len(kinds) > 1 else [])]
        cells += [_shown(one["loss_change"]) if (one := found.get((name, number))) else "" for name in names]
        table.add_row(*cells)
    return table


def _shown(entry: Json) -> str:
    return with_interval(entry["value"], entry, 3, decimals)


def _reasons(report: Json) -> Iterator[str]:
    for one in report["runs"]:
        for name in ("loss_change", "agreement"):
            if "reason" in one[name]:
                yield str(one[name]["reason"])
