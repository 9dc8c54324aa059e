"""Verdicts over domains as a table, with the numbers that led to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from ...types import Json
from ..numbers import number, with_interval
from .base import plain_table


def verdict_parts(routers: list[Json], counted: dict[str, dict[str, int]]) -> list[Any]:
    """The table of verdicts, how many routers got which, and what they mean; nothing where there are none."""
    judged = [r for r in routers if "verdict" in r]
    if not judged:
        return []
    lines = [*_counts(counted), *_notes(judged)]
    return [_table(judged), Text("\n".join(lines), style="dim")]


def _table(routers: list[Json]) -> Table:
    kinds = {router["router"] for router in routers}
    table = plain_table(f"Verdicts over {', '.join(routers[0]['verdict']['domains'])}")
    table.add_column("layer", justify="right")
    if len(kinds) > 1:
        table.add_column("router")
    for name in ("verdict", "a", "b", "+- c", "r", "MI, nats"):
        table.add_column(name, no_wrap=True)
    for r in routers:
        v = r["verdict"]
        cells = [str(r["layer"])] + ([r["router"]] if len(kinds) > 1 else [])
        cells += [
            v["word"] or "n/a",
            number(v["a"], 2),
            number(v["b"], 2),
            "" if v["c"] is None else f"{v['c']:.3f}",
            with_interval(v["r"], v["ci"].get("r"), digits=2),
            with_interval(v["mi"], v["ci"].get("mi")),
        ]
        table.add_row(*cells)
    return table


def _counts(counted: dict[str, dict[str, int]]) -> Iterator[str]:
    for kind, words in counted.items():
        named = [f"{n} {'without a verdict' if word == 'null' else word}" for word, n in words.items() if n]
        yield f"{kind} routers: {', '.join(named)}."


def _notes(routers: list[Json]) -> Iterator[str]:
    verdicts = [r["verdict"] for r in routers]
    tau = verdicts[0]["tau"]
    yield (
        "a: share of tokens of the expert that no domain escapes; b: of the busiest expert of any domain (+- c: band "
        "around both); r: n_eff / E of the domains mixed in equal parts; MI: what the domain tells about the expert."
    )
    yield (
        f"collapsed: a > {tau:g} or r < 0.5. specialised: a <= {tau:g}, r >= 0.5, b > {tau:g}, MI above its null. "
        f"balanced: a, b <= {tau:g}, r >= 0.5. Whole intervals must say so; else undetermined."
    )
    tested = [v["p_value"] for v in verdicts if v["p_value"] is not None]
    if tested:
        above = sum(v["informative"] for v in verdicts)
        yield (
            f"MI is above its null (domains permuted over sequences, p <= 0.05) in {above} of {len(verdicts)} routers; "
            f"largest p {max(tested):.3g}."
        )
    points = [v for v in verdicts if v["basis"] == "point"]
    if points:
        yield f"basis point: values alone decided. {points[0]['ci']['a'].get('reason', 'no intervals')}."
    yield from _open(routers)
    yield from dict.fromkeys(f"n/a: {v['reason']}." for v in verdicts if v.get("reason"))


def _open(routers: list[Json]) -> Iterator[str]:
    """What is undecided of each router, and how many texts would decide it."""
    for r in routers:
        v = r["verdict"]
        if v["undecided"]:
            needed = v["sequences_needed"]
            enough = "more texts need not decide it" if needed is None else f"about {needed:,} texts in all would do"
            yield f"layer {r['layer']} ({r['router']}): {', '.join(v['undecided'])} open; {enough}."
