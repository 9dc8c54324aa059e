"""What a training did: a table of before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from ...types import Facts, Json
from ..figures import training_verdict
from ..inputs import Training
from ..names import label_and_unit
from ..numbers import decimals, with_interval
from .base import Terminal, answered, plain_table

ROWS = (
    ("load_entropy", 3),
    ("n_eff", 1),
    ("dead_experts", 2),
    ("peak_top_share_token", 3),
    ("marginal_entropy", 3),
    ("mean_entropy", 3),
)
"""(entry of the summary of a routing report, digits)"""

ENDS = ("before", "after")

VERDICTS = {"good": "green", "bad": "red", "open": ""}
"""Colours of verdicts, beside their words."""


def print_training(
    report: Json, log: Sequence[Facts] = (), console: Console | None = None, name: str = "adapters"
) -> None:
    """Print routing before and after with intervals, the cross-entropies, how often the floor fired, and a verdict.

    log: the lines of its log, without which nothing is said of the routing loss. name: what the training is called.
    """
    console = console or Terminal()
    loss = report["settings"]["routing_loss"]
    trained = "no routing loss" if loss is None else f"{loss['name']}, weight {loss['weight']:g}"
    console.print(f"{report['model']}: {report['tokens_trained']:,} tokens, {trained}", style="bold", markup=False)
    console.print(_table(report))
    for line in _notes(report):
        console.print(line, markup=False)
    verdict = training_verdict(Training(name, report, log))
    console.print(answered([verdict.sentence]), style=VERDICTS[verdict.state])


def _table(report: Json) -> Table:
    table = plain_table()
    for column in ("", *ENDS):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for key, digits in ROWS:
        entries = (report[f"routing_{when}"][key] for when in ENDS)
        cells = (with_interval(entry.get("value"), entry, digits, decimals) for entry in entries)
        table.add_row(", ".join(label_and_unit(key)), *cells)
    ce = report["ce"]
    if ce["validation_after"] is not None:
        table.add_row("Validation CE, nats per token", *(decimals(ce[f"validation_{when}"], 4) for when in ENDS))
    if ce["test_after"] is not None:
        table.add_row("Test CE, nats per token", "", decimals(ce["test_after"], 4))
    return table


def _notes(report: Json) -> Iterator[str]:
    routing_loss = report["routing_loss"]
    if "steps_with_a_router_below_floor" in routing_loss:
        floors = ", ".join(f"{nats:.3f}" for nats in routing_loss["floor_nats"])
        fired = routing_loss["steps_with_a_router_below_floor"]
        yield f"A router was below the floor of {floors} nats in {fired} of {routing_loss['steps']} steps."
    if left_out := report.get("left_out"):
        always = "" if report["settings"]["sort_by_length"] else ", the same each time, as in mlx-lm"
        yield f"{left_out} of {report['data']['train']['sequences']} texts filled no batch in each epoch{always}."
    interval = report["routing_after"]["load_entropy"]
    how = "95% bootstrap intervals" if interval.get("low") is not None else f"no intervals ({interval.get('reason')})"
    yield f"Means over routers, but the busiest expert, which is that of any layer; {how}."
