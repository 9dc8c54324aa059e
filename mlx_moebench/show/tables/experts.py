"""What single experts do: tables for a terminal, and all experts as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from ...printable import csv_cell
from ...types import Facts, Json
from ..names import model_name
from ..numbers import UNDEFINED, count, decimals, number, percent, with_interval
from .base import Terminal, interval_notes, router_table, sentences

COLUMNS = (
    *(
        "layer",
        "moe_layer",
        "router",
        "expert",
        "tokens",
        "frequency",
        "weighted_frequency",
        "mean_norm",
        "ean",
        "reap",
    ),
    *("peak", "super", "accuracy", "accuracy_low", "accuracy_high", "n_questions", "expected", "p_better", "q_better"),
)
"""Columns of the table of all experts."""

FEWEST = 30
"""Questions from which an expert's accuracy is shown among the lowest and highest."""

_POSITIONS = {
    "last": "the last token of each prompt",
    "answer": "the tokens of each right answer",
    "all": "every token of each prompt",
}


def print_experts(report: Json, console: Console | None = None) -> None:
    """Print a row for each router: who was chosen, how evenly weighed, how alike; and how right where."""
    (console or Terminal()).print(render(report))


def render(report: Json) -> Group:
    """The tables of a report as one rich renderable."""
    routers, ci = report["routers"], report["settings"]["ci"]
    parts: list[Any] = [sentences(_heading(report), "bold"), _activated(report), _weights(report)]
    if "answers" in report:
        parts.append(_accuracies(report))
    note = (
        "never, even: experts that no counted token chose, and how many even, independent choices would leave.\n"
        "gate entropy: of the K gate weights over their sum, nats; sd over tokens. outputs, weights: mean cosine of "
        "the outputs of two experts that a token chose, and of two experts' weights.\n"
        f"super: experts whose largest output is above {report['settings']['super_times']:g} times the median over the "
        "router's chosen experts, the number in brackets."
    )
    if "answers" in report:
        note += (
            "\naccuracy: of the questions in which a counted token chose the expert, with Wilson's interval; expected: "
            "what the subjects of those questions have. q: of being better than that, right answers permuted inside "
            "each subject, one-sided mid-p adjusted over all experts (Benjamini-Hochberg)."
        )
    every = (entry for r in routers for entry in (r["gate_entropy"], r["output_similarity"]["signed"]))
    return Group(*parts, interval_notes(note, every, ci))


def _heading(report: Json) -> list[str]:
    data, summary = report["data"], report["summary"]
    lines = [
        f"{model_name(report['model'])} on {data['name']}: {data['n_sequences']:,} sequences, "
        f"{_POSITIONS[data['positions']]} counts: {count(data['n_counted'], 'token')}",
        f"never chosen: {percent(round(100 * summary['never_activated_share'], 1) / 100)} of "
        f"{summary['n_experts']:,} experts; even, independent choices would leave "
        f"{percent(round(100 * summary['never_activated_expected_share'], 1) / 100)}",
    ]
    if "answers" in report:
        results = report["answers"]["results"]
        lines.append(
            f"accuracy {with_interval(results['micro_accuracy']['value'], results['micro_accuracy'], 3, decimals)} of "
            f"{count(results['n'], 'question')}, guessing gives {results['chance']}; experts better than their "
            f"subjects, q <= 0.05: {summary['better_experts']}"
        )
    return lines


def _activated(report: Json) -> Table:
    table, names = router_table(report["routers"])
    for name in ("chosen", "never", "even"):
        table.add_column(name, justify="right")
    for name in ("gate entropy", "sd", "outputs", "weights", "super"):
        table.add_column(name, no_wrap=True)
    for r, cells in zip(report["routers"], names, strict=True):
        entropy, alike, outstanding = r["gate_entropy"], r["output_similarity"]["signed"], r["super_experts"]
        cells += [f"{r['activated']}", f"{r['never_activated']}", decimals(r["never_activated_expected"], 1)]
        cells += [with_interval(entropy["value"], entropy, 3, decimals), decimals(entropy["sd"], 3)]
        cells += [with_interval(alike["value"], alike, 3, decimals), decimals(r["weight_similarity"]["value"], 3)]
        listed = ", ".join(map(str, outstanding["experts"])) or "none"
        table.add_row(*cells, f"{listed} ({number(outstanding['threshold'], 2)})")
    return table


def _weights(report: Json) -> Table:
    most = max(len(r["sorted_weights"]) for r in report["routers"])
    table, names = router_table(report["routers"], "Mean gate weight over the sum of the K, largest first")
    for rank in range(1, most + 1):
        table.add_column(str(rank), justify="right", no_wrap=True)
    for r, cells in zip(report["routers"], names, strict=True):
        cells += [decimals(weight, 3) for weight in r["sorted_weights"]]
        table.add_row(*cells, *[""] * (most - len(r["sorted_weights"])))
    return table


def _accuracies(report: Json) -> Table:
    title = f"Accuracy where an expert was chosen, of experts of {FEWEST} questions or more"
    table, names = router_table(report["routers"], title)
    for name in ("experts", "lowest", "highest", "expected", "q"):
        table.add_column(name, no_wrap=True)
    for r, cells in zip(report["routers"], names, strict=True):
        asked = [e["accuracy"] for e in r["experts"] if e["accuracy"]["n"] >= FEWEST]
        if not asked:
            table.add_row(*cells, "0", *[UNDEFINED] * 4)
            continue
        low, high = (pick(asked, key=lambda one: one["value"]) for pick in (min, max))
        shown = [f"{with_interval(one['value'], one, 2, decimals)} of {one['n']:,}" for one in (low, high)]
        table.add_row(*cells, str(len(asked)), *shown, decimals(high["expected"], 2), number(high["q_better"], 3))
    return table


def experts_csv(report: Facts) -> str:
    """A row for every expert of every router; an undefined number is an empty cell."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    for row in _rows(report):
        writer.writerow({key: csv_cell(value) for key, value in row.items() if value is not None})
    return out.getvalue()


def _rows(report: Facts) -> Iterator[Json]:
    for router in report["routers"]:
        of_router = {key: router[key] for key in ("layer", "moe_layer", "router")}
        for expert in router["experts"]:
            row = of_router | expert | {"super": int(expert["expert"] in router["super_experts"]["experts"])}
            one = row.pop("accuracy", None)
            if one is not None:
                row |= {key: one[key] for key in ("expected", "p_better", "q_better")} | {"accuracy": one["value"]}
                row |= {"accuracy_low": one["low"], "accuracy_high": one["high"], "n_questions": one["n"]}
            yield row
