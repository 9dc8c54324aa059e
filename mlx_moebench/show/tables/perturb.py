"""Perturbed routers against the model as it is: tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from ...types import Facts, Json
from ..names import model_name
from ..numbers import count, decimals, with_interval
from .base import Terminal, interval_notes, plain_table, router_table, sentences


def print_perturbed(report: Json, console: Console | None = None) -> None:
    """Print what each perturbation of all routers does, and below it, where they were run, of each router alone."""
    (console or Terminal()).print(render(report))


def render(report: Json) -> Group:
    """The tables of a report as one rich renderable."""
    parts: list[Any] = [sentences([tested(report)], "bold"), _whole(report)]
    if any(one["router"] is not None for one in report["runs"]):
        parts.append(_alone(report))
    note = effects_note(report)
    note += (
        "\nsets kept: share of tokens whose set of experts a router would have chosen unchanged, on the hidden state "
    )
    note += "that it got; mean over routers."
    return Group(*parts, interval_notes(note, effects(report["runs"]), report["settings"]["ci"]))


def effects_note(report: Facts) -> str:
    """What the columns of an effect are."""
    note = (
        "loss change: mean over tokens of the loss of the next one, in nats, minus that of the model as it is; of the "
        "same tokens, so paired.\nsame next token: share of tokens of which both find the same next one most likely."
    )
    return note + "\naccuracy change, same choice: of the answers to the questions." * ("accuracy" in report)


def tested(report: Facts) -> str:
    """The model, and what its changed selves were run on."""
    data = report["data"]
    said = (
        f"{model_name(report['model'])} on {data['name']}: {data['n_sequences']:,} sequences, {data['n_tokens']:,} "
        f"tokens, loss {shown(report['loss'])} nats a token"
    )
    if "accuracy" in report:
        said += f"; {count(report['accuracy']['n'], 'question')}, accuracy {shown(report['accuracy'])}"
    return said


def effect_columns(table: Table, report: Facts) -> None:
    """The columns that `effect_cells` fills."""
    names = ("loss change", "same next token", *(("accuracy change", "same choice") if "accuracy" in report else ()))
    for name in names:
        table.add_column(name, no_wrap=True)


def effect_cells(one: Facts) -> list[str]:
    """What a change does, in words of numbers."""
    names = ("loss_change", "agreement", "accuracy_change", "choice_agreement")
    return [shown(one[name]) for name in names if name in one]


def effects(runs: list[Json]) -> Iterator[Facts]:
    """The entries of all runs that may have intervals."""
    for one in runs:
        yield from (one[name] for name in ("loss_change", "agreement", "accuracy_change") if name in one)


def _whole(report: Json) -> Table:
    table = plain_table()
    table.add_column("all routers")
    effect_columns(table, report)
    table.add_column("sets kept", no_wrap=True)
    for one in report["runs"]:
        if one["router"] is None:
            kept = sum(each["value"] for each in one["sets_kept"]) / len(one["sets_kept"])
            table.add_row(one["perturbation"], *effect_cells(one), decimals(kept, 3))
    return table


def _alone(report: Json) -> Table:
    names = list(dict.fromkeys(one["perturbation"] for one in report["runs"]))
    table, routers = router_table(report["routers"], "Loss change, of one router alone")
    for name in names:
        table.add_column(name, no_wrap=True)
    found = {(one["perturbation"], one["router"]): one for one in report["runs"]}
    for number, cells in enumerate(routers):
        cells += [shown(one["loss_change"]) if (one := found.get((name, number))) else "" for name in names]
        table.add_row(*cells)
    return table


def shown(entry: Facts) -> str:
    """A number with its interval."""
    return with_interval(entry["value"], entry, 3, decimals)
