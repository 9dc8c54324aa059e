"""The sockets of the server and its log: as many connections as it can answer, and a line for whatever fails."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from ..web.log import OneLine
from .requests import AT_ONCE

_WORDS = json.dumps({"error": f"The server is busy with {AT_ONCE} requests: try again in a moment."}).encode()
BUSY = (
    b"HTTP/1.0 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_WORDS), _WORDS)
)


class BoundedServer(ThreadingHTTPServer):
    """A thread for each of `AT_ONCE` connections; a further one is told to come again. ``stopping``: it ends."""

    request_queue_size = AT_ONCE
    stopping = threading.Event()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._room = threading.BoundedSemaphore(AT_ONCE)
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or say that there is no room."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.settimeout(1)
            request.sendall(BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As the base does, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line; none where answers break off because the server stops, or a client had enough."""
        error = sys.exception()
        if not self.stopping.is_set() and not isinstance(error, ConnectionError | TimeoutError):
            logging.error("A request failed: %s: %s", type(error).__name__, error)


def log_in_lines() -> None:
    """Let whoever logs here write one line for each record."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(OneLine(handler.formatter))
