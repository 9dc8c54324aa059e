"""``mlx-moebench profile``: models on domains, and what lies between the domains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._options import (
    backend_option,
    chosen_bits,
    command_line,
    flag_options,
    interval_options,
    precision_options,
    text_options,
)

if TYPE_CHECKING:
    from ..pair.profile import Profile
    from ..routing import Plan

EPILOG = """\b
Examples:
  mlx-moebench profile                                   the model in the package on math, general and code
  mlx-moebench profile --model allenai/OLMoE-1B-7B-0924 --output olmoe --resume
  mlx-moebench profile --domain law=cases.jsonl --domain code --plot domains.png
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
)
@click.option(
    "--domain",
    "--domains",
    "domains",
    multiple=True,
    metavar="[NAME=]DATASET",
    help="A data set as analyze takes it; give it again for each domain.  [default: math, general, code]",
)
@text_options
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Sequences per forward pass."
)
@backend_option
@precision_options
@flag_options
@interval_options
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("profile"),
    show_default=True,
    help="Folder for profile.json, profile.csv and a stats pair MODEL/DOMAIN.json for each model and domain.",
)
@click.option("--resume", is_flag=True, help="Use the pairs in --output that are of the same options, and go on.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Share of each domain's tokens per expert, .png, .svg or .pdf; the names of further models are added to it.",
)
@click.option("--trust-remote-code", is_flag=True, help="Allow a checkpoint to run its own Python.")
@click.option("--json", "as_json", is_flag=True, help="Print profile.json instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(
    stats: tuple[str, ...],
    models: tuple[str, ...],
    domains: tuple[str, ...],
    output: Path,
    plot: Path | None,
    ci: str,
    resamples: int,
    seed: int,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure models on several domains and say of every router: collapsed, specialised, balanced or undetermined.

    A busy expert on one domain may be collapse or specialisation; only several domains tell. Every domain counts the
    same, whatever its number of tokens. Writes a stats pair for each model and domain, profile.json with the numbers
    between domains, and profile.csv with every number in one tidy table.
    """
    from ..pair.storage import check_output
    from ..routing import Plan
    from ..show.plots import check_plot
    from ..show.tables.profile import COLUMNS
    from ._progress import speaks

    plan = Plan(method=ci, resamples=resamples, seed=seed)  # type: ignore[arg-type]  # click checked the choice
    if stats and (models or domains):
        raise click.UsageError("Give stats pairs that are there, or --model and --domain to measure, not both.")
    if plot:
        check_plot(plot)
    check_output(output / "profile.json", ".json", "profile", ("settings", "models"))
    check_output(output / "profile.csv", ".csv", "profile", COLUMNS)
    if stats:
        given = _given()
        if given:
            raise click.UsageError(f"{given[0]} is for measuring; the stats pairs are measured already.")
        found = [_of_stats(stats, plan)]
    else:
        speaker = speaks(options["backend"])
        found = _measured(models, domains, output, plan, quiet or not speaker, options)
        if not speaker:
            return
    _write(found, output, plot, plan, as_json)


def _of_stats(stats: tuple[str, ...], plan: Plan) -> Profile:
    from ..data.importers import split_name
    from ..pair.profile import profile_of_stats, rename
    from ..pair.storage import pair_paths
    from ..routing import RoutingStats

    parts = {}
    for argument in stats:
        name, path = split_name(argument)
        pair = pair_paths(Path(path).resolve())
        if pair in parts:
            continue  # both names of one pair are one
        parts[pair] = RoutingStats.load(path)
        if name is not None:
            rename(parts[pair], name)
    return profile_of_stats(list(parts.values()), plan)


def _given() -> list[str]:
    """The options of measuring that the user gave."""
    context = click.get_current_context()
    kept = {"stats", "output", "plot", "ci", "resamples", "seed", "as_json", "quiet"}
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in kept
        and context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
    ]


def _measured(
    models: tuple[str, ...], domains: tuple[str, ...], output: Path, plan: Plan, quiet: bool, options: dict[str, Any]
) -> list[Profile]:
    from ..analysis.profile import DOMAINS, planned_pairs, profile
    from ..pair.storage import check_writable
    from ._progress import progress

    if options["adapter_path"] and len(models) > 1:
        raise click.UsageError("--adapter-path belongs to one model; profile them one by one.")
    bits = chosen_bits(options.pop("bits"), options.pop("four_bit"))
    router_bits = options.pop("router_bits")
    options |= {"bits": int(bits) if bits else None, "router_bits": int(router_bits) if router_bits else None}
    chosen: tuple[str | None, ...] = models or (None,)
    for pair in planned_pairs(chosen, domains or DOMAINS, output).values():
        if pair is not None:
            check_writable(pair)
    started = command_line()
    with progress(quiet) as step:
        return profile(chosen, domains or DOMAINS, output=output, plan=plan, command=started, step=step, **options)


def _write(found: list[Profile], output: Path, plot: Path | None, plan: Plan, as_json: bool) -> None:
    from ..pair.profile import PROFILE_VERSION, profile_settings
    from ..pair.storage import write_aside
    from ..show.plots.specialisation import plot_specialisation
    from ..show.tables.profile import print_profile, tidy_csv, tidy_rows

    settings = profile_settings(found[0].merged, plan)
    models = [profile.report() for profile in found]
    whole = {"schema_version": PROFILE_VERSION, "settings": settings, "models": models}
    text = json.dumps(whole, indent=1, allow_nan=False) + "\n"
    rows = (row for profile, model in zip(found, models, strict=True) for row in tidy_rows(model, profile.reports))
    paths = [output / "profile.json", output / "profile.csv"]
    write_aside({paths[0]: text.encode(), paths[1]: tidy_csv(rows)})
    for number, model in enumerate(models):
        for warning in model["model"].get("warnings", ()):
            click.echo(f"Warning: {warning}", err=True)
        if plot:
            place = plot if number == 0 else plot.with_name(f"{plot.stem}.{model['name']}{plot.suffix}")
            plot_specialisation(model | {"settings": settings}, place)
            paths.append(place)
        if not as_json:
            print_profile(model, found[number].reports, settings)
    if as_json:
        click.echo(text, nl=False)
    else:
        click.echo(f"Wrote {', '.join(map(str, paths))}")
