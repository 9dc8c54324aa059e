"""``mlx-moebench demo``: type text in a browser and see how it is routed."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import click

from ._completion import complete_models
from ._early import check_models
from ._options import loading_options, quiet_option

if TYPE_CHECKING:
    from ..options import Loading

EPILOG = """\b
Examples:
  mlx-moebench demo                                              the embedded model, as you type
  mlx-moebench demo --model allenai/OLMoE-1B-7B-0924 --bits 4
  mlx-moebench demo --model ./checkpoint --adapter-path ./adapters   before and after training
  mlx-moebench demo --port 8080 --no-browser
"""


@click.command(epilog=EPILOG)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Folder or hub id of an MoE checkpoint; may be repeated.  [default: the embedded moebench-nano]",
    shell_complete=complete_models,
    callback=check_models,
)
@loading_options(model=False)
@click.option(
    "--max-length",
    "max_tokens",
    type=click.IntRange(1, 8192),
    default=256,
    show_default=True,
    help="Tokens of a text that are run.",
)
@click.option(
    "--live/--no-live",
    default=None,
    help="Route as you type, or when the button is pressed.  [default: live for moebench-nano]",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to serve at; other machines can reach 0.0.0.0."
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port to serve at.  [default: the first free from 7860 on]")
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
@quiet_option
def command(
    models: tuple[str, ...],
    loading: Loading,
    max_tokens: int,
    live: bool | None,
    host: str,
    port: int | None,
    no_browser: bool,
    quiet: bool,
) -> None:
    """Type text in a browser and see which experts every token chooses.

    Shows one text, two side by side with their differences, or one before and after an adapter. Needs the extra demo
    (Gradio). Everything stays on this machine: nothing is sent or fetched, and it works without a network. Ctrl-C ends
    it.
    """
    from ..demo.app import check_address, serve
    from ..demo.routed import Models
    from ..measure.backends import backend_named
    from ._progress import progress

    if not _is_loopback(host):
        click.echo(
            f"Warning: at {host} everyone who reaches this machine can run text through the model; there is no login.",
            err=True,
        )
    check_address(host, port)  # before minutes are spent on loading
    backend_named(loading.backend).select_device(loading.device)
    served = Models(models or (None,), loading)
    with progress(quiet) as step:
        step("loading the model", 0, 0)
        for adapted in (False, True) if loading.adapter_path else (False,):
            served.get(served.names[0], adapted)
    serve(
        served,
        host=host,
        port=port,
        max_tokens=max_tokens,
        live=not models if live is None else live,
        browser=not no_browser,
        tell=lambda address: click.echo(f"Serving at {address} (Ctrl-C ends it)"),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
