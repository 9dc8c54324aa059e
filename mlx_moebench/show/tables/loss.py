"""Routing uncertainty against loss: tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...printable import one_line
from ...types import Json
from ..figures import uncertainty_sentence, uncertainty_series
from ..names import SCORES, model_name
from ..numbers import UNDEFINED, decimals, with_interval
from .base import Terminal, answered, interval_notes, plain_table, router_table, sentences


def print_uncertainty(report: Json, console: Console | None = None) -> None:
    """Print the correlations of every router, their means, the loss of the outer tenths, and the example tokens."""
    (console or Terminal()).print(render(report))


def render(report: Json) -> Group:
    """The tables of a report as one rich renderable."""
    data, ci = report["data"], report["settings"]["ci"]
    heading = sentences(
        [
            f"{model_name(report['model'])} on {data['name']}: {data['n_sequences']:,} sequences, "
            f"{report['n_pairs']:,} tokens with a next one, mean loss {_plain(report['mean_loss'], 'value')} nats"
        ],
        "bold",
    )
    parts: list[Any] = [heading, _routers(report)]
    if report["tokens"]:
        parts.append(_tokens(report))
    note = (
        "rho: Spearman's rank correlation of a router's entropy, or selection margin, at a token with the loss of the "
        "next token. A small margin is an uncertain choice: there, uncertainty predicts loss where rho is negative.\n"
        "loss: mean, in nats, of the tenth of the tokens with the least entropy, and of that with the most."
    )
    entries = (report["mean_loss"], *(router[name] for router in report["routers"] for name in SCORES))
    return Group(
        *parts, interval_notes(note, entries, ci), answered([uncertainty_sentence(uncertainty_series(report))])
    )


def _routers(report: Json) -> Table:
    table, names = router_table(report["routers"])
    for words, _ in SCORES.values():
        table.add_column(f"rho, {words}", no_wrap=True)
    table.add_column("loss", no_wrap=True)
    for r, cells in zip(report["routers"], names, strict=True):
        cells += [_plain(r[name], "rho") for name in SCORES]
        bins = r["entropy"]["calibration"]
        ends = [f"{bins[i]['loss']['value']:.2f}" for i in (0, -1)] if bins else [UNDEFINED]
        table.add_row(*cells, " to ".join(ends))
    for kind, means in report["summary"].items():
        name = ["mean", kind][: len(names[0])]
        table.add_row(*name, *(_plain(means[score], "rho") for score in SCORES), "", style="bold")
    return table


def _tokens(report: Json) -> Table:
    table = plain_table()
    table.add_column("routing, loss")
    table.add_column("entropy", justify="right")
    table.add_column("loss", justify="right")
    table.add_column("text, [token] and the next", overflow="fold")
    previous = ""
    for t in report["tokens"]:
        text = Text(_shown(t["before"][-48:]), style="dim")
        text.append(f"[{_shown(t['token'])}]", style="bold")
        text.append(f" -> {_shown(t['next'])}")
        name = t["kind"] if t["kind"] != previous else ""
        previous = t["kind"]
        table.add_row(name, f"{t['mean_entropy']:.2f}", f"{t['loss']:.2f}", text)
    return table


def _shown(text: str) -> str:
    return one_line(text)


def _plain(entry: Json, key: str) -> str:
    return with_interval(entry[key], entry, 3, decimals)
