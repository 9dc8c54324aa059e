"""Profiles of models on domains: a table for a terminal, rows for a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...routing.metrics import METRICS
from ...types import Json
from ..names import HEADS, data_warnings, model_name, read_by
from ..numbers import number, percent, with_interval
from .base import plain_table
from .findings import finding_parts

COLUMNS = (
    *("model", "layer", "moe_layer", "router", "domain", "phase", "metric", "value", "low", "high"),
    *("n_tokens", "n_sequences", "unit", "reason"),
)
"""Columns of the tidy table; ``reason`` says why a value or its interval is missing."""

BETWEEN = {
    "domain_information": "nats",
    "dominant_share": "share of tokens",
    "idle_experts": "share of experts",
    "mixture_spread": "ratio",
    "jensen_shannon": "nats",
}
"""Metrics of several domains at once, with their units; their ``domain`` is the names joined by ``|``."""


def print_profile(
    profile: Json,
    reports: dict[str, Json],
    settings: Json,
    console: Console | None = None,
) -> None:
    """Print what each domain is like and what lies between them, for one model."""
    console = console or Console()
    console.print(render_profile(profile, reports, settings))


def render_profile(profile: Json, reports: dict[str, Json], settings: Json) -> Group:
    """The tables of one model's profile as one rich renderable."""
    routers = profile["routers"]
    forms = sorted({f"top-{r['top_k']} of {r['n_experts']} (K/E {r['top_k'] / r['n_experts']:.3g})" for r in routers})
    name, model = profile["name"], model_name(profile["model"])
    title = name if name == model else f"{name}: {model}"
    parts: list[Any] = [Text(f"{title}, {profile['phase']}, {', '.join(forms)}", style="bold")]
    parts.append(_domains(reports))
    domains = sorted(reports)
    parts += finding_parts(routers, profile["words_by_router"], settings["thresholds"], domains)
    parts += [Text(f"Warning: {line}", style="dim") for line in data_warnings(profile["data"])]
    parts += [Text(line, style="dim") for line in read_by(profile["data"])]
    ci = settings["ci"]
    if any(r["domain_information"]["low"] is not None for r in routers):
        parts.append(
            Text(
                f"[low, high]: {percent(ci['level'])} intervals over sequences, {ci['resamples']:,} draws inside each "
                "domain; biased numbers are shown corrected.",
                style="dim",
            )
        )
    return Group(*parts)


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
    sizes = {d["name"]: d for d in profile["domains"]}
    for router in profile["routers"]:
        for name, domains, entry in between_rows(router, sorted(sizes)):
            common = _common(profile, router) | {
                "domain": "|".join(domains),
                "n_tokens": sum(sizes[d]["n_tokens"] for d in domains),
                "n_sequences": sum(sizes[d]["n_sequences"] for d in domains),
            }
            yield common | _cells(name, BETWEEN[name], entry)


def between_rows(router: Json, domains: Sequence[str]) -> Iterator[tuple[str, Sequence[str], Json]]:
    """(name, domains, entry) of every number that lies between domains at a router."""
    findings, reason = router["findings"]["findings"], router["domain_specialisation"].get("reason")
    yield "domain_information", domains, router["domain_information"]
    for name, finding, part in (("dominant_share", "dominated", "share"), ("idle_experts", "idle", "experts")):
        if part in findings[finding]["parts"]:
            yield name, domains, {"reason": reason} | findings[finding]["parts"][part]
    yield "mixture_spread", domains, router["mixture_spread"]
    for entry in router["jensen_shannon"]:
        yield "jensen_shannon", entry["domains"], entry


def _common(profile: Json, router: Json) -> Json:
    identity = {key: router[key] for key in ("layer", "moe_layer", "router")}
    return {"model": profile["name"], **identity, "phase": profile["phase"]}


def _cells(name: str, unit: str, entry: Json) -> Json:
    return {"metric": name, "unit": unit, **{key: entry.get(key) for key in ("value", "low", "high", "reason")}}


def tidy_csv(rows: Iterator[Json]) -> bytes:
    """The rows as CSV with a header; an undefined number is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
