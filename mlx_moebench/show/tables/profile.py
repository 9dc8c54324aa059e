"""Profiles of models on domains: a table for a terminal, rows for a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...printable import csv_cell
from ...routing.domains.shares import COUNT, MOST
from ...routing.metrics import METRICS
from ...types import Facts, Json
from ..figures import findings_sentence
from ..findings import flags
from ..names import HEADS, QUANTITIES, data_warnings, model_name, read_by
from ..numbers import number, percent, with_interval
from .base import Terminal, answered, plain_table, sentences
from .findings import finding_parts

COLUMNS = (
    *("model", "layer", "moe_layer", "router", "domain", "phase", "metric", "value", "low", "high"),
    *("n_tokens", "n_sequences", "unit", "reason"),
)
"""Columns of the tidy table; ``reason`` says why a value or its interval is missing."""

BETWEEN = {
    name: QUANTITIES[name].unit
    for name in ("domain_information", "dominant_share", "idle_experts", "mixture_spread", "jensen_shannon")
}
"""Metrics of several domains at once, with their units; their ``domain`` is the names joined by ``|``.

Findings stand beside them: ``finding.NAME``, 1 for yes and 0 for no, and 1 for ``word.WORD``.
"""


def print_profile(
    profile: Json,
    reports: dict[str, Json],
    settings: Json,
    console: Console | None = None,
) -> None:
    """Print what each domain is like and what lies between them, for one model."""
    console = console or Terminal()
    console.print(render_profile(profile, reports, settings))


def render_profile(profile: Json, reports: dict[str, Json], settings: Json) -> Group:
    """The tables of one model's profile as one rich renderable."""
    routers = profile["routers"]
    forms = sorted({f"top-{r['top_k']} of {r['n_experts']} (K/E {r['top_k'] / r['n_experts']:.3g})" for r in routers})
    name, model = profile["name"], model_name(profile["model"])
    title = name if name == model else f"{name}: {model}"
    parts: list[Any] = [sentences([f"{title}, {profile['phase']}, {', '.join(forms)}"], "bold")]
    parts += [sentences([f"Warning: {line}"], "dim") for line in data_warnings(profile["data"])]
    parts.append(_domains(reports))
    parts += finding_parts(routers, profile["words_by_router"], settings["thresholds"], list(reports))
    parts += [sentences([line], "dim") for line in read_by(profile["data"])]
    if any(r["domain_information"]["low"] is not None for r in routers):
        parts.append(Text(_of_intervals(settings["ci"]), style="dim"))
    parts.append(answered([findings_sentence(name, profile, list(reports))]))
    return Group(*parts)


def _of_intervals(ci: Json) -> str:
    """What the ends are."""
    level = percent(ci["level"])
    if ci["method"] == "layer":
        return (
            f"[low, high] of a domain: {level} bootstrap over layers, a census and not a sample; of findings: {level} "
            "intervals over sequences, drawn inside each domain."
        )
    return (
        f"[low, high]: {level} intervals over sequences, drawn inside each domain; biased numbers are shown corrected."
    )


def _domains(reports: dict[str, Json]) -> Table:
    """One row per domain: how much text, and the summary of its routers of the main kind."""
    table = plain_table()
    table.add_column("domain")
    for name in ("texts", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in (HEADS["mean_entropy"], HEADS["adjacent_overlap"], "busiest"):
        table.add_column(name, no_wrap=True)
    for name, report in reports.items():
        summary = report["summary"]
        table.add_row(
            name,
            f"{report['data']['n_sequences']:,}",
            f"{report['data']['n_tokens']:,}",
            with_interval(summary["mean_entropy"]["value"], summary["mean_entropy"], digits=2),
            with_interval(summary["adjacent_overlap"]["value"], summary["adjacent_overlap"], digits=2),
            number(summary["peak_top_share_token"]["value"], 2),
        )
    return table


def tidy_rows(profile: Json, reports: dict[str, Json]) -> Iterator[Json]:
    """One row per number: every metric of every router on each domain, then the numbers between domains."""
    for domain, report in reports.items():
        for router in report["routers"]:
            common = _common(profile, router) | {
                "domain": domain,
                "n_tokens": router["n_tokens"],
                "n_sequences": report["data"]["n_sequences"],
            }
            for name, metric in METRICS.items():
                yield common | _cells(name, metric.unit, {"value": router[name], **router["ci"][name]})
    every = sorted(d["name"] for d in profile["domains"])
    for router in profile["routers"]:
        for name, domains, entry in between_rows(router, every):
            common = _common(profile, router) | {"domain": "|".join(domains), **sizes_of(profile, domains)}
            yield common | _cells(name, BETWEEN.get(name, "flag"), entry)


def sizes_of(profile: Facts, domains: Sequence[str]) -> Json:
    """Tokens and sequences of these domains together."""
    sizes = [d for d in profile["domains"] if d["name"] in domains]
    return {key: sum(one[key] for one in sizes) for key in ("n_tokens", "n_sequences")}


def between_rows(router: Json, domains: Sequence[str]) -> Iterator[tuple[str, Sequence[str], Json]]:
    """(name, domains, entry) of every number that lies between domains at a router, then of findings and word."""
    findings, reason = router["findings"]["findings"], router["domain_specialisation"].get("reason")
    yield "domain_information", domains, router["domain_information"]
    for name, finding, part, method in (
        ("dominant_share", "dominated", "share", MOST),
        ("idle_experts", "idle", "experts", COUNT),
    ):
        if part in findings[finding]["parts"]:
            yield name, domains, {"reason": reason, "method": method} | findings[finding]["parts"][part]
    yield "mixture_spread", domains, router["mixture_spread"]
    for entry in router["jensen_shannon"]:
        yield "jensen_shannon", entry["domains"], entry
    for name, entry in flags(router):
        yield name, domains, entry


def _common(profile: Json, router: Json) -> Json:
    identity = {key: router[key] for key in ("layer", "moe_layer", "router")}
    return {"model": profile["name"], **identity, "phase": profile["phase"]}


def _cells(name: str, unit: str, entry: Json) -> Json:
    return {"metric": name, "unit": unit, **{key: entry.get(key) for key in ("value", "low", "high", "reason")}}


def tidy_csv(rows: Iterable[Json], columns: Sequence[str] = COLUMNS) -> bytes:
    """The rows as CSV with a header; an undefined number, or a column that a row lacks, is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue().encode()
