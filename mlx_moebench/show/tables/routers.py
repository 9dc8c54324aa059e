"""The report as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...types import Json
from ..figures import report_sentence
from ..names import (
    HEADS,
    OPEN,
    SUMMARY,
    counts_for,
    data_warnings,
    flag_of,
    missing,
    model_name,
    read_by,
    router_forms,
    sizes,
    tie_warnings,
)
from ..numbers import UNDEFINED, number, percent, with_interval
from .base import Terminal, answered, plain_table, sentences
from .findings import finding_parts, has_ends


def print_report(report: Json, console: Console | None = None) -> None:
    """Print one row per router, then the summary, each number with its interval."""
    console = console or Terminal()
    console.print(render(report))


def render(report: Json) -> Group:
    """The tables of a report as one rich renderable."""
    parts: list[Any] = [_heading(report), *_caveats(report), _routers(report)]
    summaries = report.get("summary_by_router") or {"": report["summary"]}
    judged = any("findings" in router for router in report["routers"])
    for kind, summary in summaries.items():
        parts.append(_summary(summary, f"Summary of {kind} routers" if len(summaries) > 1 else "Summary", judged))
    domains = sorted({source["name"] for source in report["data"].get("sources", ())})
    thresholds = report["settings"].get("thresholds")
    parts += finding_parts(report["routers"], report.get("words_by_router", {}), thresholds, domains)
    parts += [_notes(report), answered([report_sentence(report)])]
    return Group(*parts)


def _heading(report: Json) -> Text:
    name, data = model_name(report["model"]), report["data"]["name"]
    return sentences([f"{name} on {data}: {sizes(report)}, {', '.join(sorted(router_forms(report)))}"], "bold")


def _routers(report: Json) -> Table:
    kinds = {router["router"] for router in report["routers"]}
    several_forms = len(router_forms(report)) > 1
    table = plain_table()
    table.add_column("layer", justify="right")
    if len(kinds) > 1:
        table.add_column("router")
    if several_forms:
        table.add_column("top-K of E", justify="right")
    for name in ("mean_entropy", "top_share_token"):
        table.add_column(HEADS[name], no_wrap=True)
    for name in ("top_load_ratio", "n_eff", "dead_experts"):
        table.add_column(HEADS[name].removesuffix(", experts"), justify="right")  # a line has 80 characters
    flagged = _flagged(report)
    if flagged:
        table.add_column("> tau")
    for r in report["routers"]:
        cells = [str(r["layer"])]
        if len(kinds) > 1:
            cells.append(r["router"])
        if several_forms:
            cells.append(f"{r['top_k']} of {r['n_experts']}")
        cells += [
            with_interval(r["mean_entropy"], r["ci"].get("mean_entropy")),
            with_interval(r["top_share_token"], r["ci"].get("top_share_token"), digits=2),
            number(r["top_load_ratio"], 2),
            number(r["n_eff"]),
            str(r["dead_experts"]),
        ]
        if flagged:
            cells.append(_FLAGS[flag_of(r, report["settings"])])
        table.add_row(*cells)
    return table


def _flagged(report: Json) -> bool:
    """Whether there are flags to show: over several domains findings say more, and flags of one might contradict."""
    return any("collapsed" in r and "findings" not in r for r in report["routers"])


_FLAGS = {"yes": "above", "no": "-", "open": "open", "null": UNDEFINED}


def _summary(summary: Json, title: str, domains: bool) -> Table:
    table = plain_table(title, show_header=False)
    for name, label, unit in SUMMARY:
        if name in summary and not (name == "collapsed_fraction" and domains):
            table.add_row(label, with_interval(summary[name]["value"], summary[name]), unit)
    return table


def _caveats(report: Json) -> list[Text]:
    """What limits the numbers, to be read before them."""
    settings, data = report["settings"], report["data"]
    lines = [f"Unfinished: {part}." for part in missing(data)]
    warnings = [*report["model"].get("warnings", []), *data_warnings(data), *tie_warnings(report["routers"])]
    lines += [f"Warning: {warning}" for warning in warnings]
    if reason := _no_intervals(report):
        lines.append(f"No intervals: {reason}.")
    if _flagged(report):
        share = settings["collapse_on"].removeprefix("top_share_")
        lines.append(
            f"> tau: the busiest expert's {share} share exceeds tau = {settings['tau']:g}; "
            "a flag on one domain, which cannot tell collapse from specialisation."
        )
        if any(flag_of(r, settings) == "open" for r in report["routers"]):
            lines.append(f"open: {OPEN}.")
        reasons = dict.fromkeys(r["collapsed_reason"] for r in report["routers"] if r.get("collapsed_reason"))
        lines += [f"{UNDEFINED}: {reason}." for reason in reasons]
    return [sentences(lines, "dim")] if lines else []


def _notes(report: Json) -> Text:
    """What the columns are, and how the numbers were made."""
    data = report["data"]
    lines = [
        "busiest: the busiest expert; x even: its multiple of the even share; n_eff: effective number of experts; "
        "dead: experts without a selection."
    ]
    if (ends := _of_intervals(report, report["settings"]["ci"])) is not None:
        lines.append(ends)
    lines += [*read_by(data), *counts_for(data), *_undecided(report["routers"])]
    return sentences(lines, "dim")


def _undecided(routers: list[Json]) -> list[str]:
    """Where more than one expert may be the busiest."""
    several = len({router["router"] for router in routers}) > 1
    named = []
    for r in routers:
        candidates = r["ci"].get("top_share_token", {}).get("candidates", 1)
        if candidates > 1:
            named.append(f"{candidates} in layer {r['layer']}" + (f" ({r['router']})" if several else ""))
    return [f"Experts that may be the busiest: {', '.join(named)}."] if named else []


def _first(report: Json) -> Json:
    """The entry of the summary that says whether there are intervals; counts have no mean entropy, only loads."""
    entries = report["summary"]
    known = (entries[name] for name in ("mean_entropy", "eae") if name in entries)
    first: Json = next((entry for entry in known if entry["value"] is not None), entries["mean_entropy"])
    return first


def _no_intervals(report: Json) -> str | None:
    """Why there are none; None where there are some."""
    first = _first(report)
    return None if first["low"] is not None else str(first.get("reason", "unknown reason"))


def _of_intervals(report: Json, ci: Json) -> str | None:
    """What the ends are; None where there are none."""
    if _first(report)["low"] is None:
        return None
    if ci["method"] == "layer":
        others = "; those of findings are over sequences" if has_ends(report["routers"]) else ""
        return f"[low, high]: {percent(ci['level'])} bootstrap over layers, a census and not a sample{others}."
    return (
        f"[low, high]: {percent(ci['level'])} intervals over sequences, {ci['resamples']:,} draws; biased numbers "
        "are shown corrected, and the report names each method."
    )
