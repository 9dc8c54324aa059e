"""``mlx-moebench demo``: type text in a browser and see how it is routed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ._completion import complete_models
from ._early import check_models
from ._options import STREAMING, loading_options, quiet_option
from ._streams import say, warn

if TYPE_CHECKING:
    from ..options import Loading

EPILOG = """\b
Examples:
  mlx-moebench demo                                              the embedded model, as you type
  mlx-moebench demo --model allenai/OLMoE-1B-7B-0924 --bits 4
  mlx-moebench demo --model ./checkpoint --adapter-path ./adapters   before and after training
  mlx-moebench demo --port 8080 --no-browser
  mlx-moebench demo --host 0.0.0.0 --allow-host gpu.lab   for browsers that reach it by that name
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
@loading_options(model=False, without=STREAMING)
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
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to serve at. At 0.0.0.0 whoever reaches this machine may use the page; there is no login.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A name under which browsers may reach the page, beside loopback and --host; again for more.",
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
    allow_hosts: tuple[str, ...],
    port: int | None,
    no_browser: bool,
    quiet: bool,
) -> None:
    """Type text in a browser and see which experts every token chooses.

    Shows one text, two side by side with their differences, or one before and after an adapter. Needs the extra demo
    (Gradio). Everything stays on this machine: nothing is sent or fetched, and it works without a network. Ctrl-C ends
    it.
    """
    from ..demo.app import serve
    from ..demo.routed import Models
    from ..demo.server import bind
    from ..measure.backends import backend_named
    from ..signals import check
    from ..web.origins import Origins, is_loopback
    from ._progress import progress

    if not is_loopback(host):
        warn(f"at {host} everyone who reaches this machine can run text through the model; there is no login.")
    Origins(host, allow_hosts)
    bound = bind(host, port)  # before minutes are spent on loading
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
        allow_hosts=allow_hosts,
        bound=bound,
        max_tokens=max_tokens,
        live=not models if live is None else live,
        browser=not no_browser,
        tell=lambda address: say(f"Serving at {address} (Ctrl-C ends it)"),
    )
    check()  # the status is that of the signal which ended it
