"""What benchmarks/audit.py measured, as tables in Markdown, and where they stand in a document."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Cells = Mapping[str, Mapping[str, Any]]

LEADS = 4.0
"""Standard errors by which the busiest expert leads where one leads."""

LEAST_GIVEN = 0.25
"""Cells in which fewer samples than this had ten effective sequences are counted, and not shown."""


def tables(results: Mapping[str, Cells]) -> dict[str, str]:
    """{name: Markdown} of the parts that were measured."""
    makers: dict[str, Callable[[Cells], str]] = {
        "coverage": _coverage,
        "busiest": _busiest,
        "domains": _domains,
        "independence": _independence,
        "counts": _counts,
        "distances": _distances,
        "findings": _findings,
        "needed": _needed,
        "thirds": _thirds,
    }
    parts = {"busiest": "coverage"}
    of = {name: results.get(parts.get(name, name)) for name in makers}
    return {name: makers[name](cells) for name, cells in of.items() if cells}


def write(document: Path, made: Mapping[str, str]) -> None:
    """Put each table between its lines ``<!-- audit: name -->`` and ``<!-- end -->``; others stay as they are."""
    text = document.read_text()
    for name, table in made.items():
        pattern = rf"(<!-- audit: {name} -->\n).*?(\n<!-- end -->)"
        text = re.sub(pattern, lambda m, table=table: m[1] + table + m[2], text, flags=re.S)  # type: ignore[misc]
    document.write_text(text)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _fields(name: str) -> list[str]:
    """What is told apart by the name of a cell."""
    return name.split(", ")


def _sequences(name: str) -> int:
    return int(_fields(name)[-1].removeprefix("S "))


def _percent(values: Iterable[float]) -> str:
    """Lowest, mean and highest."""
    x = 100 * np.array(list(values))
    return f"{x.min():.1f} {x.mean():.1f} {x.max():.1f}" if len(x) else ""


def _sets(cells: Cells) -> str:
    sets = sorted({cell["sets"] for cell in cells.values()})
    errors = " to ".join(f"{100 * (0.05 * 0.95 / n) ** 0.5:.1f}" for n in reversed(sets))
    return f"{' to '.join(f'{n:,}' for n in sets)} samples a cell: standard error {errors} points at 95%."


def _shown(cells: Cells) -> dict[str, Mapping[str, Any]]:
    return {name: cell for name, cell in cells.items() if cell["metrics"] and cell["given"] >= LEAST_GIVEN}


def _by_sequences(cells: Cells, extra: Callable[[Cells, str], list[str]], names: list[str] | None = None) -> str:
    sizes = sorted({_sequences(name) for name in cells})
    shown = _shown(cells)
    metrics = names or list(dict.fromkeys(name for cell in shown.values() for name in cell["metrics"]))
    rows = []
    for metric in metrics:
        row = [f"`{metric}`"]
        for n in sizes:
            of = (c["metrics"] for k, c in shown.items() if _sequences(k) == n and metric in c["metrics"])
            row.append(_percent(metrics_of[metric]["inside"] for metrics_of in of))
        rows.append(row + extra(shown, metric))
    head = ["coverage, %", *(f"{n} sequences" for n in sizes), "width, median", "values outside"]
    return _table(head, rows)


def _width_and_outside(cells: Cells, metric: str) -> list[str]:
    of = [c["metrics"][metric] for c in cells.values() if metric in c["metrics"]]
    widths = [m["width"] for m in of if m["width"] is not None]
    return [f"{np.median(widths):.2f}" if widths else "", f"{sum(m['outside'] for m in of):.0f}"]


def _coverage(cells: Cells) -> str:
    refused = len(cells) - len(_shown(cells))
    bands = [c["bands"] for k, c in _shown(cells).items() if _sequences(k) >= 20]
    by_length = defaultdict(list)
    for name, cell in cells.items():
        if _sequences(name) == 40:
            by_length[_fields(name)[4]].append(cell["given"])
    given = ", ".join(f"{kind} {100 * np.mean(x):.0f}%" for kind, x in by_length.items())
    text = (
        f"{len(cells)} cells; {_sets(cells)} Lowest, mean and highest over cells. In {refused} cells less than a "
        f"quarter of the samples had ten effective sequences. Samples of 40 that had them, by lengths: {given}. "
        f"Bands of all experts' shares at once, 20 sequences and more: {_percent(bands)}.\n\n"
    )
    return text + _by_sequences(cells, _width_and_outside)


def _busiest(cells: Cells) -> str:
    rows = []
    for label, leads in (
        ("one expert leads by 4 standard errors or more", True),
        ("several may be the busiest", False),
    ):
        for n in sorted({_sequences(name) for name in cells}):
            of = [
                c["metrics"]["top_share_token"]
                for k, c in _shown(cells).items()
                if _sequences(k) == n and (c["lead"] >= LEADS) == leads
            ]
            if of:
                widths = [m["width"] for m in of if m["width"] is not None]
                ends = f"{min(widths):.2f} {np.median(widths):.2f} {max(widths):.2f}" if widths else ""
                rows.append([label, str(n), str(len(of)), _percent(m["inside"] for m in of), ends])
    head = ["busiest share", "sequences", "cells", "coverage, %", "median width over 3.92 standard deviations"]
    return _table(head, rows)


def _domains(cells: Cells) -> str:
    shift_of = {name: float(next(f for f in _fields(name) if f.startswith("shift")).split()[1]) for name in cells}
    rows = []
    for shift in sorted(set(shift_of.values())):
        of = {name: c for name, c in _shown(cells).items() if shift_of[name] == shift}
        row = [f"{shift:g}", str(len(of))]
        for metric in ("used", "information", "divergence"):
            row.append(_percent(c["metrics"][metric]["inside"] for c in of.values()))
        rows.append([*row, _percent(c["rejected"] for c in of.values())])
    disagree = sum(c["disagree"] for c in cells.values())
    outside = sum(m["outside"] for c in cells.values() for m in c["metrics"].values())
    text = (
        f"{_sets(cells)} p and interval disagreed {disagree} times; values outside their interval: {outside:.0f}.\n\n"
    )
    head = ["domains differ by", "cells", "r", "MI", "divergence of two", "alike rejected at 5%"]
    return text + _table(head, rows)


def _independence(cells: Cells) -> str:
    designs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for name, cell in cells.items():
        designs[", ".join(_fields(name)[3:])].append(cell)
    rows = []
    for design, of in designs.items():
        sure = [c for c in of if c["null_given"] >= 100]
        rows.append(
            [
                design,
                str(len(sure)),
                _percent(c["null"] for c in sure),
                _percent(c["power"] for c in sure if c["power"] is not None),
            ]
        )
    head = ["sequences of each domain", "cells", "rejected, %, nothing differs", "rejected, %, MI / ln D = 0.1"]
    return f"{_sets(cells)}\n\n" + _table(head, rows)


def _counts(cells: Cells) -> str:
    rows = []
    for n in sorted({_sequences(name) for name in cells}):
        of = [c for name, c in cells.items() if _sequences(name) == n]
        rows.append([str(n), str(len(of)), *(_percent(c[key] for c in of) for key in ("rejected", "left_out"))])
    return _table(["sequences", "cells", "n90: p <= 0.05, %", "interval leaves out 0, %"], rows)


def _distances(cells: Cells) -> str:
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for name, cell in cells.items():
        design, moved = _fields(name)[3:5]
        rows[design, moved.removeprefix("moved ")].append(cell)
    disagree = sum(c["disagree"] for c in cells.values())
    outside = sum(m["outside"] for c in cells.values() for m in c["metrics"].values())
    text = (
        f"{_sets(cells)} p and interval disagreed {disagree} times; values outside their interval: {outside:.0f}.\n\n"
    )
    body = []
    for (design, moved), of in sorted(rows.items()):
        covered = [_percent(c["metrics"][name]["inside"] for c in of) for name in ("load_l1", "load_jsd")]
        body.append([design, moved, str(len(of)), *covered, _percent(c["rejected"] for c in of)])
    return text + _table(["sides", "moved", "cells", "`load_l1`", "`load_jsd`", "alike rejected at 5%"], body)


def _findings(cells: Cells) -> str:
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for name, cell in cells.items():
        what, multiple = name.rsplit(", ", 1)
        rows[what][multiple] = f"{100 * cell['right']:.0f}, {100 * cell['open']:.0f}, {100 * cell['wrong']:.1f}"
    multiples = sorted({name.rsplit(", ", 1)[1] for name in cells}, key=float)
    head = ["right, open, wrong, %", *(f"{m} half-widths" for m in multiples)]
    return f"{_sets(cells)}\n\n" + _table(
        head, [[what, *(row.get(m, "") for m in multiples)] for what, row in rows.items()]
    )


def _needed(cells: Cells) -> str:
    rows = []
    for name, c in sorted(cells.items()):
        ends = "" if c["low"] is None else f"{c['low']:.0f} to {c['high']:.0f}"
        decided = "" if c["decided_low"] is None else f"{100 * c['decided_low']:.0f}, {100 * c['decided_high']:.0f}"
        rows.append([name, f"{100 * c['open']:.0f}", f"{100 * c['given']:.0f}", ends, decided])
    head = ["half-widths", "open, %", "of which a range is given, %", "median range", "decided at its ends, %"]
    return _table(head, rows)


def _thirds(cells: Cells) -> str:
    words = sorted({word for c in cells.values() for word in c["words"]})
    rows = []
    for name in sorted(cells, key=lambda name: (_fields(name)[2], int(_fields(name)[3].split()[0]))):
        kind, n = _fields(name)[2:]
        rows.append([kind, n.split()[0], *(f"{100 * cells[name]['words'].get(word, 0):.0f}" for word in words)])
    return _table(["routing", "texts a third", *(f"{word}, %" for word in words)], rows)
