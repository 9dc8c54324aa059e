"""What a training did: a table of before and after."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

ROWS = (
    ("load_entropy", "Load entropy H(f), nats", 3),
    ("n_eff", "Experts in effective use", 1),
    ("dead_experts", "Experts never chosen", 2),
    ("peak_top_share_token", "Busiest expert, share of tokens", 3),
    ("marginal_entropy", "Entropy of the mean routing, nats", 3),
    ("mean_entropy", "Entropy of a token's routing, nats", 3),
)
"""(key in the summary of a routing report, label with unit, digits)"""


def print_training(report: dict[str, Any], console: Console | None = None) -> None:
    """Print routing before and after with intervals, the cross-entropies, and how often the floor fired."""
    console = console or Console()
    loss, ce = report["settings"]["routing_loss"], report["ce"]
    name = "no routing loss" if loss is None else f"{loss['name']}, weight {loss['weight']:g}"
    console.print(f"{report['model']}: {report['tokens_trained']:,} tokens, {name}", style="bold", markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("", "before", "after"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for key, label, digits in ROWS:
        table.add_row(label, *(_interval(report[f"routing_{when}"][key], digits) for when in ("before", "after")))
    if ce["validation_after"] is not None:
        ends = (_figure(ce[f"validation_{when}"]) for when in ("before", "after"))
        table.add_row("Validation CE, nats per token", *ends)
    if ce["test_after"] is not None:
        table.add_row("Test CE, nats per token", "", _figure(ce["test_after"]))
    console.print(table)
    found = report["routing_loss"]
    if "steps_with_a_router_below_floor" in found:
        floors = ", ".join(f"{nats:.3f}" for nats in found["floor_nats"])
        fired = found["steps_with_a_router_below_floor"]
        console.print(f"A router was below the floor of {floors} nats in {fired} of {found['steps']} steps.")
    interval = report["routing_after"]["load_entropy"]
    how = "95% bootstrap intervals" if interval.get("low") is not None else f"no intervals ({interval.get('reason')})"
    console.print(f"Means over routers, but the busiest expert, which is that of any layer; {how}.", markup=False)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(entry: dict[str, Any], digits: int) -> str:
    value, low, high = (entry.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text if low is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"
