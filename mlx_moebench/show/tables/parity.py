"""Parity of backends: tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from ...types import Json
from .base import Terminal, plain_table, sentences

COLUMNS = (("mean_entropy", "entropy"), ("margin_prob", "margin"), ("marginal", "marginal p"))


def print_parity(report: Json, console: Console | None = None) -> None:
    """Print what differs between the first backend and each other, router by router."""
    (console or Terminal()).print(Group(*(part for pair in report["pairs"] for part in _pair(report, pair))))


def _pair(report: Json, pair: Json) -> Sequence[Any]:
    data = report["data"]
    heading = sentences(
        [f"{report['model']['id']} on {data['name']}, {pair['b']} against {pair['a']}: {data['n_tokens']:,} tokens"],
        "bold",
    )
    table = plain_table()
    kinds = {router["router"] for router in pair["routers"]}
    for title in ("layer", *(["router"] if len(kinds) > 1 else []), "moved", "other sets", "ties"):
        table.add_column(title, justify="right")
    for _, title in COLUMNS:
        table.add_column(f"|d {title}|", justify="right")
    table.add_column("equal")
    for r in pair["routers"]:
        cells = [str(r["layer"]), *([r["router"]] if len(kinds) > 1 else [])]
        cells += [str(r["moved"]), str(r["other"]), str(r["ties"])]
        cells += [f"{r['differences'][name]:.1e}" for name, _ in COLUMNS]
        table.add_row(*cells, "yes" if r["equal"] else "NO")
    return [heading, table, *_choices(pair), Text(_verdict(report, pair), style="dim")]


def _choices(pair: Json) -> list[Text]:
    lines = [
        f"layer {r['layer']} {r['router']}: row {c['row']}, position {c['position']}: {c['a']} or {c['b']}, "
        f"margin {c['margin']:.1e}"
        for r in pair["routers"]
        for c in r["choices"]
    ]
    return [sentences(lines)] if lines else []


def _verdict(report: Json, pair: Json) -> str:
    limits = report["limits"]
    word = "equal" if pair["equal"] else "NOT equal"
    return (
        f"{pair['b']} and {pair['a']} are {word}: the same counts but for ties (a margin below {limits['tie']:g}, at "
        f"most {limits['ties']:g} of the tokens), means and marginal probabilities within {limits['tolerance']:g}. "
        "moved: selections of another expert. d: nats for the entropy, else probability.\n"
    )
