"""``mlx-moebench doctor``: what this machine can do, and what is missing."""

from __future__ import annotations

import json
import os
import sys

import click

from ..types import Json
from ._options import json_option, quiet_option

EPILOG = """\b
Examples:
  mlx-moebench doctor
  mlx-moebench doctor --selftest                         does this machine's GPU route as a CPU does?
  mlx-moebench doctor --json > doctor.json               what to attach to a bug report
  mlx-moebench doctor --selftest --json > selftest.json  the same, with the self-test
"""


@click.command(epilog=EPILOG)
@click.option(
    "--selftest", is_flag=True, help="Also run the embedded model on every MLX device and compare with stored figures."
)
@json_option("the findings")
@quiet_option
def command(selftest: bool, as_json: bool, quiet: bool) -> None:
    """Show which device, memory, MLX and BLAS are in use, and what is missing.

    With --selftest the embedded model runs in float32 on every device that MLX has here, and its routing is compared
    with figures made on a CPU: at most 1 selection in 1,000 may differ, and no mean entropy by more than 0.001 nats.
    Exits 1 if nothing can be measured or a check fails. What is printed names no token, no password and no home folder.
    """
    from ..show.tables.doctor import examine, print_findings

    findings = examine()
    if selftest and findings["ready"]:
        findings["selftest"] = _selftest(quiet)
    if as_json:
        click.echo(json.dumps(findings, indent=1))
    else:
        print_findings(findings)
    sys.exit(0 if findings["ready"] and findings.get("selftest", {}).get("passed", True) else 1)


def _selftest(quiet: bool) -> Json:
    from ._progress import progress

    # By default MLX rounds float32 products to TF32 on an M5 or an NVIDIA GPU. It asks once, at the first product.
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    from ..analysis.selftest import selftest

    with progress(quiet) as step:
        return selftest(step)
