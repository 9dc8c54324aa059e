"""``mlx-moebench mlx-lm``: mlx-lm's own command line, which then knows the models of this package."""

from __future__ import annotations

import click

EPILOG = """\b
Examples:
  mlx-moebench mlx-lm generate --model ./jetmoe --prompt "Two trains" --max-tokens 64
  mlx-moebench mlx-lm server --model ./jetmoe --adapter-path ./adapters
  mlx-moebench mlx-lm generate --help                    mlx-lm's own options
"""


@click.command(epilog=EPILOG, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("what")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def command(what: str, options: tuple[str, ...]) -> None:
    """Run mlx-lm's command WHAT (generate, server, chat, lora, ...) on models that mlx-lm lacks, too.

    These are JetMoE, and the families of installed packages that bring a model. Of all others it is the same command.
    """
    from ..errors import MoebenchError
    from ..mlx_lm import main

    try:
        main([what, *options])
    except ValueError as error:
        raise MoebenchError(f"mlx-lm says: {str(error).rstrip('.')}.") from error
