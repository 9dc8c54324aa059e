"""``mlx-moebench vocabulary``: which tokens each expert takes."""

from __future__ import annotations

from pathlib import Path

import click

from ._options import hold, json_option, output_option, quiet_option
from ._streams import say

EPILOG = """\b
Examples:
  mlx-moebench analyze --trace trace && mlx-moebench vocabulary trace
  mlx-moebench vocabulary trace --layer 0 --layer 5 --top 8
  mlx-moebench vocabulary trace --of next --output vocabulary.json
  mlx-moebench vocabulary trace --of predicted           of analyze --trace-predictions
"""


@click.command(epilog=EPILOG)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--of",
    type=click.Choice(["input", "next", "predicted"]),
    default="input",
    show_default=True,
    help="The id that a token counts under: its own, that of the next token, or the one the model expects.",
)
@click.option("--layer", "layers", type=int, multiple=True, help="Block index; may be repeated.  [default: all]")
@click.option("--phase", type=click.Choice(["prefill", "decode"]), default="prefill", show_default=True)
@click.option(
    "--min-count",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Leave out ids that occur less often.",
)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Tokens to show of each expert.")
@click.option(
    "--permutations", type=click.IntRange(min=1), default=200, show_default=True, help="Rotations for the null."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the rotations.")
@output_option("Write the report as JSON.  [default: not written]")
@json_option("the report")
@quiet_option
def command(
    trace: Path,
    of: str,
    layers: tuple[int, ...],
    phase: str,
    min_count: int,
    top: int,
    permutations: int,
    seed: int,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show which tokens each expert of a traced run takes, against what chance would give.

    Reads the folder that analyze --trace wrote; needs neither the model nor MLX.
    """
    from ..analysis.vocabulary import vocabulary_report
    from ..files import check_output, write_aside
    from ..pair.seal import sealed_text
    from ..show.tables.vocabulary import print_vocabulary
    from ._progress import progress

    if output:
        hold(output)
        check_output(output, ".json", "report of vocabulary", ("n_tokens", "n_sequences", "routers"))
    with progress(quiet) as step:
        step("reading the trace, rotating it against itself", 0, 0)
        report = vocabulary_report(
            trace,
            of,  # type: ignore[arg-type]  # click checked the choice
            layers=layers,
            phase=phase,  # type: ignore[arg-type]
            min_count=min_count,
            permutations=permutations,
            seed=seed,
            top=top,
        )
    text = sealed_text(report)
    if output:
        write_aside({output: text.encode()})
    if as_json:
        click.echo(text, nl=False)
        return
    print_vocabulary(report)
    if output:
        say(f"Wrote {output}")
