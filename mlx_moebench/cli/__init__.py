"""The command line. One file per subcommand, each with a click ``command``; a new file here is a new subcommand."""

from __future__ import annotations

import codecs
import importlib
import io
import json
import keyword
import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any

import click

from .. import __version__
from ..errors import NO_MLX, MoebenchError, did_you_mean, missing_package, renamed


class _Folder(click.Group):
    """Subcommands are the modules of this package, imported when named, so that --help stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
        return sorted(name.removesuffix("_") for name in names)  # import_.py holds ``import``

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in (names := self.list_commands(ctx)):
            raise click.UsageError(f"No such command {cmd_name!r}.{did_you_mean(cmd_name, names)}", ctx)
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = importlib.import_module(f".{module}", __name__).command
        importlib.import_module("._options", __name__).accept_spellings(command)
        return command


ALIASES = {"uncertainty": "loss"}
"""Names that commands had; they go on working, and no list shows them."""

EPILOG = """\b
Examples:
  mlx-moebench analyze
  mlx-moebench analyze --model allenai/OLMoE-1B-7B-0924 --dataset code --plot load.png
  mlx-moebench profile --model ./checkpoint --domain math --domain code
  mlx-moebench merge part*.json --output whole.json
  mlx-moebench evaluate --data mmlu/ --preset 12x25
  mlx-moebench compare before.json after.json
  mlx-moebench plot load before.json after.json -o load.pdf
  mlx-moebench report profile/ -o report.html
  mlx-moebench train -c floor.yaml --adapter-path adapters
  mlx-moebench metrics
  mlx-moebench doctor
"""


@click.command(cls=_Folder, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlx-moebench")
def group() -> None:
    """Measure how sparse Mixture-of-Experts language models route.

    Entropy, load, collapse and their intervals, from the model's own routers, on MLX or (--backend torch) in
    transformers; evaluate says what the model knows, to see what a change of its routing costs. It does not measure
    serving speed.
    """


def main(arguments: list[str] | None = None, prog_name: str = "mlx-moebench", backend: str = "mlx") -> None:
    """Run the command line; every foreseen failure is one sentence on stderr and a non-zero exit.

    backend: what --backend is where it is left out.
    """
    _print_anything(sys.argv if arguments is None else arguments)
    defaults = {name: {"backend": backend} for name in group.list_commands(click.Context(group))}
    try:
        group.main(args=arguments, prog_name=prog_name, standalone_mode=False, default_map=defaults)
        if sys.stdout is not None:  # it may have been closed by the shell
            sys.stdout.flush()
    except click.ClickException as error:
        _usage(error)
    except (click.Abort, KeyboardInterrupt) as error:
        # click turns KeyboardInterrupt into Abort, and has written the end of the line with ^C.
        _stop(str(error) or str(error.__cause__ or "") or "Stopped by Ctrl-C.", 130)
    except BrokenPipeError:
        # The reader of a pipe left, as `head` does; a second complaint at exit would only confuse.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        _failed(error)


def _print_anything(arguments: Sequence[str]) -> None:
    """What stdout cannot encode, on a terminal of Latin-1 or ASCII, becomes a question mark, or in JSON an escape."""
    if not isinstance(sys.stdout, io.TextIOWrapper) or sys.stdout.errors != "strict":
        return
    codecs.register_error("json", _escaped)
    sys.stdout.reconfigure(errors="json" if "--json" in arguments else "replace")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`: as JSON writes it in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _usage(error: click.ClickException) -> None:
    """A command line that was not understood, or none."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help())
        return
    error.show()
    sys.exit(error.exit_code)


def _failed(error: Exception) -> None:
    """One sentence on what failed."""
    if isinstance(error, MoebenchError):
        _stop(_with_notes(error), 1)
    if isinstance(error, ImportError):
        if missing_package(error) in ("mlx", "mlx.core", "mlx_lm"):
            _stop(NO_MLX, 1)
        if (other := renamed(error)) is not None:
            _stop(str(other), 1)
    if isinstance(error, OSError):
        _stop(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.", 74)
    _unforeseen(error)


def _unforeseen(error: Exception) -> None:
    if os.environ.get("MLX_MOEBENCH_DEBUG"):
        raise error
    hint = "(unforeseen; set MLX_MOEBENCH_DEBUG=1 for the traceback)"
    _stop(f"{type(error).__name__}: {_with_notes(error)} {hint}", 70)


def _with_notes(error: Exception) -> str:
    return " ".join([str(error), *getattr(error, "__notes__", ())])


def _stop(message: str, code: int) -> Any:
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)
