"""Routers over a training: tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from ...types import Json
from ..figures import course_sentence, dynamics_series, label_of
from ..names import model_name, sizes
from ..numbers import UNDEFINED, decimals, percent, signed, with_interval
from .base import Terminal, answered, plain_table, sentences

COURSE = (
    ("saturation", "saturation"),
    ("saturation_top1", "of top-1"),
    ("change_rate", "change rate"),
    ("change_rate_top1", "of top-1"),
    ("coactivation_stability", "co-activation"),
    ("eae", "EAE"),
    ("ewa", "EWA"),
    ("margin_prob", "margin"),
    ("output_weight_similarity", "weight cosine"),
)
"""Measures as columns of the first table, and their heads."""


def print_dynamics(report: Json, console: Console | None = None) -> None:
    """Print the course over all routers, saturation and change by layer, margins by depth, and what changed."""
    (console or Terminal()).print(render(report))


def render(report: Json) -> Group:
    """The tables of a report of ``dynamics`` as one rich renderable."""
    heading = f"{model_name(report['model'])} on {report['data']['name']}: {sizes(report)}, "
    parts: list[Any] = [sentences([heading + f"{len(report['checkpoints'])} checkpoints"], "bold")]
    for kind in report["overall"]:
        of = f", {kind} routers" if len(report["overall"]) > 1 else ""
        parts += [_course(report, kind, of), _by_layer(report, kind, of), _depth(report, kind, of)]
        parts += [_trends(report, kind, of)] if report["trends"][kind] else []
    return Group(*parts, sentences(_notes(report), "dim"), answered([course_sentence(dynamics_series(report))]))


def _named(report: Json) -> list[str]:
    return [str(one["name"] if one["step"] is None else one["step"]) for one in report["checkpoints"]]


def _head(report: Json) -> str:
    return "checkpoint" if report["checkpoints"][0]["step"] is None else "step"


def _course(report: Json, kind: str, of: str) -> Table:
    table = plain_table(f"Mean over layers{of}")
    table.add_column(_head(report), justify="right", no_wrap=True)
    for _, head in COURSE:
        table.add_column(head, no_wrap=True)
    for name, at in zip(_named(report), report["overall"][kind], strict=True):
        entries = [at[measure] if measure in at else at["metrics"][measure] for measure, _ in COURSE]
        table.add_row(name, *(_cell(entry) for entry in entries))
    return table


def _by_layer(report: Json, kind: str, of: str) -> Table:
    table = plain_table(f"Saturation, change rate by layer{of}")
    table.add_column(_head(report), justify="right", no_wrap=True)
    routers = [router for router in report["routers"] if router["router"] == kind]
    for router in routers:
        table.add_column(f"layer {router['layer']}", justify="right", no_wrap=True)
    for number, name in enumerate(_named(report)):
        each = [router["checkpoints"][number] for router in routers]
        pairs = (tuple(decimals(at[key]["value"], 3) for key in ("saturation", "change_rate")) for at in each)
        table.add_row(name, *(f"{a}, {'-' if b == UNDEFINED else b}" for a, b in pairs))
    chances = [f"{decimals(c, 3)}, {decimals(1 - c, 3)}" for c in (router["chance"]["top_k"] for router in routers)]
    table.add_row("chance", *chances)
    return table


def _depth(report: Json, kind: str, of: str) -> Table:
    table = plain_table(f"Margin by depth{of}: slope per layer, and Kendall's tau with p")
    table.add_column(_head(report), justify="right", no_wrap=True)
    margins = list(report["depth"][kind][0])
    for margin in margins:
        table.add_column(label_of(margin)[0], no_wrap=True)
        table.add_column("tau, p", no_wrap=True)
    for name, at in zip(_named(report), report["depth"][kind], strict=True):
        cells = []
        for margin in margins:
            slope, tau, p = (at[margin][key] for key in ("slope", "tau", "p"))
            cells.append(with_interval(slope["value"], slope, 4, signed))
            cells.append(UNDEFINED if tau is None else f"{signed(tau, 2)}, {p:.2g}")
        table.add_row(name, *cells)
    return table


def _trends(report: Json, kind: str, of: str) -> Table:
    names = _named(report)
    table = plain_table(f"What changed{of}, later minus earlier, paired")
    for head in ("measure", "from", "to", "change", "unit"):
        table.add_column(head, no_wrap=True)
    for measure, entry in report["trends"][kind].items():
        label, unit = label_of(measure)
        change = with_interval(entry["value"], entry, 4, signed)
        table.add_row(label, names[entry["first"]], names[entry["last"]], change, unit)
    return table


def _notes(report: Json) -> Iterator[str]:
    ci = report["settings"]["ci"]
    yield (
        "saturation: share of a token's K experts that the last checkpoint chooses, too (1 for itself); change rate: "
        "share that the checkpoint before did not choose; co-activation: correlation of the lifts of all pairs of "
        "experts with the checkpoint before; weight cosine: of the experts' output weights."
    )
    steps = [one["step"] for one in report["checkpoints"]]
    apart = {b - a for a, b in pairwise(steps) if None not in (a, b)}
    if len(apart) > 1:
        yield "The checkpoints are not evenly spaced: a change rate over more steps is of more training."
    entries = [at[key] for rows in report["overall"].values() for at in rows for key in ("saturation", "change_rate")]
    if any(entry["low"] is not None for entry in entries):
        yield f"[low, high]: {percent(ci['level'])} intervals over sequences, {ci['resamples']:,} draws."
    reasons = dict.fromkeys(e["reason"] for e in entries if "reason" in e and "before the first" not in e["reason"])
    yield from (f"No interval: {reason}." for reason in reasons)


def _cell(entry: Json) -> str:
    return "-" if entry["value"] is None else with_interval(entry["value"], entry, 3, decimals)
