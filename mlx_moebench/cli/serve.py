"""``mlx-moebench serve``: mlx-lm's server, with the routers measured."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import click

from ._completion import complete_models
from ._early import check_models
from ._options import hold, output_option
from ._streams import say

EPILOG = """\b
Examples:
  mlx-moebench serve                                       the embedded model at port 8080
  mlx-moebench serve --model mlx-community/OLMoE-1B-7B-0125-Instruct-4bit --port 8000
  mlx-moebench serve --model ./checkpoint --adapter-path ./adapters --max-tokens 1024
  mlx-moebench serve --model ./checkpoint --draft-model ./small --kv-bits 8
  mlx-moebench serve --model ./checkpoint --window 300 --save-every 600 --output monday.json
  mlx-moebench serve --host 0.0.0.0 --allow-host gpu.lab   for browsers that reach it by that name
  curl http://localhost:8080/routing                       and /metrics; a browser: /routing/view
"""


class _Serve(click.Command):
    """Shows the options of mlx-lm's server below its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        try:
            from ..serve.library import flags
        except ImportError:
            formatter.write_text("All options of mlx_lm.server are taken, too.")
            return
        mine = {name for option in self.params for name in option.opts}
        rows = [
            (", ".join(action.option_strings), " ".join((action.help or "").split()))
            for action in flags()._actions
            if not mine & {*action.option_strings}
        ]
        with formatter.section("Options of mlx_lm.server"):
            formatter.write_dl([row for row in rows if row[0] != "-h, --help"])


@click.command(
    cls=_Serve, epilog=EPILOG, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True}
)
@click.option(
    "--model",
    help="Folder or hub id of an MoE checkpoint.  [default: the embedded moebench-nano]",
    default="moebench-nano",
    shell_complete=complete_models,
    callback=check_models,
)
@click.option(
    "--window",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How far back the routing of now reaches in /routing and /metrics.",
)
@click.option(
    "--save-every",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two saves of the stats pair, which is also written at the end.",
)
@click.option(
    "--sequences",
    type=click.IntRange(min=10),
    default=1024,
    show_default=True,
    help="Requests that are kept apart for intervals; later ones are added to them in turn, so that memory is bounded.",
)
@click.option(
    "--expert-series",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Let /metrics have series of single experts, if there are at most N.",
)
@click.option(
    "--last-tokens",
    type=click.IntRange(min=0, max=512),
    default=0,
    show_default=True,
    metavar="N",
    help="Keep in memory what the routers chose for the last N tokens of each request, without their text, for the "
    "live page. Choices tell much of a text; every token is tallied by itself then.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A name under which browsers may reach the server, beside loopback and --host; again for more.",
)
@output_option("Stats pair to write: OUT.json, OUT.decode.json.  [default: served_MODEL_TIME.json]", force=False)
@click.argument("others", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF mlx_lm.server]...")
def command(
    model: str,
    window: float,
    save_every: float,
    sequences: int,
    expert_series: int,
    last_tokens: int,
    allow_hosts: tuple[str, ...],
    output: Path | None,
    others: tuple[str, ...],
) -> None:
    """Serve a model as mlx_lm.server does, and measure its routing meanwhile.

    Same endpoints, flags and answers. GET /routing says what the routers do, /routing/view shows it, /metrics is for
    Prometheus. Only counts are kept, no prompt and no answer. Ctrl-C ends it and saves.
    """
    from ..pair.storage import pair_paths
    from ..serve.run import serve
    from ..serve.settings import ServeSettings
    from ..signals import check

    output = output or _default_output(model)
    hold(*pair_paths(output))
    settings = ServeSettings(output, window, save_every, sequences, expert_series, allow_hosts, last_tokens)
    written = serve(["--model", model, *others], settings, lambda line: say(line, err=True))
    if written:
        say(f"Wrote {', '.join(map(str, written))}")
    check()  # the status is that of the signal which ended it


def _default_output(model: str) -> Path:
    from ..files import plain_name

    now = re.sub(r"\D", "", datetime.now().isoformat(timespec="seconds"))
    return Path(plain_name(f"served_{Path(model).name or 'model'}_{now}") + ".json")
