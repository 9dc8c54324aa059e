"""``mlx-moebench metrics``: what every number of a router means."""

from __future__ import annotations

import json

import click

from ._completion import complete_metrics
from ._options import json_option

EPILOG = """\b
Examples:
  mlx-moebench metrics
  mlx-moebench metrics gini load_entropy                 these only
  mlx-moebench metrics --json | jq '.[] | select(.unit == "nats") | .name'
"""


@click.command(epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_metrics)
@json_option("the metrics")
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List the metrics of a router: name, unit, range, kind of interval, and what each means.

    These are the names that compare --metric takes and that reports use as keys; docs/definitions.md has the formulas.
    """
    from ..routing.metrics import get_metric
    from ..show.tables.metrics import described, print_metrics

    chosen = {get_metric(name).name for name in names}
    metrics = [metric for metric in described() if not chosen or metric["name"] in chosen]
    if as_json:
        click.echo(json.dumps(metrics, indent=1, ensure_ascii=False))
    else:
        print_metrics(metrics)
