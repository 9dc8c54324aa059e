"""``mlx-moebench analyze``: one model, one data set, every router."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import (
    command_line,
    file_name,
    flag_options,
    hold,
    json_option,
    loading_options,
    model_names,
    output_option,
    plan_options,
    quiet_option,
    reading_options,
    resume_option,
    typed,
)
from ._streams import say
from ._values import size_in_bytes

if TYPE_CHECKING:
    from ..options import Flag, Loading, Plan, Reading

EPILOG = """\b
Examples:
  mlx-moebench analyze                                   the model in the package, on maths
  mlx-moebench analyze --dataset code --plot load.png    with a heatmap of the load
  mlx-moebench analyze --model allenai/OLMoE-1B-7B-0924 --max-samples 40
  mlx-moebench analyze --model ./checkpoint --dataset questions.jsonl --text-field question
  mlx-moebench analyze --generate 64                     prompts, and separately the 64 tokens after each
  mlx-moebench analyze --model ./checkpoint --bits 4 --adapter-path ./adapters
  mlx-moebench analyze --dataset big.jsonl --output big.json --resume    start, or continue after Ctrl-C or a crash
  mlx-moebench analyze --backend torch --device cuda --model mistralai/Mixtral-8x7B-v0.1 --4bit
  torchrun --nproc-per-node 2 -m torch_fallback analyze --model ./checkpoint    a GPU for each half of the documents
  mlx.launch -n 2 --backend ring -- python -m mlx_moebench analyze --model ./checkpoint    the same on MLX
  mlx-moebench analyze --trace trace                     the experts of every single token, too
  mlx-moebench analyze --dataset big.jsonl --shard 1/4 --output part1    see mlx-moebench merge
"""


@click.command(epilog=EPILOG)
@loading_options()
@reading_options()
@click.option("--shard", metavar="I/N", help="Measure only the rows with row % N = I - 1.  [default: all rows]")
@click.option(
    "--generate",
    type=click.IntRange(min=1),
    metavar="N",
    help="Let the model generate N tokens after each prompt (greedily, one prompt at a time) and measure them "
    "separately: OUT.decode.json.",
)
@flag_options
@plan_options()
@output_option("Stats pair to write: OUT.json and OUT.safetensors.  [default: routing_stats_MODEL_DATASET.json]")
@resume_option("the pair at --output")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write the experts of every single token to; see docs/traces.md.",
)
@click.option(
    "--trace-limit",
    callback=size_in_bytes,
    default="2GB",
    show_default=True,
    metavar="SIZE",
    help="Refuse a trace larger than this.",
)
@click.option("--trace-predictions", is_flag=True, help="Keep the model's most likely next tokens in the trace too.")
@click.option("--plot", type=click.Path(path_type=Path), help="Layer x expert load heatmap, .png, .svg or .pdf.")
@json_option("the report")
@quiet_option
def command(
    model: str | None,
    dataset: str,
    loading: Loading,
    reading: Reading,
    shard: str | None,
    generate: int | None,
    flag: Flag,
    plan: Plan,
    output: Path | None,
    resume: bool,
    trace: Path | None,
    trace_limit: int,
    trace_predictions: bool,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure how a model's routers treat a text: entropy, load, margins, collapse, with intervals.

    Prints a table of the routers and a summary, and writes a stats pair: OUT.json, the report, and
    OUT.safetensors, the per-sequence sums from which every number and interval can be computed again.
    The pair is saved during the run, which can be stopped at any time: --resume arrives at exactly the same numbers.
    """
    from ..measure.run import measure
    from ..options import Options, Saving, quiet_tell
    from ..pair.storage import pair_paths
    from ._progress import progress, speaks
    from ._result import show

    if generate and typed(["batch_size"]):
        raise click.UsageError("--generate runs one prompt at a time; leave out --batch-size.")
    output = output or _default_output(model, dataset, loading, shard, generate)
    _check_outputs(output, resume, generate, plot)
    saving = Saving(output, resume, trace, trace_limit, trace_predictions, command_line())
    options = Options(loading, replace(reading, shard=shard), flag, saving, plan)
    speaker = speaks(loading.backend)
    hold(*pair_paths(output), writes=speaker)
    _check_outputs(output, resume, generate, plot)  # once more, when nothing else can change them
    tell = quiet_tell if quiet else partial(say, err=True)
    with progress(quiet or not speaker) as step:
        measured = measure(model, dataset, options, generate=generate, step=step, tell=tell)
    if not speaker:
        return
    show(output, measured.reports, as_json, plot)
    if trace and not as_json:
        say(f"Wrote the trace in {trace}")


def _check_outputs(output: Path, resume: bool, generate: int | None, plot: Path | None) -> None:
    """Raise before anything is measured where a file cannot be written, or would replace an unfinished run's."""
    from ..measure import check_replaceable, decode_output
    from ..pair.storage import check_writable
    from ..show.plots import check_plot

    for path in [output, decode_output(output)] if generate else [output]:
        check_writable(path)
    if not resume:
        check_replaceable(output)
    if plot:
        check_plot(plot)


def _default_output(model: str | None, dataset: str, loading: Loading, shard: str | None, generate: int | None) -> Path:
    """routing_stats_MODEL_DATASET.json here, from the last parts of both names and what sets a run apart."""
    names = model_names(model, loading)
    names += [Path(dataset.removeprefix("hub:")).name or "data"]
    names += [f"generate{generate}"] if generate else []
    names += ["shard-" + shard.replace("/", "-of-")] if shard else []
    return file_name("routing_stats", names)
