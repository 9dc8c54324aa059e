"""The table of the routers, as HTML. Every name in it is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

from ..measure.text import RoutedText
from ..routing.domains.information import jensen_shannon
from ..routing.tokens import Choices

COLUMNS = (
    ("mean_entropy", "entropy", "nats, mean over tokens"),
    ("top_share_token", "busiest expert", "share of tokens"),
    ("eae", "load entropy / ln E", "ratio"),
    ("margin_prob", "margin of the first choice", "probability"),
    ("dead_experts", "experts not chosen", "count"),
)
"""Metric, name and unit of what the table has of each router."""


def table_html(sides: Sequence[RoutedText]) -> str:
    """One row for each router: its metrics, or with two sides those of both and the difference, second minus first."""
    names = [side.tokens.name for side in sides]
    two = len(sides) == 2
    below = [*names, "difference"] if two else []
    heads = ['<th scope="col" rowspan="2">layer</th>' if two else '<th scope="col">layer</th>']
    heads += [_head(name, unit, 'scope="col" rowspan="2"') for name, unit in _changes(sides, 0)]
    heads += [_head(name, unit, 'scope="colgroup" colspan="3"' if two else 'scope="col"') for _, name, unit in COLUMNS]
    second = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in below) * len(COLUMNS)
    rows = "".join(_row(sides, number) for number in range(len(sides[0].stats.specs)))
    return (
        f'<div class="wide"><table class="routers"><thead><tr>{"".join(heads)}</tr>'
        + (f"<tr>{second}</tr>" if two else "")
        + f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _head(name: str, unit: str, attributes: str) -> str:
    return f"<th {attributes}>{html.escape(name)}<br><small>{html.escape(unit)}</small></th>"


def _row(sides: Sequence[RoutedText], number: int) -> str:
    specs = sides[0].stats.specs
    kinds = {spec.router for spec in specs}
    values = [side.stats.values(number) for side in sides]
    cells = [_figure("", value) for value in _changes(sides, number).values()]
    for metric, _, _ in COLUMNS:
        own = [value[metric] for value in values]
        cells += [_figure(metric, value) for value in own]
        if len(own) == 2:
            cells.append(_figure(metric, own[1] - own[0], "+"))
    layer = f"{specs[number].layer}" + (f", {specs[number].router}" if len(kinds) > 1 else "")
    return f'<tr><th scope="row">{layer}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _changes(sides: Sequence[RoutedText], number: int) -> dict[tuple[str, str], float]:
    """How far one router's choices of two sides lie apart, by (name, unit); nothing of one side."""
    if len(sides) < 2:
        return {}
    counts = np.stack([side.stats.totals(number).counts for side in sides])
    found = {("loads apart", "nats, Jensen-Shannon"): float(jensen_shannon(counts)[0, 1])}
    if sides[1].tokens.against == 0:
        before, after = (side.tokens.choices[number] for side in sides)
        kept, changed = _kept(before, after)
        found |= {("experts kept", "share of selections"): kept, ("first choice changed", "share of tokens"): changed}
    return found


def _kept(before: Choices, after: Choices) -> tuple[float, float]:
    """Mean |A n B| / K over tokens, and the share of tokens whose top-1 differs."""
    same = before.experts[:, :, None] == after.experts[:, None, :]
    return float(same.any(axis=2).mean()), float((before.experts[:, 0] != after.experts[:, 0]).mean())


def _figure(metric: str, value: float, sign: str = "") -> str:
    if not math.isfinite(value):
        return "null"
    return f"{value:{sign}.0f}" if metric == "dead_experts" else f"{value:{sign}.3f}"
