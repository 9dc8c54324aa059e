"""``mlx-moebench compare``: two statistics, models, checkpoints or adapters, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._completion import MetricOption, complete_metrics, complete_models, complete_sides
from ._options import (
    FLAG,
    LOADING,
    PLAN,
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
    typed,
)
from ._quant import quant
from ._streams import say

if TYPE_CHECKING:
    from ..options import Flag, Loading, Options, Plan, Reading
    from ..pair import Comparison

EPILOG = """\b
Examples:
  mlx-moebench compare before.json after.json                      two stats pairs of analyze
  mlx-moebench compare math.json code.json --allow data            one model, two domains
  mlx-moebench compare chat.json chat.decode.json --allow phase    prompts and generated tokens
  mlx-moebench compare ./base ./finetuned --dataset code           two checkpoints, measured first
  mlx-moebench compare ./base ./adapters --output-dir runs         without and with an adapter; pairs are kept
  mlx-moebench compare moebench-nano --backends mlx,torch,numpy    one model: do the backends agree?
  mlx-moebench compare moebench-nano --quant 4 --quant 4/4         its weights at 4 bit, with routers of 8 and of 4
  mlx-moebench compare ./model --quant stored/4 --plot kept.png    only its routers at 4 bit; a picture
  mlx-moebench compare a.json b.json --metric gini --metric margin_prob --plot effects.png --output diff.json
"""

KINDS = ("data", "reading", "phase", "routers", "experts", "top-k", "distribution", "collapse")

MEASURING = ("base", "dataset", *READING, *LOADING, *FLAG, "output_dir")
"""Options that say how models are measured, and mean nothing where both sides are stats pairs."""

NOT_OF_PARITY = (
    *("backend", "device", "tau", "collapse_on", "allow", "output_dir"),
    *("bits", "four_bit", "router_bits", "routers_from"),
    *(*PLAN, "base", "metrics", "csv", "plot"),
)
"""Options that mean nothing with --backends."""


@click.command(epilog=EPILOG)
@click.argument("a", shell_complete=complete_sides)
@click.argument("b", required=False, shell_complete=complete_sides)
@click.option(
    "--backends",
    metavar="NAME,NAME,...",
    help="Measure A alone on each (mlx, torch, numpy; mlx-gpu, mlx-cpu, torch-cuda, ...) and say whether they agree.",
)
@click.option(
    "--quant",
    "arms",
    multiple=True,
    metavar="ARM",
    help="Compare A alone, as stored, with its weights quantised: WEIGHTS/ROUTERS in bits, 4/8 or 8/4; 4 is 4/8; "
    "stored/4 quantises the routers alone, 4/stored all else. Again for more arms.",
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(KINDS),
    help="Compare even though the sides differ in this, which is otherwise refused; may be repeated.",
)
@click.option(
    "--metric",
    "metrics",
    cls=MetricOption,
    multiple=True,
    metavar="NAME",
    shell_complete=complete_metrics,
    help="Metric to show layer by layer; may be repeated.  [default: mean_entropy, top_share_token, load_entropy]",
)
@click.option(
    "--model",
    "base",
    help="The model that an adapter is applied to.  [default: the other side's model]",
    shell_complete=complete_models,
)
@reading_options()
@loading_options(model=False, without=("adapter_path",))
@flag_options
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the stats pairs of measured models here; the same command continues from them.  [default: not kept]",
)
@plan_options("differences of means")
@output_option("Write the comparison to this .json.")
@click.option("--csv", type=click.Path(path_type=Path), help="Write every effect of every layer to this .csv.")
@click.option("--plot", type=click.Path(path_type=Path), help="Effects of --metric by layer, .png, .svg or .pdf.")
@json_option("the comparison")
@quiet_option
def command(
    a: str,
    b: str | None,
    backends: str | None,
    arms: tuple[str, ...],
    allow: tuple[str, ...],
    metrics: tuple[str, ...],
    base: str | None,
    dataset: str,
    reading: Reading,
    loading: Loading,
    flag: Flag,
    output_dir: Path | None,
    plan: Plan,
    output: Path | None,
    csv: Path | None,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show how the routing of B differs from that of A: every metric, with intervals, overall and by layer.

    A and B are stats pairs (either file of each), or models: a folder, a hub id, an adapter's folder, or moebench-nano;
    as NAME=A each is called so.
    Models are measured on --dataset first, as analyze measures. The same sequences are compared in pairs, different
    ones as independent samples. Sides that differ in what was measured, or how, are refused with the reason, unless
    --allow says otherwise.

    With --backends there is one side, a model: it is measured on every backend, token by token, and the exit status is
    1 where they differ by more than rounding.

    With --quant there is one side, too, and every arm of it runs the same batches: how many tokens keep their experts,
    by layer and by the margin with which they were chosen, and which share of the loss is the routers' own.
    """
    from ..options import Options, Saving
    from ..pair import compare
    from ..routing.metrics import get_metric
    from ..show.tables.comparison import DEFAULT
    from ._progress import speaks

    names, (a, b) = _named(a, b)
    chosen = tuple(get_metric(name).name for name in dict.fromkeys(metrics)) or DEFAULT
    options = Options(loading, reading, flag, Saving(command=command_line()), plan)
    if arms:
        if b is not None or backends is not None:
            raise click.UsageError("--quant compares one model with itself quantised; leave out B and --backends.")
        quant(a, base, arms, dataset, options, chosen, (output, plot, output_dir), as_json, quiet)
        return
    _check_outputs(output, csv, plot)
    places = [one for one in (output, csv) if one]
    if backends is not None:
        if b is not None:
            raise click.UsageError("--backends measures one model on each backend; leave B out.")
        hold(*places)
        _parity(a, backends, dataset, options, output, as_json, quiet)
        return
    if b is None:
        raise click.UsageError(
            "Missing argument 'B': a second stats pair or model, or --backends or --quant for one model."
        )
    sides: Sequence[Any] = (a, b)
    if all(_is_pair(Path(side)) for side in sides):
        _refuse_measuring()
        hold(*places)
    else:
        speaker = speaks(loading.backend)
        hold(*places, writes=speaker)
        sides = _measured((a, b), base, output_dir, dataset, options, quiet or not speaker)
        if not speaker:
            return
    _write(compare(*sides, allow=allow, plan=plan), names, chosen, (output, csv, plot), as_json)


