"""The load of every expert at every router, as SVG: of one side, or of two on one scale and their difference.

What chance explains is grey: a text has few tokens.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..measure.text import RoutedText
from ..pair.stats import RoutingStats
from ..routing.record import RouterSpec
from ..show.colours import ALL, ALL_DARK, DIVERGING, DIVERGING_DARK, mixed
from ..show.figures import RouterId, RouterLoad, Scale
from ..show.numbers import count
from ..types import HostArray
from .chance import LEVEL, against_even, apart, moved, stands_out

HEIGHT, MARGIN, BELOW = 20, 74, 18
"""Pixels of a row, left of the first expert, and below the last row."""

NARROW, LEAST = 230, 3
"""Pixels that all experts of a row have on a phone, and that one has at least."""

FAINT, STRONG = 0.12, 0.6
"""Opacity of the grey of what is as even as can be, and of what is at an end of the scale."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Figure:
    """values: [routers, largest E]. words: of each cell, after its value. real: cells that are more than chance."""

    caption: str
    note: str
    specs: Sequence[RouterSpec]
    values: Floats
    words: Sequence[Sequence[str]]
    real: npt.NDArray[np.bool_]
    scale: Scale


def heatmaps_html(sides: Sequence[RoutedText]) -> str:
    """A figure for each side, all on one scale; with two sides another of the second minus the first."""
    loads = [load_of(side.stats) for side in sides]
    figures = [_load(side, load) for side, load in zip(sides, loads, strict=True)]
    if len(sides) == 2:
        figures.append(_difference(sides, loads[1] - loads[0]))
    words = '<p class="loads-words" role="status">Point at a cell, or press it, to read it.</p>'
    return f'<div class="loads">{"".join(map(_drawn, figures))}</div>{words}'


def load_of(stats: RoutingStats) -> Floats:
    """E f_i of each router, [routers, largest E]; NaN where a router has fewer experts."""
    load = np.full((len(stats.specs), max(spec.n_experts for spec in stats.specs)), np.nan)
    for number, (row, spec) in enumerate(zip(load, stats.specs, strict=True)):
        router = RouterId(spec.layer, spec.moe_layer, spec.router, spec.n_experts, spec.top_k)
        totals = stats.totals(number)
        row[: spec.n_experts] = RouterLoad(router, int(totals.n_tokens), totals.counts).ratios
    return load


def _load(side: RoutedText, load: Floats) -> _Figure:
    stats, p, words = side.stats, np.full(load.shape, np.nan), []
    for number, spec in enumerate(stats.specs):
        totals = stats.totals(number)
        p[number, : spec.n_experts] = against_even(totals.counts, int(totals.n_tokens))
        every = f" of {totals.counts.sum():,.0f} selections"
        words.append([f" x even, {chosen:,.0f}{every}" for chosen in totals.counts])
    real = stands_out(p)
    tokens = count(stats.n_tokens, "token")
    note = _note(real, p, f"differ from even by more than chance gives {tokens}", "exact binomial test")
    most = float(max(spec.n_experts for spec in stats.specs))
    scale = Scale("even", max(2.0, most), "load, multiple of the even share")
    return _Figure(side.tokens.name, note, stats.specs, load, words, real, scale)


def _difference(sides: Sequence[RoutedText], change: Floats) -> _Figure:
    """The second side minus the first; of the same tokens twice, what moved."""
    specs, p, words = sides[0].stats.specs, np.full(change.shape, np.nan), []
    tokens = (sides[0].stats.n_tokens, sides[1].stats.n_tokens)
    paired = sides[1].tokens.against == 0
    for number, spec in enumerate(specs):
        before, after = (side.stats.totals(number).counts for side in sides)
        if paired:
            p[number, : spec.n_experts] = moved(*_moves(sides, number, spec.n_experts))
        else:
            p[number, : spec.n_experts] = apart(before, after, tokens)
        of = f"of {tokens[0]:,} tokens, then {{}} of {tokens[1]:,}"
        pairs = zip(before, after, strict=True)
        words.append([f" x even, {b:,.0f} {of.format(f'{a:,.0f}')}" for b, a in pairs])
    real = stands_out(p)
    first, second = (side.tokens.name for side in sides)
    few = f"{count(tokens[0], 'token')}" if paired else f"{count(tokens[0], 'token')} and {count(tokens[1], 'token')}"
    test = "McNemar's exact test" if paired else "Fisher's exact test"
    note = _note(real, p, f"differ by more than chance gives {few}", test)
    widest = max(1.0, float(np.nanmax(np.abs(change))))
    scale = Scale("linear", widest, "difference in multiples of the even share", 0.0)
    return _Figure(f"{second} minus {first}", note, specs, change, words, real, scale)


