"""``mlx-moebench profile``: models on domains, and what lies between the domains."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._completion import complete_data, complete_models
from ._early import check_data, check_models
from ._options import (
    FLAG,
    LOADING,
    READING,
    command_line,
    flag_options,
    hold,
    json_option,
    loading_options,
    output_option,
    plan_options,
    quiet_option,
    reading_options,
    resume_option,
    typed,
)
from ._streams import say, warn

if TYPE_CHECKING:
    from ..options import Flag, Loading, Options, Plan, Reading, Step, Tell
    from ..pair.profile import Profile

EPILOG = """\b
Examples:
  mlx-moebench profile                                   the model in the package on math, general and code
  mlx-moebench profile --model allenai/OLMoE-1B-7B-0924 --output olmoe --resume
  mlx-moebench profile --domain law=cases.jsonl --domain code --plot domains.png
  mlx-moebench profile --domain law=cases.csv@body --domain code=src/ --split-on file --long windows
  mlx-moebench profile --model base=./checkpoint --model tuned=./tuned
  mlx-moebench profile math.json code.json               pairs that analyze, merge or import wrote
"""


@click.command(epilog=EPILOG)
@click.argument("stats", nargs=-1, metavar="[[NAME=]STATS]...")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="[NAME=]MODEL",
    help="Folder or hub id, as for analyze; give it again for more models.  [default: the embedded moebench-nano]",
    shell_complete=complete_models,
    callback=check_models,
)
@click.option(
    "--domain",
    "--domains",
    "domains",
    multiple=True,
    metavar="[NAME=]DATASET[@FIELD]",
    shell_complete=complete_data,
    callback=check_data,
    help="A data set as analyze takes it, with @FIELD for its own text field; give it again for each domain.  "
    "[default: math, general, code]",
)
@reading_options(dataset=False)
@loading_options(model=False)
@flag_options
@plan_options()
@output_option(
    "Folder for profile.json, profile.csv and a stats pair MODEL/DOMAIN.json for each model and domain.",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("profile"),
    show_default=True,
)
@resume_option("the pairs in --output")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Share of each domain's tokens per expert, .png, .svg or .pdf; the names of further models are added to it.",
)
@json_option("profile.json")
@quiet_option
def command(
    stats: tuple[str, ...],
    models: tuple[str, ...],
    domains: tuple[str, ...],
    loading: Loading,
    reading: Reading,
    flag: Flag,
    plan: Plan,
    output: Path,
    resume: bool,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure models on several domains and say of every router: collapsed, dominated, idle, specialised, or open?

    An expert that is busy on one domain may mean collapse or specialisation; only several domains can tell. Every
    domain counts the same, whatever its number of tokens. Writes a stats pair for each model and domain,
    profile.json with the numbers between domains, and profile.csv with every number in one tidy table.
    """
    from ..files import check_output
    from ..options import Options, Saving, quiet_tell
    from ..show.plots import check_plot
    from ..show.tables.profile import COLUMNS
    from ._progress import progress, speaks

    if stats and (models or domains):
        raise click.UsageError("Give stats pairs that are there, or --model and --domain to measure, not both.")
    if plot:
        check_plot(plot)
    check_output(output / "profile.json", ".json", "profile", ("settings", "models"))
    check_output(output / "profile.csv", ".csv", "profile", COLUMNS)
    if stats:
        hold(output / "profile.json")
        if measuring := typed([*LOADING, *READING, *FLAG, "resume"]):
            raise click.UsageError(f"{measuring[0]} is for measuring; the stats pairs are measured already.")
        _write([_of_stats(stats, plan)], output, plot, plan, as_json)
        return
    if (loading.adapter_path or loading.routers_from) and len(models) > 1:
        what = "--adapter-path" if loading.adapter_path else "--routers-from"
        raise click.UsageError(f"{what} belongs to one model; profile them one by one.")
    speaker = speaks(loading.backend)
    hold(output / "profile.json", writes=speaker)
    saving = Saving(output, resume, command=command_line())
    with progress(quiet or not speaker) as step:
        tell = quiet_tell if quiet else partial(say, err=True)
        profiles = _measured(models, domains, Options(loading, reading, flag, saving, plan), step, tell)
    if speaker:
        _write(profiles, output, plot, plan, as_json)


def _of_stats(stats: tuple[str, ...], plan: Plan) -> Profile:
    from ..data.importers import split_name
    from ..pair.profile import profile_of_stats, rename
    from ..pair.stats import RoutingStats
    from ..pair.storage import pair_paths
    from ..show.files import check_there

    parts = {}
    named = [split_name(argument) for argument in stats]
    for _, path in named:  # before the first is read
        check_there(Path(path))
    for name, path in named:
        pair = pair_paths(Path(path).resolve())
        if pair in parts:
            continue  # both names of one pair are one
        parts[pair] = RoutingStats.load(path)
        if name is not None:
            rename(parts[pair], name)
    return profile_of_stats(list(parts.values()), plan)


def _measured(
    models: tuple[str, ...], domains: tuple[str, ...], options: Options, step: Step, tell: Tell
) -> list[Profile]:
    from ..analysis.profile import DOMAINS, measure_profile, planned
    from ..pair.storage import check_writable

    plan = planned(models or (None,), domains or DOMAINS, options.saving.output)
    for pair in plan.pairs.values():
        if pair is not None:
            check_writable(pair)
    return measure_profile(plan, options, step, tell)


def _write(profiles: list[Profile], output: Path, plot: Path | None, plan: Plan, as_json: bool) -> None:
    from ..files import write_aside
    from ..pair.profile import profile_document
    from ..pair.seal import sealed_text
    from ..show.plots.specialisation import plot_specialisation
    from ..show.tables.profile import print_profile, tidy_csv, tidy_rows

    document = profile_document(profiles, plan)
    settings, models = document["settings"], document["models"]
    text = sealed_text(document)
    rows = (row for profile, model in zip(profiles, models, strict=True) for row in tidy_rows(model, profile.reports))
    paths = [output / "profile.json", output / "profile.csv"]
    write_aside({paths[0]: text.encode(), paths[1]: tidy_csv(rows)})
    for number, model in enumerate(models):
        for warning in model["model"].get("warnings", ()):
            warn(warning)
        if plot:
            place = plot if number == 0 else plot.with_name(f"{plot.stem}.{model['name']}{plot.suffix}")
            paths += plot_specialisation(model | {"settings": settings}, place)
        if not as_json:
            print_profile(model, profiles[number].reports, settings)
    if as_json:
        click.echo(text, nl=False)
    else:
        say(f"Wrote {', '.join(map(str, paths))}")
