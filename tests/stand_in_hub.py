"""A model hub on this machine, for its real client: one repository, ``someone/tiny``, that can misbehave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """Serves the files of ``folder``.

    status, code: what to answer instead, if not 200. cut: bytes after which a file's body breaks off, for the next
    ``cuts`` requests that ask for as much. slow: seconds before every answer. ranges: (file, first byte) of each body
    that was asked for, sent: bytes of all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.status, self.code = 200, ""
        self.cut, self.cuts = 0, 0
        self.slow = 0.0
        self.ranges: list[tuple[str, int]] = []
        self.asked = 0
        self.sent = 0
        self.closing = Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def files(self) -> list[dict[str, Any]]:
        """As the hub lists them."""
        return [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": etag(file)}
            for file in sorted(self.folder.iterdir())
        ]


def etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()  # the name of a git blob, not a secret


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked += 1
        hub.closing.wait(hub.slow)
        if hub.status != 200:
            self.reply(b"{}", hub.status, {"X-Error-Code": hub.code})
        elif "/resolve/" in self.path:
            file = hub.folder / self.path.rsplit("/", 1)[1]
            if file.is_file():
                self.send_file(file)
            else:
                self.reply(b"{}", 404, {"X-Error-Code": "EntryNotFound"})
        elif "/tree/" in self.path:
            self.reply(json.dumps(hub.files()).encode())
        else:
            siblings = [{"rfilename": file["path"]} for file in hub.files()]
            self.reply(json.dumps({"id": "someone/tiny", "sha": COMMIT, "siblings": siblings}).encode())

    def send_file(self, file: Path) -> None:
        body, status, headers = file.read_bytes(), 200, {"ETag": f'"{etag(file)}"', "X-Repo-Commit": COMMIT}
        whole = len(body)
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or whole - 1), whole - 1)
        if start or end < whole - 1:
            body, status = body[start : end + 1], 206
            headers["Content-Range"] = f"bytes {start}-{end}/{whole}"
        if self.command == "GET":
            self.hub.ranges.append((file.name, start))
            self.hub.sent += len(body)
        self.reply(body, status, headers)

    def reply(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        with suppress(BrokenPipeError, ConnectionResetError):
            self.end_headers()
        if self.command != "GET":
            return
        hub = self.hub
        if hub.cuts and 0 < hub.cut < len(body) and "/resolve/" in self.path:
            hub.cuts -= 1
            body = body[: hub.cut]
        with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked may have lost patience
            self.wfile.write(body)  # shorter than announced where it is cut; the connection then closes

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[StandIn]:
    hub = StandIn(folder)
    thread = Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        hub.server.shutdown()
        thread.join()
        hub.server.server_close()
