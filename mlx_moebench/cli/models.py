"""``mlx-moebench models``: what is supported, and tested for what."""

from __future__ import annotations

import json

import click

from ._options import json_option

EPILOG = """\b
Examples:
  mlx-moebench models
  mlx-moebench models qwen3_moe
  mlx-moebench models --json | jq '.families[].model_types'
"""


@click.command(epilog=EPILOG)
@click.argument("model_type", required=False)
@json_option("the facts")
def command(model_type: str | None, as_json: bool) -> None:
    """List the model types that can be measured, by how they route, and what they are tested for.

    With MODEL_TYPE, as a config.json names it: its routers, its rule, its settings, and where libraries differ.
    """
    from ..show.tables.models import described, print_described, print_supported, supported

    if model_type is not None:
        facts = described(model_type)
        if as_json:
            click.echo(json.dumps(facts, indent=1))
        else:
            print_described(facts)
        return
    support = supported()
    if as_json:
        click.echo(json.dumps(support, indent=1))
    else:
        print_supported(support)
