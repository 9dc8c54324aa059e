"""``mlx-moebench models``: what is supported, and tested for what."""

from __future__ import annotations

import json

import click

from ._options import json_option

EPILOG = """\b
Examples:
  mlx-moebench models
  mlx-moebench models --json | jq '.families[].model_types'
"""


@click.command(epilog=EPILOG)
@json_option("the facts")
def command(as_json: bool) -> None:
    """List the model families that can be measured: their routers, rules, limits, and what they are tested for."""
    from ..show.tables.models import print_supported, supported

    support = supported()
    if as_json:
        click.echo(json.dumps(support, indent=1))
    else:
        print_supported(support)
