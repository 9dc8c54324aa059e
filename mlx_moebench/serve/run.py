"""Serve until Ctrl-C or SIGTERM, and keep what the routers did."""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm import server
from mlx_lm.models.cache import LRUPromptCache

from ..checkpoints.located import NANO, find
from ..errors import MoebenchError, StatsError, needed
from ..options import Tell
from ..pair.storage import check_writable, pair_paths
from ..web.origins import Origins
from . import library
from .generator import Generator
from .handler import Handler
from .http import BoundedServer, log_in_lines
from .keep import Keeper
from .models import ServedModels
from .provider import TappedProvider
from .settings import ServeSettings


def serve(words: Sequence[str], settings: ServeSettings, tell: Tell) -> list[Path]:
    """Serve as mlx-lm's server does with the command line ``words``; returns the stats pairs that were written.

    tell: is told the address. Raises `MoebenchError` where the port is taken, the model cannot be served or is dense,
    and where statistics could not be written at the end.
    """
    written: list[Path] = []
    stopping = threading.Event()
    library.main(words, lambda arguments: written.extend(_Server(arguments, settings, tell, stopping).run()), stopping)
    return written


class _Server:
    def __init__(
        self, arguments: argparse.Namespace, settings: ServeSettings, tell: Tell, stopping: threading.Event
    ) -> None:
        if mx.distributed.init().size() > 1:
            raise MoebenchError("serve runs in one process: leave out mlx.launch, or use mlx_lm.server.")
        self._arguments, self._settings, self._tell = arguments, settings, tell
        self._stopping = stopping
        self._error: MoebenchError | None = None
        self._http: BoundedServer | None = None
        arguments.allowed_origins = Origins(
            arguments.host, settings.allow_hosts, arguments.allowed_origins or (), "--allowed-origins"
        )
        _check_output(settings.output)
        check_address(arguments.host, arguments.port)
        arguments.model = _checked_model(arguments)

    def run(self) -> list[Path]:
        log_in_lines()
        models = ServedModels(self._settings)
        provider = TappedProvider(self._arguments, models, self._fail)
        keeper = Keeper(models)
        generator = Generator(provider, LRUPromptCache(self._arguments.prompt_cache_size), keeper, self._stopping)
        keeper.start()
        try:
            with contextlib.suppress(KeyboardInterrupt):  # how a server ends, by SIGTERM and SIGHUP, too
                self._serve(generator)
        finally:
            generator.stop_and_join()
            keeper.end()
        if (error := self._error or self._unsaved(keeper)) is not None:
            raise error
        folder = pair_paths(self._settings.output)[0].parent
        return [folder / name for one in models.every.values() for name in one.files]

    def _serve(self, generator: Any) -> None:
        serving = needed(server, "_run_http_server", "mlx_lm", "serves the endpoints")
        outer = self

        class Http(BoundedServer):
            stopping = outer._stopping

            def server_activate(self) -> None:
                super().server_activate()
                outer._http = self
                host, port = self.server_address[:2]
                outer._tell(f"Serving at http://{_bracketed(str(host))}:{port}/v1 and /routing/view (Ctrl-C ends it)")
                if outer._error is not None:
                    threading.Thread(target=self.shutdown, daemon=True).start()

        serving(self._arguments.host, self._arguments.port, generator, server_class=Http, handler_class=Handler)

    def _fail(self, error: MoebenchError) -> None:
        self._error = error
        if self._http is not None:
            threading.Thread(target=self._http.shutdown, daemon=True).start()

    def _unsaved(self, keeper: Keeper) -> MoebenchError | None:
        return None if keeper.failure is None else StatsError(keeper.failure)


def _checked_model(arguments: argparse.Namespace) -> str:
    """The model of the command line, after every check that needs no weights."""
    located = find(arguments.model, None, arguments.trust_remote_code, unquantised=False)
    return str(located.folder) if located.folder == NANO else str(arguments.model)


def _check_output(output: Path) -> None:
    for path in pair_paths(output):
        if path.exists():
            raise StatsError(f"{path} exists, from an earlier server: choose another --output, or move it away.")
    check_writable(output)


def check_address(host: str, port: int) -> None:
    """Raise `MoebenchError` where nothing can be served, before a model is loaded."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise MoebenchError(
            f"Cannot serve at {host}, port {port} ({getattr(error, 'strerror', None) or error}): choose another "
            "--port, or an address of this machine."
        ) from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
