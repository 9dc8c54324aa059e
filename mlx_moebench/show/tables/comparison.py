"""A comparison as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...routing.comparison.differences import ROUNDING
from ...types import Json
from ..figures import CLEAR, WITHOUT, difference_sentence, difference_series
from ..names import label_and_unit, side_name, sizes
from ..numbers import UNDEFINED, count, decimals, percent, signed, with_interval
from .base import Terminal, answered, plain_table, sentences

DEFAULT = ("mean_entropy", "top_share_token", "load_entropy")
"""Metrics shown layer by layer unless others are asked for."""

SHORT = {
    "multiple of even load": "x even",
    "share of tokens": "of tok.",
    "share of selections": "share",
    "share of experts": "share",
    "probability": "prob.",
    "selection score": "score",
    "nats squared": "nats^2",
}
"""Units, short enough for a line of 80 characters."""

RESCALED = ("peak_top_share_selection", "peak_max_violation")
"""Effects over all routers that are others in another unit; the JSON has them."""

TESTS = ("p", "q", "detects")
"""Columns of what is tested router by router; none where nothing is."""


def print_comparison(comparison: Json, metrics: Sequence[str] = DEFAULT, console: Console | None = None) -> None:
    """Print both sides, every metric over all routers, the chosen ones layer by layer, and what became of the loads."""
    (console or Terminal()).print(render(comparison, metrics))


def render(comparison: Json, metrics: Sequence[str] = DEFAULT) -> Group:
    """The tables of `Comparison.to_dict` as one rich renderable."""
    series = difference_series(comparison)
    parts: list[Any] = [_heading(comparison), *_caveats(comparison)]
    tested = series.tested
    for kind, effects in comparison["overall"].items():
        n = sum(router["router"] == kind for router in comparison["routers"])
        of = f"{kind} routers" if len(comparison["overall"]) > 1 else "routers"
        parts.append(
            _overall(effects, tested, comparison["units"], f"Mean over {n} {of} (peak: the largest over them)")
        )
    parts += [_layers(comparison, metric, tested) for metric in metrics]
    parts += [_distances(comparison, tested), _loads(comparison), _notes(comparison, tested)]
    parts.append(answered([difference_sentence(series)]))
    return Group(*parts)


def _heading(comparison: Json) -> Text:
    lines = []
    for place, label in enumerate(("a", "b")):
        name = f"{comparison['names'][place]}, " if comparison.get("names") else ""
        lines.append(f"{label.upper()}: {name}{side_name(comparison[label])}: {sizes(comparison[label])}")
    series, design = difference_series(comparison), comparison["design"]
    how = series.how
    if design["paired"]:
        how = f"paired on {count(design['compared']['a'], 'sequence')}" + ("" if series.tested else f", {WITHOUT}")
    lines.append(f"{how[0].upper()}{how[1:]}; every effect is B minus A.")
    return sentences(lines, "bold")


def _caveats(comparison: Json) -> list[Text]:
    """What makes the sides not quite comparable, and what a reader must know, to be read before the numbers."""
    lines = [f"Allowed ({one['kind']}): {one['what']}." for one in comparison["allowed"]] + list(comparison["notes"])
    return [sentences(lines, "dim")] if lines else []


def _overall(effects: Json, tested: bool, units: dict[str, str], title: str) -> Table:
    table = plain_table(title, gap=1)
    table.add_column("metric", overflow="fold")  # where the line is too short for all, words break, not numbers
    for name in ("A", "B"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("B - A", no_wrap=True)
    if tested:
        table.add_column("p", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for name, e in effects.items():
        if name not in RESCALED:
            unit = units[name.removeprefix("peak_")]
            table.add_row(
                f"{label_and_unit(name)[0]}: {name}",
                *_sides(e),
                _effect(e),
                *([_p(e["p"])] if tested else []),
                SHORT.get(unit, unit),
            )
    return table


def _layers(comparison: Json, metric: str, tested: bool) -> Table:
    table = plain_table(f"{label_and_unit(metric)[0]} ({metric}), {comparison['units'][metric]}", gap=1)
    kinds = len(comparison["overall"]) > 1
    table.add_column("layer", justify="right")
    if kinds:
        table.add_column("router")
    for name in ("A", "B"):
        table.add_column(name, justify="right")
    table.add_column("B - A", no_wrap=True)
    for name in TESTS if tested else ():
        table.add_column(name, justify="right")
    for router in comparison["routers"]:
        e = router["effects"].get(metric)
        if e is not None:
            cells = [str(router["layer"]), *([router["router"]] if kinds else []), *_sides(e)]
            table.add_row(*cells, _effect(e), *(_tests(e, _digits(e)) if tested else ()))
    return table


def _distances(comparison: Json, tested: bool) -> Table:
    """L1 distance of the loads."""
    table = plain_table("Distance of the loads (load_l1), 0 to 2, of selections", gap=1)
    kinds = len(comparison["overall"]) > 1
    table.add_column("layer", justify="right")
    if kinds:
        table.add_column("router")
    table.add_column("L1", no_wrap=True)
    for name in TESTS if tested else ():
        table.add_column(name, justify="right")
    for router in comparison["routers"]:
        l1 = router["load"]["load_l1"]
        cells = [
            str(router["layer"]),
            *([router["router"]] if kinds else []),
            with_interval(l1["value"], l1, 3, decimals),
        ]
        table.add_row(*cells, *(_tests(l1, 3) if tested else ()))
    return table


def _loads(comparison: Json) -> Table:
    """The experts that gained and lost the most."""
    table = plain_table("Load: who gained and who lost, of tokens", gap=1)
    kinds = len(comparison["overall"]) > 1
    table.add_column("layer", justify="right", no_wrap=True)
    if kinds:
        table.add_column("router", no_wrap=True)
    for name in ("gained most", "lost most"):
        table.add_column(name)
    for router in comparison["routers"]:
        change = router["load"]["token_share_change"]
        cells = [str(router["layer"]), *([router["router"]] if kinds else [])]
        table.add_row(*cells, _mover(change, largest=True), _mover(change, largest=False))
    return table


def _tests(one: Json, digits: int) -> tuple[str, ...]:
    """What stands under `TESTS`."""
    smallest = one.get("detectable")
    return _p(one["p"]), _p(one.get("q"), mark=True), "-" if smallest is None else decimals(smallest, digits)


def _mover(change: Json, largest: bool) -> str:
    values = change["values"]
    if values is None or None in values:
        return UNDEFINED
    value = max(values) if largest else min(values)
    if value == 0:
        return "none"
    ends = {"low": value - change["below"], "high": value + change["above"]} if "below" in change else None
    return f"{values.index(value)}: {with_interval(value, ends, 3, signed, ends=decimals)}"


def _notes(comparison: Json, tested: bool) -> Text:
    ci = comparison["settings"]["ci"]
    lines = []
    flags = ((r, [r["collapsed"][side] for side in "ab"]) for r in comparison["routers"])
    changed = [r for r, (a, b) in flags if None not in (a, b) and a != b]
    if changed:
        named = ", ".join(
            f"{r['layer']} ({_flag(r['collapsed']['a'])} to {_flag(r['collapsed']['b'])})" for r in changed
        )
        lines.append(f"collapse flags that differ: layer {named}.")
    if tested:
        lines.append(
            f"[low, high]: {percent(ci['level'])} intervals over sequences, {ci['resamples']:,} draws; p: of no "
            f"difference; q: p adjusted over layers (Benjamini-Hochberg); *: q < {CLEAR}."
        )
        lines.append("p of the means over routers is not adjusted for the number of metrics.")
        lines.append(
            "detects: the smallest true difference that 4 of 5 such comparisons would find; of the means over "
            "routers it is in the JSON."
        )
        lines.append("L1: without what chance adds.")
    else:
        lines.append("L1: above 0 in finite samples also without a difference.")
    return sentences(lines, "dim")


def _flag(value: bool) -> str:
    return "collapsed" if value else "not"


def _sides(e: Json) -> list[str]:
    """The values at A and at B, to the digits of their effect, four at most."""
    digits = min(4, _digits(e))
    return [decimals(e[side], digits) for side in ("a", "b")]


def _effect(e: Json) -> str:
    return with_interval(e["effect"], e, _digits(e), signed, ends=decimals)


def _digits(e: Json) -> int:
    """Decimals that show two digits of the interval's width; three without an interval."""
    width = 0.0 if e["low"] is None else e["high"] - e["low"]
    return min(6, max(0, 1 - math.floor(math.log10(width)))) if width > ROUNDING else 3


def _p(value: float | None, mark: bool = False) -> str:
    if value is None:
        return "-"
    star = "*" if mark and value < CLEAR else ""
    return ("<0.001" if value < 0.001 else f"{value:.3f}") + star
