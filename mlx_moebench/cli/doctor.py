"""``mlx-moebench doctor``: what this machine can do, and what is missing."""

from __future__ import annotations

import json
import sys

import click

EPILOG = """\b
Examples:
  mlx-moebench doctor
  mlx-moebench doctor --json
"""


@click.command(epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> None:
    """Say which device, memory, MLX and BLAS are in use, and what is missing. Exits 1 if nothing can be measured."""
    from ..report.doctor import examine, print_findings

    findings = examine()
    if as_json:
        click.echo(json.dumps(findings, indent=1))
    else:
        print_findings(findings)
    sys.exit(0 if findings["ready"] else 1)
