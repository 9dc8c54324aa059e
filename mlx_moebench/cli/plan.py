"""``mlx-moebench plan``: what measuring a model will take, before anything is downloaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ._completion import complete_models
from ._options import READING, STREAMING, batch_size_option, json_option, loading_options

if TYPE_CHECKING:
    from ..options import Loading

EPILOG = """\b
Examples:
  mlx-moebench plan allenai/OLMoE-1B-7B-0924                       on this machine
  mlx-moebench plan mistralai/Mixtral-8x7B-v0.1 --memory 24        on a Mac with 24 GB
  mlx-moebench plan ./checkpoint --bits 4 --tokens 1000000         in 4 bit, for a million tokens
  mlx-moebench plan ./config.json --memory 24 --memory 128         from a config alone, for two Macs
  mlx-moebench plan Qwen/Qwen3-30B-A3B --backend torch --memory 24 --memory 80    on GPUs, in NF4, too
  mlx-moebench plan openai/gpt-oss-120b --json | jq '.machines[0].recommended.command'
"""


@click.command(epilog=EPILOG)
@click.argument("model", required=False, shell_complete=complete_models)
@loading_options(without=("routers_from", "adapter_path", "trust_remote_code", *STREAMING), model=False)
@click.option(
    "--memory",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    metavar="GB",
    help="Memory, in GB of 2^30 bytes, of a Mac, or with --backend torch of a GPU; again for more.  [default: this "
    "machine's; on torch without a GPU 24 and 80]",
)
@click.option(
    "--tokens", type=click.IntRange(min=1), default=100_000, show_default=True, help="Tokens to measure, in all."
)
@READING["max_length"]
@batch_size_option("Sequences per forward pass.")
@json_option("all numbers, each with its unit in its key,")
def command(
    model: str | None,
    loading: Loading,
    memory: tuple[float, ...],
    tokens: int,
    max_length: int,
    batch_size: int,
    as_json: bool,
) -> None:
    """Say what measuring MODEL will take: parameters, bytes, memory, time, and the command to run.

    MODEL is a folder, a config.json or a hub id, of which config.json and the headers of the weight files are fetched
    and nothing else. Parameters and bytes are exact, working memory is an estimate from above, times are ranges.
    """
    from ..analysis.outlook import outlook
    from ..analysis.plan import Work
    from ..show.tables.plan import print_outlook

    found = outlook(model, loading, Work(tokens, batch_size, max_length), memory)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        print_outlook(found)
