"""``mlx-moebench merge``: shards or data sets measured apart become one stats pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import command_line, hold, json_option, output_option, plan_options, quiet_option

if TYPE_CHECKING:
    from ..options import Plan, Step
    from ..pair.stats import RoutingStats

EPILOG = """\b
Examples:
  mlx-moebench merge part1.json part2.json -o whole.json     two shards of one data set
  mlx-moebench merge part* -o whole.json                     either name, or both, of each pair
  mlx-moebench merge math.json code.json -o both.json        two data sets, one model
"""


@click.command(epilog=EPILOG)
@click.argument("stats", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option("Stats pair to write: OUT.json and OUT.safetensors.", required=True)
@plan_options()
@json_option("the report")
@quiet_option
def command(stats: tuple[Path, ...], output: Path, plan: Plan, as_json: bool, quiet: bool) -> None:
    """Put stats pairs of one model together and compute the report of the whole again.

    A row that is in two of them is refused, because it would count twice. Shards that are missing or unfinished are
    named in the report. With two or more data sets every router gets findings: collapsed, dominated, idle, specialised.
    """
    from ..errors import StatsError
    from ..pair.stats import RoutingStats
    from ..pair.storage import check_writable, pair_paths, save_pairs
    from ._progress import progress
    from ._result import show

    twice = next((path for path in stats if stats.count(path) > 1), None)
    if twice:
        raise StatsError(f"{twice} is given twice: its rows would count twice.")
    pairs: dict[tuple[Path, Path], Path] = {}  # both names of one pair are one, and its report is checked if named
    for path in sorted(stats, key=lambda path: path.suffix == ".safetensors"):
        pairs.setdefault(pair_paths(path.resolve()), path)
    if pair_paths(output.resolve()) in pairs:
        raise StatsError(f"{output} is one of the pairs to merge: choose another --output.")
    hold(*pair_paths(output))
    check_writable(output)
    with progress(quiet) as step:
        merged = RoutingStats.merge(_loaded(list(pairs.values()), step))
        step("computing the intervals", 0, 0)
        merged.environment["command"] = command_line()
        (report,) = save_pairs([(merged, output)], plan)
    show(output, {merged.phase: report}, as_json)


def _loaded(paths: Sequence[Path], step: Step) -> Iterator[RoutingStats]:
    """Each pair when it is asked for, so that one is held at a time, however many there are."""
    from ..pair.stats import RoutingStats

    for number, path in enumerate(paths):
        step("reading, pairs", number, len(paths))
        yield RoutingStats.load(path)
