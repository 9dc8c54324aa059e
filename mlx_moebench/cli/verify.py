"""``mlx-moebench verify``: whether files are as they were written, and hold what a measurement can have given."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ._options import json_option

EPILOG = """\b
Examples:
  mlx-moebench verify stats.json                     the pair stats.json and stats.safetensors
  mlx-moebench verify profile/ comparison.json       everything in a folder, and another file
  mlx-moebench verify --intervals stats.json         make the whole report again and compare
  mlx-moebench verify --json results/ | jq '.[] | select(.good | not)'
"""


@click.command(epilog=EPILOG)
@click.argument("stats", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--intervals", is_flag=True, help="Make intervals and findings again, too, and not only counts and metrics."
)
@json_option("what was found")
def command(stats: tuple[Path, ...], intervals: bool, as_json: bool) -> None:
    """Check files for damage and for changes: seals, sums, and whether a report is that of the sums beside it.

    STATS are stats pairs (either file), other JSON files that mlx-moebench wrote, or folders of these. A seal tells
    damage and editing; it is no signature. Files of earlier versions have none, which is said, and their sums are
    checked all the same. The exit status is 0 where nothing is wrong, and else 1.
    """
    from ..pair.verify import verified

    verdicts = [verdict for path in stats for verdict in verified(path, intervals=intervals)]
    if as_json:
        click.echo(json.dumps([verdict.to_dict() for verdict in verdicts], indent=1))
    else:
        for verdict in verdicts:
            good = "as it was written" if verdict.sealed else "nothing is wrong with it, but it is unsealed"
            click.echo(f"{verdict.path}: {'WRONG' if verdict.wrong else good} ({verdict.what})")
            for line in verdict.wrong:
                click.echo(f"  {line}")
            for line in verdict.notes:
                click.echo(f"  Note: {line}")
    wrong = sum(1 for verdict in verdicts if verdict.wrong)
    if wrong:
        click.echo(f"Error: {wrong} of {len(verdicts)} are not as they were written.", err=True)
        sys.exit(1)