def _named(a: str, b: str | None) -> tuple[list[str] | None, tuple[str, str | None]]:
    """(what NAME=SIDE calls the two, or None where neither has a name; the sides without their names)."""
    from ..data.importers import split_name

    (first, a), (second, b) = split_name(a), (None, None) if b is None else split_name(b)
    if first is None and second is None:
        return None, (a, b)
    return [first or Path(a).name, second or Path(b or "").name], (a, b)


def _check_outputs(output: Path | None, csv: Path | None, plot: Path | None) -> None:
    """Raise where a file cannot be written, or would replace one of another kind."""
    from ..files import check_output
    from ..show.plots import check_plot

    if output:
        check_output(output, ".json", "comparison", ("design", "direction", "overall"))
    if csv:
        check_output(csv, ".csv", "comparison", ("metric", "effect"))
    if plot:
        check_plot(plot)


def _parity(
    model: str,
    backends: str,
    dataset: str,
    options: Options,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """One model on several backends; exits with 1 where they are not equal."""
    from ..analysis import target
    from ..analysis.parity import MOST_TIES, TIE, TOLERANCE, measure_parity
    from ..files import write_aside
    from ..options import Plan
    from ..pair.seal import sealed_text
    from ..show.tables.parity import print_parity
    from ._progress import progress

    if needless := typed(NOT_OF_PARITY):
        raise click.UsageError(
            "--backends compares one unquantised model with itself, choice by choice, and names devices itself; leave "
            f"out {', '.join(needless)}."
        )
    side = target(model)
    if side.adapter_path is not None:
        raise click.UsageError(f"--backends compares a model with itself, and {model} is an adapter; give a model.")
    with progress(quiet) as step:
        pairs, stats = measure_parity(side.model, dataset, backends.split(","), options, step)
    whole = stats.report(Plan(resamples=100))  # of which no interval is used
    facts = {key: whole[key] for key in ("model", "data", "environment")}
    limits = {"tolerance": TOLERANCE, "tie": TIE, "ties": MOST_TIES}
    report = {**facts, "limits": limits, "pairs": [pair.to_dict() for pair in pairs]}
    report["command"] = options.saving.command
    text = sealed_text(report)
    if output:
        write_aside({output: text.encode()})
    if as_json:
        click.echo(text, nl=False)
    else:
        print_parity(report)
        if output:
            say(f"Wrote {output}")
    if not all(pair.equal for pair in pairs):
        raise SystemExit(1)


def _is_pair(path: Path) -> bool:
    """Whether a side is meant as a stats pair: one of its files exists, or the name can be no model's."""
    from ..pair.storage import pair_paths

    return path.suffix in (".json", ".safetensors") or any(half.exists() for half in pair_paths(path))


def _measured(
    sides: Sequence[str], base: str | None, folder: Path | None, dataset: str, options: Options, quiet: bool
) -> list[Any]:
    """The statistics of each side, or where they are: a stats pair's own, or those of the model that it names."""
    from ..analysis import measured, target
    from ._progress import progress

    bases = [base or (None if _is_pair(Path(other)) else other) for other in reversed(sides)]
    wanted = [None if _is_pair(Path(side)) else target(side, on) for side, on in zip(sides, bases, strict=True)]
    with progress(quiet) as step:
        return [
            side if one is None else measured(one, label, folder, dataset, options, step)
            for label, side, one in zip("AB", sides, wanted, strict=True)
        ]


def _refuse_measuring() -> None:
    """Options that would be ignored are a misunderstanding."""
    if needless := typed(MEASURING):
        verb = "says" if len(needless) == 1 else "say"
        raise click.UsageError(f"{', '.join(needless)} {verb} how to measure a model, but both sides are stats pairs.")


def _write(
    comparison: Comparison,
    names: list[str] | None,
    metrics: tuple[str, ...],
    places: tuple[Path | None, Path | None, Path | None],
    as_json: bool,
) -> None:
    """Print a comparison, and write it where the options --output, --csv and --plot say."""
    from ..files import write_aside
    from ..pair.seal import sealed_text
    from ..printable import csv_cell
    from ..show.plots.comparison import plot_effects
    from ..show.tables.comparison import print_comparison

    report = comparison.to_dict() | {"command": command_line()} | ({"names": names} if names else {})
    text = sealed_text(report)
    output, csv, plot = places
    contents: dict[Path, bytes] = {}
    if output:
        contents[output] = text.encode()
    if csv:
        contents[csv] = comparison.to_dataframe().map(csv_cell).to_csv(index=False).encode()
    if contents:
        write_aside(contents)
    pages = plot_effects(report, plot, metrics) if plot else []
    if as_json:
        click.echo(text, nl=False)
        return
    print_comparison(report, metrics)
    if written := [str(path) for path in (output, csv, *pages) if path]:
        say(f"Wrote {'; '.join(written)}")
