"""``mlx-moebench uncertainty``: does a router's uncertainty foretell the model's loss?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from ._options import chosen_bits, command_line, data_options, model_options, sequence_options

EPILOG = """\b
Examples:
  mlx-moebench uncertainty                                  the model in the package, on maths
  mlx-moebench uncertainty --dataset code --plot loss.png   with the loss by tenths of uncertainty
  mlx-moebench uncertainty --model allenai/OLMoE-1B-7B-0924 --max-samples 40 --output out.json
  mlx-moebench uncertainty --json | jq '.summary.mlp.entropy'
"""


@click.command(epilog=EPILOG)
@model_options
@data_options
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Sequences per forward pass, whose logits over the whole vocabulary are held at once.",
)
@click.option(
    "--examples", type=click.IntRange(min=0), default=3, show_default=True, help="Tokens to show of each of four kinds."
)
@sequence_options
@click.option("--output", type=click.Path(path_type=Path), help="Write the report as JSON.  [default: not written]")
@click.option("--plot", type=click.Path(path_type=Path), help="Mean loss by tenths of uncertainty, .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(
    model: str | None,
    dataset: str,
    text_field: str | None,
    max_samples: int | None,
    max_length: int,
    batch_size: int,
    device: str,
    dtype: str | None,
    bits: str | None,
    four_bit: bool,
    router_bits: str | None,
    adapter_path: str | None,
    examples: int,
    ci: str,
    resamples: int,
    seed: int,
    output: Path | None,
    plot: Path | None,
    trust_remote_code: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare each router's uncertainty at a token with the model's loss on the next one.

    Two scores of uncertainty, the entropy of the routing distribution and the selection margin; for each, the rank
    correlation with the loss, the mean loss by tenths of the score, and the tokens that stand out.
    """
    from ..analysis.loss import routing_uncertainty
    from ..pair.storage import check_output, write_aside
    from ..routing.intervals.bootstrap import Plan
    from ..show.plots import check_plot
    from ..show.plots.uncertainty import plot_uncertainty
    from ..show.tables.loss import print_uncertainty
    from ._progress import progress

    bits = chosen_bits(bits, four_bit)
    plan = Plan(method=ci, resamples=resamples, seed=seed)  # type: ignore[arg-type]  # click checked the choice
    if output:
        check_output(output, ".json", "report of uncertainty", ("n_pairs", "mean_loss"))
    if plot:
        check_plot(plot)
    with progress(quiet) as step:
        report = routing_uncertainty(
            model,
            dataset,
            text_field=text_field,
            max_samples=max_samples,
            max_length=max_length,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            bits=int(bits) if bits else None,
            router_bits=int(router_bits) if router_bits else None,
            adapter_path=adapter_path,
            trust_remote_code=trust_remote_code,
            examples=examples,
            plan=plan,
            command=command_line(),
            step=step,
        )
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    if output:
        write_aside({output: text.encode()})
    if plot:
        plot_uncertainty(report, plot)
    if as_json:
        click.echo(text, nl=False)
        return
    print_uncertainty(report)
    for path in (output, plot):
        if path:
            click.echo(f"Wrote {path}")
