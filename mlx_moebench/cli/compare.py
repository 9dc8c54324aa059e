"""``mlx-moebench compare``: two statistics, models, checkpoints or adapters, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ._options import backend_option, command_line, data_options, difference_options

EPILOG = """\b
Examples:
  mlx-moebench compare before.json after.json                      two stats pairs of analyze
  mlx-moebench compare math.json code.json --allow data            one model, two domains
  mlx-moebench compare chat.json chat.decode.json --allow phase    prompts and generated tokens
  mlx-moebench compare ./base ./finetuned --dataset code           two checkpoints, measured first
  mlx-moebench compare ./base ./adapters --output-dir runs         without and with an adapter; pairs are kept
  mlx-moebench compare moebench-nano --backends mlx,torch,numpy    one model: do the backends agree?
  mlx-moebench compare a.json b.json --metric gini --metric margin_prob --plot effects.png --output diff.json
"""

KINDS = ("data", "reading", "phase", "routers", "experts", "top-k", "distribution", "collapse")

MEASURING = (
    ("base", "--model"),
    *((name, "--" + name.replace("_", "-")) for name in ("dataset", "text_field", "max_samples", "max_length")),
    *(
        (name, "--" + name.replace("_", "-"))
        for name in ("backend", "batch_size", "device", "dtype", "bits", "router_bits")
    ),
    ("trust_remote_code", "--trust-remote-code"),
    ("output_dir", "--output-dir"),
)
"""Options that say how models are measured, and mean nothing where both sides are stats pairs."""

_NOT_OF_PARITY = {
    name: "--" + name.replace("_", "-")
    for name in ("backend", "device", "bits", "router_bits", "allow", "output_dir", "ci", "level", "resamples", "seed")
} | {"base": "--model", "metrics": "--metric", "csv": "--csv", "plot": "--plot"}
"""Options that mean nothing with --backends."""


@click.command(epilog=EPILOG)
@click.argument("a")
@click.argument("b", required=False)
@click.option(
    "--backends",
    metavar="NAME,NAME,...",
    help="Measure A alone on each (mlx, torch, numpy; mlx-gpu, mlx-cpu, torch-cuda, ...) and say whether they agree.",
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(KINDS),
    help="Compare although the sides differ in this, which is refused otherwise; may be repeated.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="Metric to show layer by layer; may be repeated.  [default: mean_entropy, top_share_token, load_entropy]",
)
@click.option("--model", "base", help="What an adapter goes on.  [default: the other side's model]")
@data_options
@backend_option
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Sequences per forward.")
@click.option("--device", type=click.Choice(["auto", "gpu", "cpu", "mps", "cuda"]), default="auto", show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Cast the weights.  [default: as stored; float32 on a CPU]",
)
@click.option("--bits", type=click.Choice(["4", "8"]), help="Quantise both while loading.  [default: as stored]")
@click.option("--router-bits", type=click.Choice(["4", "8", "16"]), help="Bits of the routers, as for analyze.")
@click.option("--trust-remote-code", is_flag=True, help="Allow a checkpoint to run its own Python.")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the stats pairs of measured models here; the same command goes on from them.  [default: not kept]",
)
@difference_options
@click.option("--output", type=click.Path(path_type=Path), help="Write the comparison to this .json.")
@click.option("--csv", type=click.Path(path_type=Path), help="Write every effect of every layer to this .csv.")
@click.option("--plot", type=click.Path(path_type=Path), help="Effects of --metric by layer, .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(
    a: str,
    b: str | None,
    backends: str | None,
    backend: str,
    allow: tuple[str, ...],
    metrics: tuple[str, ...],
    base: str | None,
    dataset: str,
    text_field: str | None,
    max_samples: int | None,
    max_length: int,
    batch_size: int,
    device: str,
    dtype: str | None,
    bits: str | None,
    router_bits: str | None,
    trust_remote_code: bool,
    output_dir: Path | None,
    ci: str,
    level: float,
    resamples: int,
    seed: int,
    output: Path | None,
    csv: Path | None,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say how the routing of B differs from that of A: every metric, with intervals, overall and by layer.

    A and B are stats pairs (either file of each), or models: a folder, a hub id, an adapter's folder, or moebench-nano.
    Models are measured on --dataset first, as analyze measures. The same sequences are compared in pairs, other ones as
    independent samples. Sides that differ in what was measured, or how, are refused with the reason, unless --allow
    says otherwise.

    With --backends there is one side, a model: it is measured on every backend, token by token, and the exit status is
    1 where they differ by more than rounding.
    """
    from ..pair import compare
    from ..pair.storage import check_output
    from ..routing import Plan
    from ..routing.metrics import get_metric
    from ..show.plots import check_plot
    from ..show.tables.comparison import DEFAULT, print_comparison
    from ._progress import speaks

    plan = Plan(method=ci, resamples=resamples, seed=seed, level=level)  # type: ignore[arg-type]  # click checked it
    chosen = tuple(get_metric(name).name for name in dict.fromkeys(metrics)) or DEFAULT
    if output:
        check_output(output, ".json", "comparison", ("design", "direction", "overall"))
    if csv:
        check_output(csv, ".csv", "comparison", ("metric", "effect"))
    if plot:
        check_plot(plot)
    options: dict[str, Any] = {
        "text_field": text_field,
        "max_samples": max_samples,
        "max_length": max_length,
        "batch_size": batch_size,
        "backend": backend,
        "device": device,
        "dtype": dtype,
        "bits": int(bits) if bits else None,
        "router_bits": int(router_bits) if router_bits else None,
        "trust_remote_code": trust_remote_code,
        "plan": plan,
        "command": command_line(),
    }
    if backends is not None:
        if b is not None:
            raise click.UsageError("--backends measures one model on each backend; leave B out.")
        _parity(a, backends, dataset, options, output, as_json, quiet)
        return
    if b is None:
        raise click.UsageError("Missing argument 'B': a second stats pair or model, or --backends for one model alone.")
    if all(_is_pair(Path(side)) for side in (a, b)):
        _refuse_measuring()
        found = compare(a, b, allow=allow, plan=plan)
    else:
        speaker = speaks(backend)
        sides = _measured((a, b), base, output_dir, dataset, options, quiet or not speaker)
        if not speaker:
            return
        found = compare(*sides, allow=allow, plan=plan)
    report = found.to_dict() | {"command": options["command"]}
    if plot:
        from ..show.plots.comparison import plot_effects

        plot_effects(report, plot, chosen)
    _write(found, report, output, csv)
    if as_json:
        click.echo(json.dumps(report, indent=1, allow_nan=False))
    else:
        print_comparison(report, chosen)
        written = [str(path) for path in (output, csv, plot) if path]
        if written:
            click.echo(f"Wrote {'; '.join(written)}")


