"""Tables of what benchmarks/audit.py measured of losses, overlaps, vocabularies, answers and seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import audit_tables
import numpy as np
from audit_tables import Cells


def tables(results: Mapping[str, Cells]) -> dict[str, str]:
    """{name: Markdown} of the parts that were measured."""
    makers: dict[str, Callable[[Cells], str]] = {
        "loss": _loss,
        "overlap": _overlap,
        "vocabulary": _vocabulary,
        "answers": _answers,
        "seeds": _seeds,
    }
    return {name: f"{_sets(of)}\n\n{makers[name](of)}" for name in makers if (of := results.get(name))}


def _sets(cells: Cells) -> str:
    sets = sorted({cell["sets"] for cell in cells.values()})
    error = 100 * (0.05 * 0.95 / sets[0]) ** 0.5
    numbers = " to ".join(f"{n:,}" for n in sets)
    errors = f"standard error {error:.1f} points at 95% and at 5%"
    return (
        f"{len(cells)} cells of {numbers} samples ({errors}); where there are three numbers, lowest, mean and highest."
    )


def _groups(cells: Cells, field: int) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Cells by one part of their names and the number of sequences or seeds, in order."""
    groups: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for name, cell in cells.items():
        parts = name.split(", ")
        groups[parts[field], parts[-1].removeprefix("S ")].append(cell)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], int(item[0][1]))))


def _inside(cells: list[Mapping[str, Any]], metric: str) -> str:
    return audit_tables._percent(c["metrics"][metric]["inside"] for c in cells if metric in c["metrics"])


def _outside(cells: list[Mapping[str, Any]]) -> str:
    return f"{sum(m['outside'] for c in cells for m in c['metrics'].values()):.0f}"


def _loss(cells: Cells) -> str:
    names = ("rho", "tenth", "lowest", "highest")
    rows = []
    for (slope, n), of in _groups(cells, 0).items():
        given = audit_tables._percent(c["given"] for c in of)
        excluded = audit_tables._percent(c["excludes_0"] for c in of if c["given"] >= 0.1)
        rows.append([slope, n, given, *(_inside(of, name) for name in names), excluded, _outside(of)])
    head = ["score and loss", "sequences", "given, %", "rho", "all tenths", "lowest", "highest"]
    return audit_tables._table([*head, "rho without 0, %", "values outside"], rows)


def _overlap(cells: Cells) -> str:
    rows = []
    for (rate, n), of in _groups(cells, 0).items():
        widths = [c["metrics"]["differ"]["width"] for c in of if "differ" in c["metrics"]]
        width = f"{np.median(widths):.2f}" if widths else ""
        rows.append(
            [rate, n, audit_tables._percent(c["given"] for c in of), _inside(of, "differ"), width, _outside(of)]
        )
    return audit_tables._table(["share", "sequences", "given, %", "coverage, %", "width", "values outside"], rows)


def _vocabulary(cells: Cells) -> str:
    groups = _groups(cells, 0)
    sizes = sorted({n for _, n in groups}, key=int)
    rows = []
    for design in dict.fromkeys(design for design, _ in groups):
        of = [groups[design, n][0] for n in sizes if (design, n) in groups]
        kept = f"{100 * of[-1]['neighbours']:.0f}" if of[-1]["rejected"] > 0.2 else ""
        rows.append([design, *(f"{100 * c['rejected']:.1f}" for c in of), kept])
    head = ["rejected at 5%, %", *(f"{n} sequences" for n in sizes), "excess left to neighbours, %"]
    return audit_tables._table(head, rows)


def _answers(cells: Cells) -> str:
    kinds = ("accuracy macro", "accuracy micro", "difference macro", "difference micro")
    groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for name, cell in cells.items():
        groups[name.rpartition(", ")[0]].append(cell)
    rows = []
    for name, of in groups.items():
        covered = ([c["inside"][kind] for c in of if c["inside"][kind] is not None] for kind in kinds)
        columns = [audit_tables._percent(shares) or "refused" for shares in covered]
        rows.append([name, *columns, audit_tables._percent(c["mcnemar"] for c in of)])
    return audit_tables._table(["questions of subjects", *kinds, "McNemar, equal models"], rows)


def _seeds(cells: Cells) -> str:
    groups: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for name, cell in cells.items():
        groups[int(name.rpartition("S ")[2])].append(cell)
    keys = ("inside", "seeds_alone", "rejected")
    rows = [[str(n), *(audit_tables._percent(c[key] for c in of) for key in keys)] for n, of in sorted(groups.items())]
    return audit_tables._table(["seeds", "coverage, %", "t over seeds alone", "rejected at 5%, no difference"], rows)
