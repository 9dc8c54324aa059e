"""The load heatmap and the table of the routers, as HTML. Every name in it is escaped."""

from __future__ import annotations

import base64
import html
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.tokens import RoutedText
from ..report.heatmap import plot_load
from ..routing.domains import jensen_shannon
from ..routing.tokens import Choices

COLUMNS = (
    ("mean_entropy", "entropy", "nats, mean over tokens"),
    ("top_share_token", "busiest expert", "share of tokens"),
    ("eae", "load entropy / ln E", "ratio"),
    ("margin_prob", "margin of the first choice", "probability"),
    ("dead_experts", "experts not chosen", "count"),
)
"""Metric, name and unit of what the table has of each router."""


def heatmap_html(report: dict[str, Any], name: str) -> str:
    """The load of every expert in every layer, as a picture that is in the HTML itself."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "load.png"
        plot_load({**report, "data": {**report["data"], "name": name}}, path)
        picture = base64.b64encode(path.read_bytes()).decode()
    label = f"Load of each expert in each layer, {name}. The table has the numbers of each router."
    return f'<img class="load" src="data:image/png;base64,{picture}" alt="{html.escape(label)}">'


def table_html(sides: Sequence[RoutedText]) -> str:
    """One row for each router: its metrics, or with two sides those of both and the difference, second minus first."""
    names = [side.tokens.name for side in sides]
    heads = [(f"{name}, {unit}", _sides_of(names)) for _, name, unit in COLUMNS]
    heads += [(name, [""]) for name in _changes(sides, 0)]
    first = "".join(f'<th scope="colgroup" colspan="{len(below)}">{html.escape(head)}</th>' for head, below in heads)
    second = "".join(f'<th scope="col">{html.escape(one)}</th>' for _, below in heads for one in below)
    rows = "".join(_row(sides, number) for number in range(len(sides[0].stats.specs)))
    span = 2 if len(sides) == 2 else 1
    below = f"<tr>{second}</tr>" if len(sides) == 2 else ""
    return (
        f'<div class="wide"><table class="routers"><thead><tr><th scope="col" rowspan="{span}">layer</th>{first}</tr>'
        f"{below}</thead><tbody>{rows}</tbody></table></div>"
    )


def _sides_of(names: Sequence[str]) -> list[str]:
    return [*names, "difference"] if len(names) == 2 else [""]


def _row(sides: Sequence[RoutedText], number: int) -> str:
    specs = sides[0].stats.specs
    kinds = {spec.router for spec in specs}
    values = [side.stats.values(number) for side in sides]
    cells = []
    for metric, _, _ in COLUMNS:
        own = [value[metric] for value in values]
        cells += [_figure(metric, value) for value in own]
        if len(own) == 2:
            cells.append(_figure(metric, own[1] - own[0], "+"))
    cells += [_figure("", value) for value in _changes(sides, number).values()]
    layer = f"{specs[number].layer}" + (f", {specs[number].router}" if len(kinds) > 1 else "")
    return f'<tr><th scope="row">{layer}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _changes(sides: Sequence[RoutedText], number: int) -> dict[str, float]:
    """How far one router's choices of two sides lie apart, by name and unit; nothing of one side."""
    if len(sides) < 2:
        return {}
    counts = np.stack([side.stats.totals(number).counts for side in sides])
    found = {"loads apart (Jensen-Shannon), nats": float(jensen_shannon(counts)[0, 1])}
    if sides[1].tokens.against == 0:
        before, after = (side.tokens.choices[number] for side in sides)
        kept, changed = _kept(before, after)
        found |= {"experts kept, share of selections": kept, "first choice changed, share of tokens": changed}
    return found


def _kept(before: Choices, after: Choices) -> tuple[float, float]:
    """Mean |A n B| / K over tokens, and the share of tokens whose top-1 differs."""
    same = before.experts[:, :, None] == after.experts[:, None, :]
    return float(same.any(axis=2).mean()), float((before.experts[:, 0] != after.experts[:, 0]).mean())


def _figure(metric: str, value: float, sign: str = "") -> str:
    if not math.isfinite(value):
        return "null"
    return f"{value:{sign}.0f}" if metric == "dead_experts" else f"{value:{sign}.3f}"
