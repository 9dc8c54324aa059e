"""What quantising does to routing: tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from ...types import Json
from ..figures import arm_words, kept_sentence, quant_series
from ..names import model_name, sizes
from ..numbers import decimals, percent, signed, with_interval
from .base import Terminal, answered, plain_table, sentences
from .comparison import DEFAULT, SHORT

COLUMNS = (
    ("exact_set_rate", "sets kept", 3),
    ("routing_overlap", "experts shared", 3),
    ("top1_flip", "top-1 flips", 3),
    ("kl", "KL, nats", 4),
)
"""Measures as columns: name, head, digits."""

EXACT = "exact_set_rate"


def print_quant(report: Json, metrics: Sequence[str] = DEFAULT, console: Console | None = None) -> None:
    """Print every arm over all routers, by layer and by margin, what its routers cause, and how metrics change."""
    (console or Terminal()).print(render(report, metrics))


def render(report: Json, metrics: Sequence[str] = DEFAULT) -> Group:
    """The tables of a report of ``compare --quant`` as one rich renderable."""
    data = {"model": report["model"], "data": report["data"]}
    heading = f"{model_name(report['model'])} on {report['data']['name']}: {sizes(data)}; as stored, and in arms:"
    lines = [heading, *(f"  {arm['arm']}: {arm_words(arm)}" for arm in report["arms"])]
    parts: list[Any] = [sentences(lines, "bold")]
    for kind in report["arms"][0]["overall"]:
        parts += [_overall(report, kind), _by_layer(report, kind), _by_margin(report, kind)]
        parts += [_separations(report, kind)] * bool(report["separations"])
        parts += [_metrics(report, kind, metrics)] * bool(metrics)
    return Group(*parts, sentences(_notes(report), "dim"), answered([kept_sentence(quant_series(report))]))


def _of(report: Json, kind: str) -> str:
    return f", {kind} routers" if len(report["arms"][0]["overall"]) > 1 else ""


def _overall(report: Json, kind: str) -> Table:
    table = plain_table(f"All layers{_of(report, kind)}", gap=2)
    table.add_column("arm", no_wrap=True)
    for _, head, _ in COLUMNS:
        table.add_column(head, no_wrap=True)
    table.add_column("sets kept, same input", no_wrap=True)
    for arm in report["arms"]:
        row = arm["overall"][kind]
        cells = [_cell(row["own"][name], digits) for name, _, digits in COLUMNS]
        table.add_row(arm["arm"], *cells, _cell(row["same_input"][EXACT], 3))
    return table


def _by_layer(report: Json, kind: str) -> Table:
    table = plain_table(f"Sets kept by layer{_of(report, kind)}", gap=2)
    table.add_column("layer", justify="right", no_wrap=True)
    for arm in report["arms"]:
        table.add_column(arm["arm"], no_wrap=True)
    for routers in zip(*(arm["routers"] for arm in report["arms"]), strict=True):
        if routers[0]["router"] == kind:
            table.add_row(str(routers[0]["layer"]), *(_cell(r["own"][EXACT], 3) for r in routers))
    return table


def _by_margin(report: Json, kind: str) -> Table:
    table = plain_table(f"Sets kept by selection margin as stored, all layers{_of(report, kind)}", gap=2)
    table.add_column("margin from", justify="right", no_wrap=True)
    table.add_column("to", justify="right", no_wrap=True)
    for arm in report["arms"]:
        table.add_column(arm["arm"], no_wrap=True)
    for tenths in zip(*(arm["overall"][kind]["by_margin"] for arm in report["arms"]), strict=True):
        edges = [f"{tenths[0]['margin'][end]:.2g}" for end in ("low", "high")]
        table.add_row(*edges, *(_cell(tenth[EXACT], 3) for tenth in tenths))
    return table


def _separations(report: Json, kind: str) -> Table:
    table = plain_table(f"Of the sets lost, the share that the routers' own bits cause{_of(report, kind)}", gap=2)
    table.add_column("arm", no_wrap=True)
    table.add_column("on top of the weights", no_wrap=True)
    table.add_column("alone", no_wrap=True)
    for one in report["separations"]:
        shares = one["overall"][kind]
        last = f"{_cell(shares['last'], 3)} (beside {one['high']})"
        first = "-" if shares["first"] is None else f"{_cell(shares['first'], 3)} ({one['alone']})"
        table.add_row(one["low"], last, first)
    return table


def _metrics(report: Json, kind: str, metrics: Sequence[str]) -> Table:
    table = plain_table(f"Metrics, arm minus as stored, mean over routers{_of(report, kind)}", gap=2)
    table.add_column("metric", overflow="fold")
    table.add_column("as stored", justify="right", no_wrap=True)
    for arm in report["arms"]:
        table.add_column(arm["arm"], no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for name in metrics:
        effects = [arm["overall"][kind]["effects"].get(name) for arm in report["arms"]]
        if None in effects:
            continue
        cells = [with_interval(e["effect"], e, 4, signed, ends=decimals) for e in effects]
        unit = report["units"][name]
        table.add_row(name, decimals(effects[0]["a"], 4), *cells, SHORT.get(unit, unit))
    return table


def _notes(report: Json) -> Iterator[str]:
    ci = report["settings"]["ci"]
    yield (
        "sets kept: share of tokens whose whole set of experts is that of the model as stored; top-1 flips: first "
        "choices that differ; KL of the arm's distribution from the stored one; same input: where each layer of the "
        "arm sees the hidden states of the model as stored, so that only its own bits count."
    )
    if report["separations"]:
        yield (
            "On top of the weights: what the arm loses beyond one of finer routers; alone: what its routers lose with "
            "all else as stored; both over what it loses. They differ where a set is lost either way."
        )
    if any(arm["overall"][kind]["own"]["kl"]["low"] is not None for arm in report["arms"] for kind in arm["overall"]):
        yield f"[low, high]: {percent(ci['level'])} intervals over sequences, {ci['resamples']:,} draws, paired."
    for arm in report["arms"]:
        for reason in dict.fromkeys(_reasons(arm)):
            yield f"No interval in {arm['arm']}: {reason}."
        yield from (f"{arm['arm']}: {note}" for note in arm["notes"])


def _reasons(arm: Json) -> Iterator[str]:
    for row in (*arm["overall"].values(), *arm["routers"]):
        for estimate in (*row["own"].values(), row["same_input"][EXACT]):
            if "reason" in estimate:
                yield str(estimate["reason"])


def _cell(entry: Json, digits: int) -> str:
    return with_interval(entry["value"], entry, digits, decimals)
