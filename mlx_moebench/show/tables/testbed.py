"""The routing testbed in a terminal: the ladder of methods between the two bounds."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group

from ...types import Facts, Json
from ..figures.testbed import ranked
from ..numbers import count, decimals, number, percent, signed, with_interval
from .base import Terminal, plain_table, sentences

SHOWN = ("loss", "specialisation", "spec_score", "precision", "eae", "max_violation", "dead_experts", "top1_flip")
HEADS = {
    "loss": "loss, nats",
    "specialisation": "MI / ln D",
    "spec_score": "SpecScore",
    "nmi": "NMI",
    "purity": "purity",
    "precision": "precision",
    "eae": "H(f) / ln E",
    "max_violation": "MaxVio",
    "max_violation_batch": "MaxVio, batch",
    "dead_experts": "dead",
    "top1_flip": "flips",
}
"""Short names of the quantities of `lab.ladder`; a terminal has room for those of `SHOWN`."""

EXPECTED = {1: "higher", -1: "lower"}


def print_testbed(report: Json, console: Console | None = None) -> None:
    """Print a ladder for each size, the most specialised first, and the orders that were expected."""
    console = console or Terminal()
    for size in report["sizes"]:
        console.print(render(report, size))


def render(report: Json, size: Json) -> Group:
    """One size: its heading, its ladder, and what was expected of it."""
    table = plain_table()
    table.add_column("method", no_wrap=True)
    for name in SHOWN:
        table.add_column(HEADS[name], no_wrap=True)
    for method in ranked(size):
        bound = f" ({method['bound']} bound)" if method["bound"] else ""
        cells = [f"{method['name']}{bound}"]
        for name in SHOWN:
            entry = method["values"][name]
            cells.append(with_interval(entry["value"], entry, 2 if name in ("max_violation", "dead_experts") else 3))
        table.add_row(*(cell.replace("null", "not known") for cell in cells))
    return Group(
        sentences([heading(report, size)], "bold"),
        table,
        sentences([*orders(size), *notes(report, size)], "dim"),
    )


def heading(report: Facts, size: Facts) -> str:
    """What was trained, and on what."""
    settings = size["settings"]
    return (
        f"{size['preset']}: {count(len(report['domains']), 'domain')}, {count(size['routers'], 'router')} of "
        f"{settings['n_experts']} experts, {settings['top_k']} chosen, {size['tokens_trained']:,} tokens"
    )


def orders(size: Facts) -> Iterator[str]:
    """What was expected of two methods, and what came of it."""
    for order in size["orders"]:
        words = {"yes": "holds", "no": "the opposite holds", "open": "open"}[order["answer"]]
        if order["low"] is None:
            shown = f"{signed(order['value'])}, {order['reason']}"
        else:
            shown = with_interval(order["value"], order, 3, signed)
        name = "MI / ln D" if order["quantity"] == "specialisation" else "loss"
        yield (
            f"{name} of {order['method']} less {order['other']}: {shown}; expected {EXPECTED[order['expected']]}: "
            f"{words}."
        )


def notes(report: Facts, size: Facts) -> Iterator[str]:
    """What the numbers are."""
    seeds = sorted({len(method["seeds"]) for method in size["methods"]})
    several = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else count(seeds[0], "seed")
    yield (
        f"Means over routers, then over {several}, with Student's {percent(report['level'])} intervals over two seeds "
        f"or more. By chance MI / ln D is 0 and precision {number(report['chance']['precision'])}."
    )
    inside = next((one["independent"] for one in size["methods"] if one["name"] == "random"), None)
    if inside and inside[0]["of"]:
        first = inside[0]  # its choices are the same with every seed
        routers = f"{first['inside']} of {count(first['of'], 'router')}"
        yield f"Random routing: MI inside its null in {routers} (test of independence at 5%)."
    untested = any(one["information"]["p_value"] is None for method in size["methods"] for one in method["routers"])
    if untested:
        yield (
            "A domain has too few held-out sequences, fewer than ten that count: MI is not corrected for what finite "
            "samples add, is above 0 also by chance, and is not tested. Give more text, or a smaller --held-out."
        )
    if (gain := _gain(size)) is not None:
        yield f"The reference router's loss is {decimals(gain, 3)} nats below that of no balancing."


def _gain(size: Facts) -> float | None:
    losses = {one["name"]: one["values"]["loss"]["value"] for one in size["methods"]}
    if "reference" not in losses or "none" not in losses:
        return None
    return float(losses["none"] - losses["reference"])
