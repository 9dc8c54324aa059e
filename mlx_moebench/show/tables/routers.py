"""The report as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...routing.metrics import get_metric
from ..numbers import count as _count
from ..numbers import number as _number
from ..numbers import percent
from ..numbers import with_interval as _with_interval
from .verdict import verdict_parts

_SHOWN = (
    *("collapsed_fraction", "mean_entropy", "peak_top_share_token", "peak_top_load_ratio", "eae"),
    *("token_information", "margin_prob", "adjacent_overlap"),
)


def label_and_unit(name: str) -> tuple[str, str]:
    """What people call an entry of a report's summary, and its unit."""
    if name == "collapsed_fraction":
        return "Routers flagged as collapsed", "fraction"
    metric = get_metric(name.removeprefix("peak_"))
    return metric.label + (", peak" if name.startswith("peak_") else ""), metric.unit


SUMMARY = tuple((name, *label_and_unit(name)) for name in _SHOWN)
"""(entry of a report's summary, label, unit) that people are shown first. A peak is the largest of any layer."""


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Print one row per router, then the summary, each number with its interval."""
    console = console or Console()
    console.print(render(report))


def render(report: dict[str, Any]) -> Group:
    """The tables of a report as one rich renderable."""
    parts: list[Any] = [_heading(report), _routers(report)]
    summaries = report.get("summary_by_router") or {"": report["summary"]}
    for kind, summary in summaries.items():
        parts.append(_summary(summary, f"Summary of {kind} routers" if len(summaries) > 1 else "Summary"))
    parts += verdict_parts(report["routers"], report.get("verdicts_by_router", {}))
    parts.append(_notes(report))
    return Group(*parts)


def _heading(report: dict[str, Any]) -> Text:
    model, data = report["model"], report["data"]
    unit = "count file" if model.get("backend") == "counts" else "sequence"
    return Text(
        f"{model_name(model)} on {data['name']}: {_count(data['n_sequences'], unit)}, "
        f"{_count(data['n_tokens'], 'token')}, {data['phase']}, {', '.join(sorted(_forms(report)))}",
        style="bold",
    )


def model_name(model: dict[str, Any]) -> str:
    """Its id, and what makes it another model than that: experts of less than 16 bit (mean), an adapter."""
    name = str(model.get("id", "model"))
    bits, adapter = model.get("weight_bits"), model.get("adapter")
    if bits is not None and bits < 16:
        name += f" at {bits:.3g} bits per expert weight"
    return f"{name} with {adapter['name']}" if adapter else name


def _forms(report: dict[str, Any]) -> set[str]:
    return {f"top-{r['top_k']} of {r['n_experts']}" for r in report["routers"]}


def _routers(report: dict[str, Any]) -> Table:
    kinds = {router["router"] for router in report["routers"]}
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("layer", justify="right")
    if len(kinds) > 1:
        table.add_column("router")
    if len(_forms(report)) > 1:
        table.add_column("top-K of E", justify="right")
    table.add_column("entropy, nats", no_wrap=True)
    table.add_column("busiest, of tokens", no_wrap=True)
    for name in ("x even", "n_eff", "dead"):
        table.add_column(name, justify="right")
    table.add_column("> tau")
    for r in report["routers"]:
        cells = [str(r["layer"])]
        if len(kinds) > 1:
            cells.append(r["router"])
        if len(_forms(report)) > 1:
            cells.append(f"{r['top_k']} of {r['n_experts']}")
        cells += [
            _with_interval(r["mean_entropy"], r["ci"].get("mean_entropy")),
            _with_interval(r["top_share_token"], r["ci"].get("top_share_token"), digits=2),
            _number(r["top_load_ratio"], 2),
            _number(r["n_eff"]),
            str(r["dead_experts"]),
            {True: "collapsed", False: "-", None: "n/a"}[r["collapsed"]],
        ]
        table.add_row(*cells)
    return table


def _summary(summary: dict[str, Any], title: str) -> Table:
    table = Table(
        box=None,
        show_header=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        title=title,
        title_justify="left",
        title_style="bold",
    )
    for name, label, unit in SUMMARY:
        if name in summary:
            table.add_row(label, _with_interval(summary[name]["value"], summary[name]), unit)
    return table


def _notes(report: dict[str, Any]) -> Text:
    settings, data = report["settings"], report["data"]
    entries = report["summary"]
    known = (
        entries[name] for name in ("mean_entropy", "eae") if name in entries and entries[name]["value"] is not None
    )
    first = next(known, entries["mean_entropy"])
    ci = settings["ci"]
    share = settings["collapse_on"].removeprefix("top_share_")
    lines = [f"unfinished: {missing}." for missing in _missing(data)]
    lines += [
        f"collapsed: the busiest expert's {share} share exceeds tau = {settings['tau']:g}; "
        "a flag on one domain, not a verdict."
    ]
    lines += [f"Warning: {warning}" for warning in report["model"].get("warnings", [])]
    reasons = dict.fromkeys(r["collapsed_reason"] for r in report["routers"] if r.get("collapsed_reason"))
    lines += [f"n/a: {reason}." for reason in reasons]
    if first["low"] is None:
        lines.append(f"No intervals: {first.get('reason', 'unknown reason')}.")
    else:
        over = "layers, a census and not a sample" if ci["method"] == "layer" else "sequences"
        lines.append(
            f"[low, high]: {percent(ci['level'])} bootstrap over {over}, {ci['resamples']:,} resamples; "
            "the report names each method."
        )
    return Text("\n".join(lines), style="dim")


def _missing(data: dict[str, Any]) -> Iterator[str]:
    """What is not measured yet of each data set of which a run says what there was to measure."""
    for source in data.get("sources", [data]):
        parts = source.get("parts", [])
        done, planned = (sum(part[key] for part in parts) for key in ("sequences_done", "sequences"))
        if done < planned:
            yield f"{done:,} of {_count(planned, 'sequence')} of {source['name']} measured; analyze --resume goes on"
        if source.get("shards"):
            documents = sum(part["documents"] for part in parts)
            yield (
                f"shard {', '.join(source['shards'])} of {source['name']}, "
                f"{documents:,} of {_count(source['documents'], 'document')}; merge puts shards together"
            )
