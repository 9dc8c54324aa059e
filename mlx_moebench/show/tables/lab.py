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
    size = settings.get("start") or settings["preset"]
    console.print(f"{size}, {report['config']['router']}, seed {settings['seed']}", style="bold", markup=False)
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


def print_upcycled(report: Json, console: Console | None = None) -> None:
    """Print what a dense model became, and how far from it that computes."""
    console = console or Terminal()
    config, counts, found = report["config"], report["parameters"], report["deviation"]
    console.print(f"{report['dense']} with {config['router']}", style="bold", markup=False)
    table = plain_table()
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_row("Blocks with a router", f"{len(config['moe_layers'])} of {config['num_hidden_layers']}")
    table.add_row("Experts, chosen", f"{config['num_experts']}, {config['num_experts_per_tok']}")
    table.add_row("Parameters of the dense model", f"{counts['dense']:,}")
    table.add_row("Parameters", f"{counts['total']:,}")
    table.add_row("Parameters a token goes through", f"{counts['active']:,}")
    expected = "should be 0 but for rounding" if found["exact"] else "not exact with this router"
    table.add_row("Largest difference of a logit", f"{found['difference']:.3g}")
    console.print(table)
    console.print(f"The difference is over {found['tokens']} tokens; {expected}.", markup=False)