def _parity(
    model: str,
    backends: str,
    dataset: str,
    options: dict[str, Any],
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """One model on several backends; exits with 1 where they are not equal."""
    from ..analysis import target
    from ..analysis.parity import MOST_TIES, TIE, TOLERANCE, parity
    from ..pair.storage import write_aside
    from ..routing import Plan
    from ..show.tables.parity import print_parity
    from ._progress import progress

    if given := [flag for name, flag in _NOT_OF_PARITY.items() if _given(name)]:
        raise click.UsageError(
            "--backends compares one unquantised model with itself, choice by choice, and names devices itself; leave "
            f"out {', '.join(given)}."
        )
    options = {name: value for name, value in options.items() if name not in _NOT_OF_PARITY}
    command = options["command"]
    with progress(quiet) as step:
        pairs, stats = parity(target(model).model, dataset, backends.split(","), step=step, **options)
    whole = stats.report(Plan(resamples=100))  # of which no interval is used
    facts = {key: whole[key] for key in ("model", "data", "environment")}
    limits = {"tolerance": TOLERANCE, "tie": TIE, "ties": MOST_TIES}
    report = {**facts, "limits": limits, "pairs": [pair.to_dict() for pair in pairs], "command": command}
    text = json.dumps(report, indent=1, allow_nan=False)
    if output:
        write_aside({output: (text + "\n").encode()})
    if as_json:
        click.echo(text)
    else:
        print_parity(report)
        if output:
            click.echo(f"Wrote {output}")
    if not all(pair.equal for pair in pairs):
        raise SystemExit(1)


def _given(name: str) -> bool:
    """Whether the user typed an option."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _is_pair(path: Path) -> bool:
    """Whether a side is meant as a stats pair: one of its files exists, or the name can be no model's."""
    from ..pair.storage import pair_paths

    return path.suffix in (".json", ".safetensors") or any(half.exists() for half in pair_paths(path))


def _measured(
    sides: Sequence[str], base: str | None, folder: Path | None, dataset: str, options: dict[str, Any], quiet: bool
) -> list[Any]:
    """The statistics of each side, or where they are: a stats pair's own, or those of the model that it names."""
    from ..analysis import measured, target
    from ._progress import progress

    bases = [base or (None if _is_pair(Path(other)) else other) for other in reversed(sides)]
    wanted = [None if _is_pair(Path(side)) else target(side, on) for side, on in zip(sides, bases, strict=True)]
    with progress(quiet) as step:
        return [
            side if one is None else measured(one, label, folder, dataset, step, **options)
            for label, side, one in zip("AB", sides, wanted, strict=True)
        ]


def _refuse_measuring() -> None:
    """Options that would be ignored are a misunderstanding."""
    given = [flag for name, flag in MEASURING if _given(name)]
    if given:
        verb = "says" if len(given) == 1 else "say"
        raise click.UsageError(f"{', '.join(given)} {verb} how to measure a model, but both sides are stats pairs.")


def _write(found: Any, report: dict[str, Any], output: Path | None, csv: Path | None) -> None:
    from ..pair.storage import write_aside

    contents: dict[Path, bytes] = {}
    if output:
        contents[output] = (json.dumps(report, indent=1, allow_nan=False) + "\n").encode()
    if csv:
        contents[csv] = found.to_dataframe().to_csv(index=False).encode()
    if contents:
        write_aside(contents)
