"""``mlx-moebench analyze``: one model, one data set, every router."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ._options import (
    backend_option,
    chosen_bits,
    command_line,
    data_options,
    file_name,
    flag_options,
    interval_options,
    model_names,
    model_options,
    size_in_bytes,
)

EPILOG = """\b
Examples:
  mlx-moebench analyze                                   the model in the package, on maths
  mlx-moebench analyze --dataset code --plot load.png    with a heatmap of the load
  mlx-moebench analyze --model allenai/OLMoE-1B-7B-0924 --max-samples 40
  mlx-moebench analyze --model ./checkpoint --dataset questions.jsonl --text-field question
  mlx-moebench analyze --generate 64                     prompts and 64 tokens after each, apart
  mlx-moebench analyze --model ./checkpoint --bits 4 --adapter-path ./adapters
  mlx-moebench analyze --dataset big.jsonl --output big.json --resume    start, or go on after Ctrl-C or a crash
  mlx-moebench analyze --backend torch --device cuda --model mistralai/Mixtral-8x7B-v0.1 --4bit
  torchrun --nproc-per-node 2 -m torch_fallback analyze --model ./checkpoint    a GPU for each half of the documents
  mlx-moebench analyze --trace trace                     the experts of every single token, too
  mlx-moebench analyze --dataset big.jsonl --shard 1/4 --output part1    see mlx-moebench merge
"""


@click.command(epilog=EPILOG)
@backend_option
@model_options
@data_options
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Sequences per forward pass."
)
@click.option("--shard", metavar="I/N", help="Measure the rows with row % N = I - 1 only.  [default: all rows]")
@click.option(
    "--generate",
    type=click.IntRange(min=1),
    metavar="N",
    help="Let the model go on for N tokens after each prompt (greedy, one prompt at a time) and measure them apart: "
    "OUT.decode.json.",
)
@flag_options
@interval_options
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Stats pair to write: OUT.json and OUT.safetensors.  [default: routing_stats_MODEL_DATASET.json]",
)
@click.option(
    "--resume", is_flag=True, help="Go on from the pair at --output; the options must be those it was started with."
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write the experts of every single token to, see docs/traces.md.",
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
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(
    backend: str,
    model: str | None,
    dataset: str,
    text_field: str | None,
    max_samples: int | None,
    max_length: int,
    batch_size: int,
    generate: int | None,
    shard: str | None,
    device: str,
    dtype: str | None,
    bits: str | None,
    four_bit: bool,
    router_bits: str | None,
    adapter_path: str | None,
    tau: float,
    collapse_on: str,
    ci: str,
    resamples: int,
    seed: int,
    output: Path | None,
    resume: bool,
    trace: Path | None,
    trace_limit: int,
    trace_predictions: bool,
    plot: Path | None,
    trust_remote_code: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure how a model's routers treat a text: entropy, load, margins, collapse, with intervals.

    Prints a table of the routers and a summary, and writes a stats pair: OUT.json, the report, and
    OUT.safetensors, the per-sequence sums from which every number and interval can be computed again.
    The pair is saved while the run goes on: stop it as you like, --resume ends with the very same numbers.
    """
    from ..measure import analyze, analyze_generation, check_replaceable, decode_output
    from ..pair.storage import check_writable
    from ..routing.intervals.bootstrap import Plan
    from ..show.plots import check_plot
    from ._progress import progress, speaks
    from ._result import show

    plan = Plan(method=ci, resamples=resamples, seed=seed)  # type: ignore[arg-type]  # click checked the choice
    bits = chosen_bits(bits, four_bit)
    explicit = click.get_current_context().get_parameter_source("batch_size") is not ParameterSource.DEFAULT
    if generate and explicit:
        raise click.UsageError("--generate runs one prompt at a time; leave out --batch-size.")
    output = output or _default_output(model, dataset, bits, router_bits, adapter_path, shard, generate)
    outputs = [output, decode_output(output)] if generate else [output]
    for path in outputs:
        check_writable(path)
    if not resume:
        check_replaceable(output)
    if plot:
        check_plot(plot)
    options: dict[str, Any] = {
        "backend": backend,
        "text_field": text_field,
        "max_samples": max_samples,
        "max_length": max_length,
        "device": device,
        "dtype": dtype,
        "bits": int(bits) if bits else None,
        "router_bits": int(router_bits) if router_bits else None,
        "adapter_path": adapter_path,
        "tau": tau,
        "collapse_on": collapse_on,
        "trust_remote_code": trust_remote_code,
        "shard": shard,
        "output": output,
        "resume": resume,
        "trace": trace,
        "trace_limit": trace_limit,
        "trace_predictions": trace_predictions,
        "tell": (lambda line: None) if quiet else (lambda line: click.echo(line, err=True)),
        "plan": plan,
        "command": command_line(),
    }
    speaker = speaks(backend)
    with progress(quiet or not speaker) as step:
        if generate:
            analyze_generation(model, dataset, max_tokens=generate, step=step, **options)
        else:
            analyze(model, dataset, batch_size=batch_size, step=step, **options)
    if not speaker:
        return
    show(outputs, as_json, plot)
    if trace and not as_json:
        click.echo(f"Wrote the trace in {trace}")


def _default_output(
    model: str | None,
    dataset: str,
    bits: str | None,
    router_bits: str | None,
    adapter_path: str | None,
    shard: str | None,
    generate: int | None,
) -> Path:
    """routing_stats_MODEL_DATASET.json here, from the last parts of both names and what sets a run apart."""
    names = model_names(model, bits, router_bits, adapter_path)
    names += [Path(dataset.removeprefix("hub:")).name or "data"]
    names += [f"generate{generate}"] if generate else []
    names += ["shard-" + shard.replace("/", "-of-")] if shard else []
    return file_name("routing_stats", names)