def _moves(sides: Sequence[RoutedText], number: int, experts: int) -> tuple[HostArray, HostArray]:
    """[E] tokens that chose an expert on the second side alone, and on the first alone."""
    chosen = []
    for side in sides:
        of = side.tokens.choices[number].experts
        table = np.zeros((len(of), experts), dtype=bool)
        np.put_along_axis(table, of, True, axis=1)
        chosen.append(table)
    return (chosen[1] & ~chosen[0]).sum(axis=0), (chosen[0] & ~chosen[1]).sum(axis=0)


def _note(real: npt.NDArray[np.bool_], p: Floats, what: str, test: str) -> str:
    """How many cells are more than chance, and by which test."""
    return (
        f"Cells that {what}: {int(real.sum()):,} of {int(np.isfinite(p).sum()):,} ({test}, of such cells at most "
        f"{LEVEL:.0%} false). The others are grey. Tokens of one text depend on each other, so even a cell in colour "
        "is only a hint."
    )


def _drawn(figure: _Figure) -> str:
    """As wide as there is room: places and widths of cells are shares of it."""
    specs, (rows, experts) = figure.specs, figure.values.shape
    names, cells = [], []
    for number, spec in enumerate(specs):
        y = HEIGHT * number
        names.append(f'<text x="{MARGIN - 6}" y="{y + 14}" text-anchor="end">{_row(spec, specs)}</text>')
        for expert in range(spec.n_experts):
            box = f'x="{100 * expert / experts:.2f}%" y="{y}" width="{100 / experts:.2f}%"'
            cells.append(_cell(figure, number, expert, box))
    names.append(f'<text x="{MARGIN - 6}" y="{HEIGHT * rows + 13}" text-anchor="end">expert</text>')
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, experts) if step * NARROW >= 20 * experts)
    for expert in range(0, experts, step):
        x = 100 * (expert + 0.5) / experts
        cells.append(f'<text x="{x:.2f}%" y="{HEIGHT * rows + 13}" text-anchor="middle">{expert}</text>')
    words = f"{figure.caption}: {figure.scale.label}, of {experts} experts in {rows} rows; the table has numbers."
    height = f'height="{HEIGHT * rows + BELOW}"'
    wide = f"min-width: {LEAST * experts}px; max-width: {max(24 * experts, NARROW)}px"
    return (
        f"<figure><figcaption>{html.escape(figure.caption)}</figcaption>"
        f'<div class="wide load" tabindex="0" role="group" aria-label="{html.escape(figure.caption)}">'
        f'<svg aria-hidden="true" class="names" width="{MARGIN}" {height}>{"".join(names)}</svg>'
        f'<svg role="img" aria-label="{html.escape(words)}" style="{wide}" {height}>{"".join(cells)}</svg></div>'
        f"{_scale(figure)}<p>{html.escape(figure.note)}</p></figure>"
    )


def _cell(figure: _Figure, number: int, expert: int, box: str) -> str:
    value, real = float(figure.values[number, expert]), bool(figure.real[number, expert])
    sign = "+" if figure.scale.kind == "linear" else ""
    name = f"{_row(figure.specs[number], figure.specs)}, expert {expert}"
    words = f"{name}: {value:{sign}.2f}{html.escape(figure.words[number][expert])}"
    words += "" if real else "; chance gives as much"
    place = float(figure.scale.place(np.array(value)))
    look = 'class="real"' if real else 'class="chance"'
    return f'<rect {box} height="{HEIGHT - 1}" {look} {_fill(place, real)}><title>{words}</title></rect>'


def _row(spec: RouterSpec, specs: Sequence[RouterSpec]) -> str:
    several = len({one.router for one in specs}) > 1
    return html.escape(f"{spec.layer} {spec.router}" if several else f"layer {spec.layer}")


def _fill(place: float, real: bool) -> str:
    """The colour of a place on either ground, or the grey of what chance explains."""
    if real:
        return f'style="--light:{mixed(DIVERGING, place)};--dark:{mixed(DIVERGING_DARK, place)}"'
    opacity = FAINT + (STRONG - FAINT) * min(1.0, abs(place))
    return f'style="--light:{ALL};--dark:{ALL_DARK};fill-opacity:{opacity:.2f}"'


def _scale(figure: _Figure) -> str:
    """The legend: the colours from end to end, both and the middle named, and the grey."""
    low, middle, high = (f"{value:.3g}" for value in figure.scale.value(np.array([-1.0, 0.0, 1.0])))
    places = np.linspace(0, 1, 21)
    ramps = [", ".join(mixed(stops, 2 * float(place) - 1) for place in places) for stops in (DIVERGING, DIVERGING_DARK)]
    bar, dark = (f"linear-gradient(to right, {ramp})" for ramp in ramps)
    return (
        f'<div class="load-scale"><span>{low}</span><i style="--light: {bar}; --dark: {dark}"></i><span>{high}</span> '
        f"{html.escape(figure.scale.label)}, {middle} in the middle <span>"
        f'<i class="grey" style="--light: {ALL}; --dark: {ALL_DARK}"></i> chance gives as much</span></div>'
    )
