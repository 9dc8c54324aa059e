"""``mlx-moebench lab testbed``: ways to balance a router on distinct domains, between two bounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import LOADING, command_line, hold, json_option, output_option, quiet_option
from ._streams import say

if TYPE_CHECKING:
    from ..lab.testbed import Testbed

EPILOG = """\b
Examples:
  mlx-moebench lab testbed --data domains/ -o runs/bed              every file or folder in it is a domain
  mlx-moebench lab testbed --domain code=src.jsonl --domain law=law.jsonl@text --steps 100 -o runs/two
  mlx-moebench lab testbed --data domains/ --method global --method sequence --seeds 3 -o runs/scopes
  mlx-moebench lab testbed --data domains/ -o runs/bed --seeds 3     the same folder goes on, and adds seeds
  mlx-moebench report runs/bed -o bed.html
"""

METHODS = (
    *("reference", "none", "sequence", "micro-batch", "global", "lossfree", "z-loss"),
    *("floor-sequence", "floor-micro-batch", "floor-global", "hash", "random"),
)
"""As in lab/methods.py, which a test compares: importing it would load MLX."""


@click.command("testbed", epilog=EPILOG)
@click.option("--data", type=click.Path(path_type=Path), help="Folder in which every file or folder is a domain.")
@click.option(
    "--domain", "domains", multiple=True, metavar="NAME=DATA", help="A domain: file, folder, hub:ID, @FIELD; repeat."
)
@click.option(
    "--method", "methods", multiple=True, metavar="NAME", help=f"{', '.join(METHODS)}; repeat.  [default: all]"
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of each method.")
@click.option(
    "--preset",
    type=click.Choice(["testbed", "testbed-2", "testbed-3"]),
    default="testbed",
    show_default=True,
    help="Size of the model and its recipe.",
)
@click.option("--experts-per-domain", "own", type=int, default=2, show_default=True, help="E is D times this.")
@click.option("--top-k", type=int, default=2, show_default=True, help="Experts that a token chooses.")
@click.option("--per-domain", "each", type=int, default=2, show_default=True, help="Its sequences in an update.")
@click.option("--micro-batch-size", type=int, default=3, show_default=True, help="Sequences of a forward.")
@click.option("--window", type=int, default=12, show_default=True, help="Micro-batches of the widest scope.")
@click.option("--seq-length", type=int, default=128, show_default=True, help="Tokens of a sequence, of one domain.")
@click.option("--steps", type=int, help="Updates.  [default: the preset's]")
@click.option("--held-out", type=int, default=10, show_default=True, help="Every so many-th sequence is for measuring.")
@click.option("--most-repeats", type=float, default=4.0, show_default=True, help="Times a domain may be seen.")
@click.option("--vocab-size", type=int, default=2048, show_default=True, help="Tokens of the tokenizer it trains.")
@LOADING["device"]
@output_option("Folder for the runs and testbed.json.", force=False, required=True)
@json_option("the result")
@quiet_option
def command(
    data: Path | None,
    domains: tuple[str, ...],
    methods: tuple[str, ...],
    seeds: int,
    output: Path,
    device: str,
    as_json: bool,
    quiet: bool,
    **sizes: int,
) -> None:
    """Train small mixtures on two or more distinct domains, and place each way to balance between two bounds.

    The reference router gives every domain experts of its own, `random` ignores what it reads. Runs that are finished
    are kept, those that were stopped go on: the same command continues, and --seeds or --method add to it.
    """
    from ..lab.testbed import RESULT, run_all
    from ..pair.seal import sealed_text
    from ..show.tables.testbed import print_testbed
    from ._progress import progress

    if (data is None) == (not domains):
        raise click.UsageError("Give the domains by --data FOLDER, or each by --domain NAME=DATA.")
    hold(output / RESULT)
    bed = _bed(data, domains, sizes)
    with progress(quiet) as step:
        made = run_all(bed, output, methods, seeds, device=device, command=command_line(), step=step)
    if as_json:
        click.echo(sealed_text(made), nl=False)
        return
    print_testbed(made)
    say(f"Wrote {output / RESULT}")


def _bed(data: Path | None, domains: tuple[str, ...], sizes: dict[str, int]) -> Testbed:
    from ..data.importers import split_name
    from ..lab.domains import domains_of
    from ..lab.testbed import Testbed

    if data is not None:
        return Testbed(domains=domains_of(data), **sizes)  # type: ignore[arg-type]  # checked by click
    named: dict[str, str] = {}
    for entry in domains:
        name, place = split_name(entry)
        name = name or Path(place.partition("@")[0]).stem
        if name in named:
            raise click.UsageError(f"Two domains are called {name!r}; give each a NAME=.")
        named[name] = place
    return Testbed(domains=named, **sizes)  # type: ignore[arg-type]
