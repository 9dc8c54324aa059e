"""What a pretraining of the lab came to."""

from __future__ import annotations

from rich.console import Console

from ...types import Json
from ..numbers import decimals
from .base import Terminal, plain_table


def print_lab(report: Json, console: Console | None = None) -> None:
    """Print sizes, tokens, speed, losses, and what the model writes."""
    console = console or Terminal()
    settings, counts, ce = report["settings"], report["parameters"], report["ce"]
    console.print(f"{settings['preset']}, {settings['router']}, seed {settings['seed']}", style="bold", markup=False)
    table = plain_table()
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_row("Parameters", f"{counts['total']:,}")
    table.add_row("Parameters a token goes through", f"{counts['active']:,}")
    table.add_row("Tokens trained on", f"{report['tokens_trained']:,}")
    table.add_row("Tokens of the text", f"{report['data']['tokens']:,}")
    table.add_row("Tokens per second", decimals(report["tokens_per_second"], 0))
    table.add_row("Training CE, nats per token", decimals(ce["train"], 4))
    table.add_row("Validation CE, nats per token", decimals(ce["validation"], 4))
    console.print(table)
    if report["sample"]:
        console.print(f"It writes: {report['sample']}", markup=False)
