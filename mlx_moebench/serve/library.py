"""mlx-lm's server, with our classes in the place of its own while it starts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from types import SimpleNamespace
from typing import Any, NoReturn

from mlx_lm import server

from ..errors import MoebenchError, needed
from ..instrument.capture import sinks_of
from ..instrument.generation import stream_generate
from ..instrument.live import LiveRoutingStats

Start = Callable[[argparse.Namespace], None]


class _Parsed(Exception):  # noqa: N818  # no error
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def flags() -> argparse.ArgumentParser:
    """The parser of mlx-lm's server, as it is."""

    class Parser(argparse.ArgumentParser):
        def parse_args(self, *_: Any, **__: Any) -> NoReturn:
            raise _Parsed(self)

    with _replaced(argparse=SimpleNamespace(ArgumentParser=Parser)):
        try:
            server.main()
        except _Parsed as parsed:
            return parsed.parser
    raise MoebenchError(
        "The flags of this mlx-lm's server are not found: update mlx-moebench, or install another mlx-lm."
    )


def main(words: Sequence[str], start: Start, stopping: Event) -> None:
    """Do what mlx-lm's server does with the command line ``words`` until it would serve; then ``start``.

    stopping: ends the request with a seed that runs. Raises `MoebenchError` for words that its parser refuses.
    """

    class Parser(argparse.ArgumentParser):
        def parse_args(self, *_: Any, **__: Any) -> argparse.Namespace:  # type: ignore[override]
            self.set_defaults(allowed_origins=None)  # every page, where nobody said so
            return super().parse_args(list(words))

        def error(self, message: str) -> NoReturn:
            raise MoebenchError(f"{message[:1].upper()}{message[1:]}; mlx-moebench serve --help lists all options.")

    def run(host: str, port: int, arguments: argparse.Namespace, *_: Any, **__: Any) -> None:
        start(arguments)

    generate = needed(server, "stream_generate", "mlx_lm", "serves requests with a seed")
    parser = SimpleNamespace(ArgumentParser=Parser)
    with _replaced(argparse=parser, run=run, ModelProvider=lambda a: a, stream_generate=_announced(generate, stopping)):
        server.main()


def _announced(generate: Callable[..., Iterator[Any]], stopping: Event) -> Callable[..., Iterator[Any]]:
    """mlx-lm's ``stream_generate``, which says of a tapped model which tokens are the prompt's."""

    def announced(model: Any, *args: Any, **options: Any) -> Iterator[Any]:
        tapped = any(isinstance(getattr(sink, "__self__", None), LiveRoutingStats) for sink in sinks_of(model))
        for response in (stream_generate if tapped else generate)(model, *args, **options):
            yield response
            if stopping.is_set():
                raise MoebenchError("The server stops.")

    return announced


@contextmanager
def _replaced(**names: Any) -> Iterator[None]:
    """These names of mlx-lm's server are others while it lasts."""
    before = {name: needed(server, name, "mlx_lm", "serve replaces") for name in names}
    try:
        for name, value in names.items():
            setattr(server, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(server, name, value)
