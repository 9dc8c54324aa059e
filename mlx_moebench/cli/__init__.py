"""The command line. One file per subcommand, each with a click ``command``; a new file here is a new subcommand."""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
import json
import keyword
import os
import pkgutil
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click

from .. import __version__
from ..errors import NO_MLX, MoebenchError, did_you_mean, missing_package, renamed
from ..printable import one_line
from ..signals import Asked, Stopped, name_of, stopping
from ._streams import guarded, say, warn


class _Ended(Exception):  # noqa: N818  # no error of a command
    """Carries past click what click would answer in its own way: a signal, and a pipe that nobody reads."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextlib.contextmanager
def _past_click() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError) as error:
        raise _Ended(error) from error


class _Folder(click.Group):
    """Subcommands are the modules of this package, imported when named, so that --help stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
        # import_.py holds ``import``, and mlx_lm.py ``mlx-lm``.
        return sorted(name.removesuffix("_").replace("_", "-") for name in names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        cmd_name = ALIASES.get(cmd_name, cmd_name).replace("_", "-")
        if cmd_name not in (names := self.list_commands(ctx)):
            raise click.UsageError(f"No such command {cmd_name!r}.{did_you_mean(cmd_name, names)}", ctx)
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name.replace("-", "_")
        command: click.Command = importlib.import_module(f".{module}", __name__).command
        importlib.import_module("._options", __name__).accept_spellings(command)
        return command

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        with _past_click():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _past_click():
            return super().invoke(ctx)


ALIASES = {"uncertainty": "loss"}
"""Names that commands had; they go on working, and no list shows them."""

_NO_MEMORY = (
    *("unable to allocate", "allocate memory", "out of memory", "bad_alloc"),
    *("can't start new thread", "failed to map segment", "resource temporarily unavailable"),
)
"""What is in the RuntimeError or ImportError of a library that got no memory."""

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
  mlx-moebench mlx-lm generate --model ./jetmoe --prompt "Two trains"
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

    A signal ends it with the status 128 + its number, when what is measured is saved. Nothing that is printed acts on
    the terminal. backend: what --backend is where it is left out.
    """
    _print_anything(sys.argv if arguments is None else arguments)
    with guarded():
        _run(arguments, prog_name, backend)


def _run(arguments: list[str] | None, prog_name: str, backend: str) -> None:
    defaults = {name: {"backend": backend} for name in group.list_commands(click.Context(group))}
    with stopping() as asked:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                # color: click would take escapes out of what goes to a file, unseen.
                group.main(args=arguments, prog_name=prog_name, standalone_mode=False, default_map=defaults, color=True)
            if sys.stdout is not None:  # it may have been closed by the shell
                sys.stdout.flush()
        except click.ClickException as error:
            try:
                _usage(error)
            except BrokenPipeError:
                _reader_left()
        except SystemExit as error:
            if isinstance(error.__context__, BrokenPipeError):  # rich has met it
                _reader_left()
            raise
        except (KeyboardInterrupt, Exception) as error:
            _ended(error.cause if isinstance(error, _Ended) else error, asked)


def _ended(error: BaseException, asked: Asked) -> None:
    """Exit with one sentence on what ended the command."""
    if isinstance(error, BrokenPipeError) and _unread():
        _reader_left()
    if isinstance(error, KeyboardInterrupt | click.Abort):
        _stop(str(error) or f"Stopped by {name_of(error)}.", 128 + getattr(error, "number", signal.SIGINT))
    if asked.number is not None and not isinstance(error, MoebenchError | OSError):
        # A library has made another exception of it.
        stopped = Stopped(number=asked.number)
        _stop(f"Stopped by {name_of(stopped)}.", 128 + stopped.number)
    assert isinstance(error, Exception)
    _failed(error)


def _unread() -> bool:
    """Whether stdout or stderr is a pipe whose reader has left."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or no file
            poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _reader_left() -> None:
    """The reader of a pipe left, as `head` does; a second complaint at exit would only confuse."""
    _discard_output()
    sys.exit(141)


def _discard_output() -> None:
    """What is still to be written to stdout and stderr goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


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


def _show_warning(message: Warning | str, *others: Any, **more: Any) -> None:
    warn(message)


def _usage(error: click.ClickException) -> None:
    """A command line that was not understood, or none."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help())
        return
    shown = io.StringIO()
    error.show(shown)
    said = f"Error: {error.format_message()}\n"
    click.echo(shown.getvalue().removesuffix(said), err=True, nl=False)
    click.echo(one_line(said[:-1]), err=True)
    sys.exit(error.exit_code)


def _failed(error: Exception) -> None:
    """One sentence on what failed."""
    if isinstance(error, MoebenchError):
        _stop(_with_notes(error), 1)
    if _of_memory(error):
        said = f" ({shown})" if (shown := " ".join(str(error).split()).rstrip(".")) else ""
        advice = "a smaller --batch-size or --max-length needs less, and so does a quantised model (--bits)."
        _stop(" ".join([f"There is too little memory{said}: {advice}", *_notes(error)]), 71)
    if isinstance(error, ImportError):
        if missing_package(error) in ("mlx", "mlx.core", "mlx_lm"):
            _stop(NO_MLX, 1)
        if (other := renamed(error)) is not None:
            _stop(str(other), 1)
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        _stop(" ".join([f"{error.strerror or error}{where}.", *_notes(error)]), 74)
    _unforeseen(error)


def _unforeseen(error: Exception) -> None:
    if os.environ.get("MLX_MOEBENCH_DEBUG"):
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        sys.exit(70)
    hint = "(unforeseen; set MLX_MOEBENCH_DEBUG=1 for the traceback)"
    _stop(f"{type(error).__name__}: {_with_notes(error)} {hint}", 70)


def _of_memory(error: Exception) -> bool:
    """Whether memory, or room for another thread, was refused, by Python, MLX or torch."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError) and any(words in said for words in _NO_MEMORY)
    )


def _with_notes(error: Exception) -> str:
    return " ".join([str(error), *_notes(error)])


def _notes(error: Exception) -> list[str]:
    return getattr(error, "__notes__", [])


def _stop(message: str, code: int) -> Any:
    try:
        say(f"Error: {message}", err=True)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # a full disk, or nobody reads; Python would say so once more at its end
        _discard_output()
    sys.exit(code)
