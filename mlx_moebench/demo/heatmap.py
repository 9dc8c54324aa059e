"""The load of every expert at every router, as SVG: of one side, or of two on one scale and their difference."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..measure.text import RoutedText
from ..pair.stats import RoutingStats
from ..routing.record import RouterSpec
from ..show.colours import DIVERGING, mixed
from ..show.figures import RouterId, RouterLoad, Scale
from ..types import HostArray

HEIGHT, MARGIN, BELOW = 20, 74, 62
"""Pixels of a row, left of the first expert, and below the last row."""

Floats = npt.NDArray[np.float64]


def heatmaps_html(sides: Sequence[RoutedText]) -> str:
    """A figure for each side, all on one scale; with two sides another of the second minus the first."""
    loads = [load_of(side.stats) for side in sides]
    most = max(2.0, *(float(np.nanmax(load)) for load in loads))
    specs = sides[0].stats.specs
    figures = [
        _figure(
            side.tokens.name,
            specs,
            load,
            Scale("even", most, "load, multiple of the even share"),
            [side.stats.totals(number).counts for number in range(len(specs))],
        )
        for side, load in zip(sides, loads, strict=True)
    ]
    if len(sides) == 2:
        change = loads[1] - loads[0]
        widest = max(1.0, float(np.nanmax(np.abs(change))))
        names = [side.tokens.name for side in sides]
        caption = f"{names[1]} minus {names[0]}"
        figures.append(
            _figure(caption, specs, change, Scale("linear", widest, "difference in multiples of the even share", 0.0))
        )
    return f'<div class="loads">{"".join(figures)}</div>'


def load_of(stats: RoutingStats) -> Floats:
    """E f_i of each router, [routers, largest E]; NaN where a router has fewer experts."""
    load = np.full((len(stats.specs), max(spec.n_experts for spec in stats.specs)), np.nan)
    for number, (row, spec) in enumerate(zip(load, stats.specs, strict=True)):
        router = RouterId(spec.layer, spec.moe_layer, spec.router, spec.n_experts, spec.top_k)
        totals = stats.totals(number)
        row[: spec.n_experts] = RouterLoad(router, int(totals.n_tokens), totals.counts).ratios
    return load


def _figure(
    caption: str,
    specs: Sequence[RouterSpec],
    values: Floats,
    scale: Scale,
    counts: Sequence[HostArray] | None = None,
) -> str:
    rows, experts = values.shape
    width = float(np.clip(640 / experts, 7, 24))
    sign = "+" if scale.kind == "linear" else ""
    parts = []
    for number, spec in enumerate(specs):
        y = HEIGHT * number
        parts.append(f'<text x="{MARGIN - 6}" y="{y + 14}" text-anchor="end">{_row(spec, specs)}</text>')
        for expert in range(spec.n_experts):
            value = float(values[number, expert])
            words = f"{_row(spec, specs)}, expert {expert}: {value:{sign}.2f}"
            if counts is not None:
                words += f" x even, {counts[number][expert]:,.0f} of {counts[number].sum():,.0f} selections"
            place = f'x="{MARGIN + width * expert:.1f}" y="{y}" width="{width - 1:.1f}" height="{HEIGHT - 1}"'
            parts.append(f'<rect {place} fill="{_colour(value, scale)}"><title>{words}</title></rect>')
    parts.append(f'<text x="{MARGIN - 6}" y="{HEIGHT * rows + 13}" text-anchor="end">expert</text>')
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200) if step * width >= 22)
    for expert in range(0, experts, step):
        x = MARGIN + width * (expert + 0.5)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT * rows + 13}" text-anchor="middle">{expert}</text>')
    parts.append(_scale(scale, HEIGHT * rows + 24))
    full = MARGIN + max(width * experts, 340)
    label = html.escape(f"{caption}: {scale.label}, of {experts} experts in {rows} rows; the table has numbers.")
    size = f'width="{full:.0f}" height="{HEIGHT * rows + BELOW}"'
    return (
        f"<figure><figcaption>{html.escape(caption)}</figcaption>"
        f'<svg role="img" aria-label="{label}" {size}>{"".join(parts)}</svg></figure>'
    )


def _row(spec: RouterSpec, specs: Sequence[RouterSpec]) -> str:
    several = len({one.router for one in specs}) > 1
    return html.escape(f"{spec.layer} {spec.router}" if several else f"layer {spec.layer}")


def _colour(value: float, scale: Scale) -> str:
    return mixed(DIVERGING, float(scale.place(np.array(value))))


def _scale(scale: Scale, y: int) -> str:
    """The legend: 41 colours from the low end to the high one, with the ends and the middle named."""
    places = np.linspace(-1, 1, 41)
    bars = [
        f'<rect x="{MARGIN + 3 * i}" y="{y}" width="3" height="10" fill="{mixed(DIVERGING, float(place))}"/>'
        for i, place in enumerate(places)
    ]
    marks = [
        f'<text x="{MARGIN + x}" y="{y + 22}" text-anchor="{anchor}">{float(value):.3g}</text>'
        for x, anchor, value in zip((0, 61, 123), ("start", "middle", "end"), scale.value(places[::20]), strict=True)
    ]
    return "".join([*bars, *marks, f'<text x="{MARGIN + 134}" y="{y + 10}">{html.escape(scale.label)}</text>'])
