"""The table of the routers, as HTML. Every name in it is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from ..measure.text import RoutedText
from ..routing.domains.information import jensen_shannon
from ..routing.metrics import get_metric
from ..routing.tokens import changed_choices
from ..show.names import label_and_unit
from ..show.numbers import count, decimals, signed

COLUMNS = ("mean_entropy", "top_share_token", "eae", "margin_prob", "dead_experts")
"""The metrics that the table has of each router."""


def table_html(sides: Sequence[RoutedText]) -> str:
    """One row for each router: its metrics, or with two sides those of both and the difference, second minus first."""
    two = len(sides) == 2
    below = [(side.tokens.name, count(side.stats.n_tokens, "token")) for side in sides]
    below = [*below, ("difference", "no interval")] if two else []
    heads = ['<th scope="col" rowspan="2">layer</th>' if two else '<th scope="col">layer</th>']
    heads += [_head(name, unit, 'scope="col" rowspan="2"') for name, unit in _changes(sides, 0)]
    attributes = 'scope="colgroup" colspan="3"' if two else 'scope="col"'
    heads += [_head(*label_and_unit(metric), attributes) for metric in COLUMNS]
    second = "".join(_head(name, unit, 'scope="col"') for name, unit in below) * len(COLUMNS)
    rows = "".join(_row(sides, number) for number in range(len(sides[0].stats.specs)))
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Routers">'
        f'<table class="routers"><thead><tr>{"".join(heads)}</tr>'
        + (f"<tr>{second}</tr>" if two else "")
        + f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _head(name: str, unit: str, attributes: str) -> str:
    return f"<th {attributes}>{html.escape(name)}<br><small>{html.escape(unit)}</small></th>"


def _row(sides: Sequence[RoutedText], number: int) -> str:
    specs = sides[0].stats.specs
    kinds = {spec.router for spec in specs}
    values = [side.stats.values(number) for side in sides]
    cells = [f"<td>{decimals(value)}</td>" for value in _changes(sides, number).values()]
    for metric in COLUMNS:
        digits = 0 if get_metric(metric).integer else 3
        of_sides = [value[metric] for value in values]
        cells += [f"<td>{decimals(value, digits)}</td>" for value in of_sides]
        if len(of_sides) == 2:  # of so few tokens no finding, and set back
            cells.append(f'<td class="aside">{signed(of_sides[1] - of_sides[0], digits)}</td>')
    layer = f"{specs[number].layer}" + (f", {specs[number].router}" if len(kinds) > 1 else "")
    return f'<tr><th scope="row">{layer}</th>' + "".join(cells) + "</tr>"


def _changes(sides: Sequence[RoutedText], number: int) -> dict[tuple[str, str], float]:
    """How far one router's choices of two sides lie apart, by (name, unit); nothing of one side."""
    if len(sides) < 2:
        return {}
    counts = np.stack([side.stats.totals(number).counts for side in sides])
    changes = {("loads apart", "nats, Jensen-Shannon"): float(jensen_shannon(counts)[0, 1])}
    if sides[1].tokens.against == 0:
        before, after = (side.tokens.choices[number].experts for side in sides)
        kept = 1 - float(changed_choices(after, before).mean()) / before.shape[1]
        first = float(changed_choices(after[:, :1], before[:, :1]).mean())
        changes |= {("experts kept", "share of selections"): kept, ("first choice changed", "share of tokens"): first}
    return changes
