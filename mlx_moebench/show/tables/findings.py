"""Findings over domains as a table, with the numbers that led to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from ...types import Facts, Json
from ..findings import DEFINITION, counted, meanings, remarks
from ..numbers import UNDEFINED, count, with_interval
from .base import plain_table, sentences


def finding_parts(routers: list[Json], words: Facts, thresholds: Facts | None, domains: Sequence[str]) -> list[Any]:
    """The table of findings, how many routers got which word, and what they mean; nothing where there are none."""
    judged = [r for r in routers if "findings" in r]
    if not judged or thresholds is None:
        return []
    lines = [*_counts(words), *_notes(judged), DEFINITION, meanings(thresholds)]
    return [_table(judged, domains), sentences(lines, "dim")]


def has_ends(routers: Sequence[Facts]) -> bool:
    """Whether any number of the findings has an interval."""
    every = (part for r in routers if "findings" in r for part in _numbers(r).values())
    return any(part["low"] is not None for part in every)


def _table(routers: list[Json], domains: Sequence[str]) -> Table:
    several = len({router["router"] for router in routers}) > 1
    table = plain_table(f"Findings over {', '.join(domains)}", gap=1)  # a line has 80 characters
    table.add_column("layer", justify="right", no_wrap=True)
    if several:
        table.add_column("router")
    for name in ("word", "r, experts in use", "s, told by domain", "one expert", "idle experts"):
        table.add_column(name, no_wrap=True)
    for r in routers:
        parts = _numbers(r)
        table.add_row(
            str(r["layer"]),
            *([r["router"]] if several else []),
            r["findings"]["word"] or "no word",
            *(_cell(parts.get(name)) for name in ("used", "specialisation", "share", "experts")),
        )
    return table


def _numbers(router: Facts) -> dict[str, Facts]:
    """The numbers of all findings, by name."""
    return {key: part for one in router["findings"]["findings"].values() for key, part in one["parts"].items()}


def _cell(part: Facts | None) -> str:
    return with_interval(part["value"], part, 2) if part else UNDEFINED


def _counts(words: Facts) -> Iterator[str]:
    for kind, of_kind in words.items():
        named = count(sum(of_kind.values()), f"{kind} router" if len(words) > 1 else "router")
        yield f"{named}: {counted(of_kind)}."


def _notes(routers: list[Json]) -> Iterator[str]:
    """Whom the findings are about, and what is open; routers of which the same is to be said stand together."""
    places: dict[str, list[str]] = {}
    several = len({r["router"] for r in routers}) > 1
    for r in routers:
        for clause in remarks(r):
            places.setdefault(clause, []).append(f"{r['layer']} ({r['router']})" if several else str(r["layer"]))
    for clause, where in places.items():
        layers = "every layer" if len(where) == len(routers) > 1 else f"layer {', '.join(where)}"
        yield f"{layers}: {clause}."
