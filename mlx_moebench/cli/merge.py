"""``mlx-moebench merge``: shards or data sets measured apart become one stats pair."""

from __future__ import annotations

from pathlib import Path

import click

from ._options import command_line, interval_options

EPILOG = """\b
Examples:
  mlx-moebench merge part1.json part2.json -o whole.json     two shards of one data set
  mlx-moebench merge part* -o whole.json                     either name, or both, of each pair
  mlx-moebench merge math.json code.json -o both.json        two data sets, one model
"""


@click.command(epilog=EPILOG)
@click.argument("stats", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Stats pair to write: OUT.json and OUT.safetensors.",
)
@interval_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
def command(stats: tuple[Path, ...], output: Path, ci: str, resamples: int, seed: int, as_json: bool) -> None:
    """Put stats pairs of one model together and compute the report of the whole again.

    A row that is in two of them is refused, for it would count twice. Shards that are missing or unfinished are
    named in the report. Of two or more data sets every router gets a verdict: collapsed, specialised or balanced.
    """
    from ..errors import StatsError
    from ..pair.storage import check_writable, pair_paths
    from ..routing import Plan, RoutingStats
    from ._result import show

    plan = Plan(method=ci, resamples=resamples, seed=seed)  # type: ignore[arg-type]  # click checked the choice
    twice = next((path for path in stats if stats.count(path) > 1), None)
    if twice:
        raise StatsError(f"{twice} is given twice: its rows would count twice.")
    pairs = dict.fromkeys(pair_paths(path.resolve()) for path in stats)  # both names of one pair are one
    if pair_paths(output.resolve()) in pairs:
        raise StatsError(f"{output} is one of the pairs to merge: choose another --output.")
    check_writable(output)
    merged = RoutingStats.merge([RoutingStats.load(sums) for _, sums in pairs])
    merged.environment["command"] = command_line()
    merged.save(output, plan)
    show([output], as_json)
