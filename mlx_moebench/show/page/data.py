"""What the page's scripts draw, as JSON: sections and figures, numbers rounded, large arrays in base64."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...types import Facts, HostArray, Json
from ..colours import as_json
from ..figures import CLEAR, DASHES, Chart, Heat, Line, Measure, Style, Value, domain_series
from ..figures.base import labels, router_id
from ..inputs import Inputs
from .contents import sections
from .parts import Drawing, Figure, Nothing, Part, Section, Sketch, Table, Widget

DIGITS = 5
"""Significant digits of what is measured; counts are exact."""

FINEST = 100_000
"""Parts of 1 in which the ends of a band are kept."""

WORDS_OF_MANY = (
    *("label", "tip", "x", "y", "value", "point_heads", "ends", "row_heads", "row_cells", "diagonal"),
    *("x_ordered", "beside_head", "band", "flag_words", "group_names"),
)
"""Fields of drawings that many have in common: they are written once, as are the sentences of captions."""

Json = Json


def page_data(inputs: Inputs, tokens: Facts | None = None) -> Json:
    """Everything the page draws: ``sections``; lists that several figures need, ``shared``; ``reasons``; ``routers``,
    which a reader chooses by their number.

    ``colours`` are those of `show.colours`. tokens: the data of a token view, of which some sections tell.

    An interval is [value, low, high]; without one it is [value, null, null, number of its reason in ``reasons``].
    """
    domains = tuple(domains_of(inputs))
    encoder = _Encoder(domains)
    return {
        "colours": as_json(domains),
        "sections": [encoder.section(section) for section in sections(inputs, tokens)],
        "shared": encoder.shared.known,
        "words": WORDS_OF_MANY,
        "reasons": encoder.reasons.known,
        "routers": _routers(inputs),
    }


def domains_of(inputs: Inputs) -> Iterator[str]:
    """Every domain of runs and profiles, in the order that gives them their colours."""
    for run in inputs.runs:
        yield from run.domains
    for name, profile in inputs.profiles.items():
        yield from domain_series(name, profile).domains


def _routers(inputs: Inputs) -> list[Json]:
    """Layer, kind, label and number of experts of every router: those of what has most of them on this page."""
    runs = [run.report["routers"] for run in inputs.runs]
    others = (*inputs.profiles.values(), *inputs.comparisons, *inputs.uncertainties, *inputs.dynamics)
    every = runs + [report["routers"] for report in others if report.get("routers")]
    ids = [router_id(entry) for entry in max(every, key=len, default=[])]
    return [
        {"layer": one.layer, "router": one.router, "label": label, "experts": one.n_experts}
        for one, label in zip(ids, labels(ids), strict=True)
    ]


class _Kept:
    """Things that are written once, and elsewhere by their number."""

    def __init__(self) -> None:
        self.known: list[Any] = []
        self._numbers: dict[str, int] = {}

    def __call__(self, thing: Any) -> int:
        key = json.dumps(thing)
        if key not in self._numbers:
            self._numbers[key] = len(self.known)
            self.known.append(thing)
        return self._numbers[key]


class _Encoder:
    """Writes sections as JSON."""

    def __init__(self, domains: Sequence[str]) -> None:
        self.reasons, self.shared, self.domains = _Kept(), _Kept(), domains

    def section(self, section: Section) -> Json:
        return {
            "id": section.id,
            "heading": section.heading,
            "choices": [vars(choice) for choice in section.choices],
            "parts": [self._part(part) for part in section.parts],
        }

    def _part(self, part: Part) -> Any:
        if isinstance(part, str):
            return {"note": part}
        if isinstance(part, Table):
            return {"table": vars(part)}
        if isinstance(part, Widget):
            arrays = {k: _whole(v) for k, v in part.data.items() if isinstance(v, np.ndarray)}
            return {"widget": part.name, **part.data, **arrays}
        return {"pair": [self._figure(one) for one in part]} if isinstance(part, tuple) else self._figure(part)

    def _figure(self, figure: Figure) -> Json:
        return {
            "drawings": {key: self._drawing(drawing) for key, drawing in figure.drawings.items()},
            "by": figure.by,
            "choices": [vars(choice) for choice in figure.choices if len(choice.options) > 1],
        }

    def _drawing(self, drawing: Drawing) -> Json:
        if isinstance(drawing, Nothing):
            entry = {"kind": "nothing", **vars(drawing)}
        elif isinstance(drawing, Sketch):
            entry = {"kind": drawing.kind, "title": drawing.title, "label": drawing.label, **drawing.data}
        else:
            entry = self._chart(drawing) if isinstance(drawing, Chart) else self._heat(drawing)
        entry |= {name: self.shared(entry[name]) for name in WORDS_OF_MANY if name in entry}
        return entry | {"caption": [self.shared(sentence) for sentence in drawing.caption.split(". ")]}

    def _chart(self, chart: Chart) -> Json:
        references = [
            {
                "name": one.name,
                "x": self.shared(_rounded(one.x)),
                "y": self.shared(_rounded(one.y)),
                "line": one.line,
            }
            for one in chart.references
        ]
        styles = chart.styles(self.domains)
        lines = [self._line(line, style, chart.tested) for line, style in zip(chart.lines, styles, strict=True)]
        whole = {"whole_x": chart.whole_x}
        return {"kind": "chart", **vars(chart), **whole, "references": references, "lines": lines}

    def _line(self, line: Line, style: Style, tested: bool) -> Json:
        # Of lines that are no domains each has another dash, too, for those without markers.
        dash = style.marker % DASHES if line.domain is None else style.dash
        points = {"x": _rounded(line.points.x), "names": list(line.points.names), "cells": line.points.cells}
        return {
            "name": line.name,
            "points": self.shared(points),
            "values": [self._value(value) for value in line.values],
            "facts": {name: self.shared(_facts(column)) for name, column in line.facts.items()},
            "clear": [value.q < CLEAR for value in line.values] if tested else None,
            "note": line.note,
            "hidden": line.hidden,
            "style": [style.hue, dash, style.marker],
        }

    def _value(self, value: Value) -> list[float | None]:
        numbers = _rounded(value[:3])
        return numbers if value.has_interval else [*numbers[:1], None, None, self._reason(value.reason)]

    def _reason(self, reason: str | None) -> int | None:
        return None if reason is None else self.reasons(reason)

    def _heat(self, heat: Heat) -> Json:
        arrays = _Arrays(heat.square)
        return {
            "kind": "heat",
            **vars(heat),
            "rows": self.shared(list(heat.rows)),
            "measures": {name: _measure(measure, arrays, heat.facts) for name, measure in heat.measures.items()},
            "facts": {name: _facts(column) for name, column in heat.facts.items()},
            "reasons": [self._reason(reason) for reason in heat.reasons],
            "groups": arrays(heat.groups) if heat.groups else None,
            "arrays": arrays.known,
        }


def _measure(measure: Measure, arrays: _Arrays, facts: Mapping[str, tuple[Any, ...]]) -> Json:
    def divisor(column: tuple[float, ...]) -> list[float] | str:
        return next((name for name, fact in facts.items() if fact == column), list(column))

    return {
        "words": measure.words,
        "unit": measure.unit,
        "mirrored": measure.mirrored,
        "cells": arrays(measure.cells),
        "times": measure.times,
        "over": divisor(measure.over),
        "across": divisor(measure.across),
        "low": arrays(measure.low, ends=True) if measure.low else None,
        "high": arrays(measure.high, ends=True) if measure.high else None,
        "scale": vars(measure.scale) if measure.scale else None,
    }


class _Arrays:
    """The arrays of one heatmap, each written once."""

    def __init__(self, square: bool) -> None:
        self.known: list[Json] = []
        self._square = square
        self._numbers: dict[tuple[int, ...], int] = {}

    def __call__(self, rows: Sequence[HostArray], ends: bool = False) -> int:
        key = tuple(map(id, rows))
        if key not in self._numbers:
            self._numbers[key] = len(self.known)
            self.known.append(_triangle(rows) if self._square else _rows(rows, ends))
        return self._numbers[key]


def _rows(rows: Sequence[HostArray], ends: bool) -> Json:
    """Counts exactly, the ends of shares in parts of 1, others in single precision; a row of NaN is an empty one."""
    known = [row if np.isfinite(row).any() else row[:0] for row in rows]
    joined = np.concatenate(known)
    each = [len(row) for row in known]
    lengths = each[0] if len(set(each)) == 1 else each
    if np.issubdtype(joined.dtype, np.integer):
        return {**_whole(joined), "lengths": lengths, "over": 1}
    if ends and joined.min(initial=0.0) >= 0 and joined.max(initial=0.0) <= 1:  # not NaN
        return {**_whole(np.rint(joined * FINEST).astype(np.int64)), "lengths": lengths, "over": FINEST}
    return {"type": "f4", "data": encoded(joined.astype("<f4")), "lengths": lengths, "over": 1}


def _triangle(rows: Sequence[HostArray]) -> Json:
    """What stands above the diagonal of a symmetric matrix of counts, row by row."""
    upper = np.stack(rows)[np.triu_indices(len(rows), 1)]
    return {**_whole(upper), "lengths": len(rows), "over": 1}


def _whole(numbers: HostArray) -> Json:
    """In the smallest integers that hold them."""
    most = int(numbers.max(initial=0))
    kind = "u1" if most < 1 << 8 else "u2" if most < 1 << 16 else "u4"
    return {"type": kind, "data": encoded(numbers.astype(f"<{kind}"))}


def encoded(array: HostArray) -> str:
    """The bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def rounded(value: float) -> float | None:
    """To `DIGITS` significant digits; None for NaN."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _rounded(values: Iterable[float]) -> list[float | None]:
    return [rounded(float(value)) for value in values]


def _facts(column: Iterable[Any]) -> list[Any]:
    """Measured numbers rounded, all else as it is."""
    return [rounded(fact) if isinstance(fact, float) else fact for fact in column]
