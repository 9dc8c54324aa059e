"""The sockets of the demo: uvicorn around the gate, in threads of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

from ..errors import MoebenchError, needed
from ..web.log import OneLine

HEAD_SECONDS = 20.0
"""In which the headers of a request have to be there."""

FIRST_PORT, PORTS, BACKLOG = 7860, 100, 512
LOGS = ("uvicorn.error", "asyncio", "mlx_moebench.demo")


@contextlib.contextmanager
def serving(app: Any, bound: socket.socket) -> Iterator[None]:
    """An ASGI application is served at a socket while it lasts; connections that are left are closed at the end.

    Raises `MoebenchError` where it does not start.
    """
    import uvicorn

    config = uvicorn.Config(
        app, http=_protocol(), ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=1, backlog=BACKLOG,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), name="moebench-demo", daemon=True)
    with _logged():
        thread.start()
        try:
            while not server.started:
                thread.join(0.01)
                if not thread.is_alive():
                    raise MoebenchError("The demo did not start; what is said above says why.")
            yield
        finally:
            server.should_exit = True
            thread.join(5)


def _protocol() -> type[asyncio.Protocol]:
    """uvicorn's HTTP, whose requests do not take for ever to begin."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    needed(H11Protocol, "handle_events", "uvicorn", "tells when a request has begun")

    class Timed(H11Protocol):
        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            self._wait()
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            # A request that has begun is the application's to wait for.
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()

        def _wait(self) -> None:
            if self.late is None and (self.cycle is None or self.cycle.response_complete):
                self.late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

        def _stop(self) -> None:
            if self.late is not None:
                self.late.cancel()
                self.late = None

    return Timed


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """What goes wrong in the server is a line on stderr, while it lasts."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    loggers = [logging.getLogger(name) for name in LOGS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def bind(host: str, port: int | None) -> socket.socket:
    """A socket at an address, before anything is loaded; port: None is the first free one from 7860 on.

    Raises `MoebenchError` where nothing can be served.
    """
    taken: OSError | None = None
    for one in (port,) if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS):
        try:
            return _bound(host, one)
        except OSError as error:
            taken = error
    assert taken is not None
    where = host if port is None else f"{host}, port {port}"
    raise MoebenchError(
        f"Cannot serve at {where} ({taken.strerror}): choose another --port, or an address of this machine."
    ) from taken


def _bound(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as after one that ended
        bound.bind(address)
        bound.listen(BACKLOG)  # else another process could take the port yet
    except OSError:
        bound.close()
        raise
    return bound


def address_of(bound: socket.socket, host: str) -> str:
    """What to type into a browser of this machine."""
    name = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name and not name.startswith('[') else name}:{bound.getsockname()[1]}/"
