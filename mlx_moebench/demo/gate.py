"""What stands before Gradio: it hears the page's own requests alone, each checked, and its page loads nothing else.

Gradio serves much more than a page needs: uploads, files, proxies, every function by its number. Whatever is not listed
here is not there, so that what a later Gradio adds is not there either.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from ..web.origins import Origins
from .streams import Message, Receive, Send, Streams

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    # Gradio's page has inline scripts, and makes functions of the scripts of its widgets.
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"vary", b"Origin"),
)

PAGE, JOIN, DATA = "/", "/gradio_api/queue/join", "/gradio_api/queue/data"
ASSETS = re.compile(
    r"/|/config|/theme\.css|/gradio_api/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
    r"|/(?:assets|static)/[\w@+-][\w.@+-]*(?:/[\w@+-][\w.@+-]*)*"
)
"""Paths of what the page is made of; no part of one begins with a dot."""

SESSION = re.compile(r"[0-9a-z]{1,40}")
"""What the page calls itself."""

HEARD = (b"host", b"accept", b"accept-encoding", b"content-type", b"if-none-match", b"if-modified-since")
"""Headers that Gradio is told. Not the Origin, which it would answer with leave to read, nor the host of a proxy."""

BODY_SECONDS = 30.0
AT_ONCE = 1024
"""Requests that are answered at the same time; the page of a user has one or two."""


class Refused(Exception):  # noqa: N818  # an answer, and no error of ours
    """Why a request is not answered, in one sentence, and its HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Gate:
    """ASGI middleware, the outermost.

    wanted: takes what the page sent to be run, any JSON, and returns what Gradio is told of it; raises `Refused`.
    waits: whether a session has something that is to be run. most: bytes of what is sent.
    """

    def __init__(
        self, app: App, origins: Origins, wanted: Callable[[Any], Any], waits: Callable[[str], bool], most: int
    ) -> None:
        self.app, self._origins, self._wanted, self._waits, self._most = app, origins, wanted, waits, most
        self._running, self._streams = 0, Streams()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what the page asks for; answer all else."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        began, session = False, ""

        async def sent(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                message = _guarded(message)
                if scope["path"] == JOIN:
                    await self._streams.settled(session)
            await send(message)

        self._running += 1
        try:
            heard, session = await self._heard(scope, receive)
            answered = partial(self.app, _told(scope), heard)
            if scope["path"] == DATA:
                await self._streams.run(session, answered, receive, sent)
            else:
                await answered(sent)
        except Refused as refused:
            if not began:
                await _answer(send, refused)
        finally:
            self._running -= 1

    async def _heard(self, scope: Scope, receive: Receive) -> tuple[Receive, str]:
        """What Gradio receives, and of which session, if it is of one; raises `Refused`."""
        method, path = scope["method"], scope["path"]
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        if (why := self._origins.refusal(headers, page=path == PAGE and method == "GET")) is not None:
            raise Refused(403, why)
        if self._running > AT_ONCE:
            raise Refused(503, f"The demo is busy with {AT_ONCE} requests: try again in a moment.")
        if (method, path) == ("POST", JOIN):
            kind = dict(headers).get("content-type", "")
            if kind.partition(";")[0].strip().lower() != "application/json":
                raise Refused(415, "What is to be run comes as application/json.")
            return await self._body(receive)
        if method == "GET" and path == DATA:
            asked = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])
            if len(asked) != 1 or not SESSION.fullmatch(asked[0]):
                raise Refused(400, "Say which session_hash is asked for.")
            if not self._waits(asked[0]):  # Gradio would break off its answer
                raise Refused(404, "Nothing of that session is to be run.")
            return receive, asked[0]
        if not (method in ("GET", "HEAD") and ASSETS.fullmatch(path)):
            raise Refused(404, "There is no such page.")
        return receive, ""

    async def _body(self, receive: Receive) -> tuple[Receive, str]:
        """The body, once it is there, checked and written anew, and its session."""
        raw = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "The request ends in the middle.")
                    raw += message.get("body", b"")
                    if len(raw) > self._most:
                        raise Refused(413, f"A request has at most {self._most:,} bytes.")
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise Refused(408, "The request did not come in time.") from None
        try:
            asked = json.loads(raw.decode())
        except (ValueError, RecursionError):
            raise Refused(400, "The request is not JSON.") from None
        wanted = self._wanted(asked)
        told: Message | None = {"type": "http.request", "body": json.dumps(wanted).encode()}

        async def heard() -> Message:
            nonlocal told
            if told is None:
                return await receive()
            message, told = told, None
            return message

        return heard, wanted["session_hash"]


def _told(scope: Scope) -> Scope:
    """What Gradio is told of a request: nothing by which it serves another page, host or language."""
    query = scope["query_string"] if scope["path"] == DATA else b""
    kept = [(name, value) for name, value in scope["headers"] if name in HEARD]
    if (b"x-forwarded-proto", b"https") in scope["headers"]:
        kept.append((b"x-forwarded-proto", b"https"))  # addresses in the page are then of HTTPS, too
    return {**scope, "headers": kept, "query_string": query}


def _guarded(message: Message) -> Message:
    """The answer's head with our headers, without leave for other pages."""
    ours = [name for name, _ in _HEADERS]
    headers = [
        (name, value)
        for name, value in message.get("headers", ())
        if name.lower() not in ours and not name.lower().startswith(b"access-control-")
    ]
    return {**message, "headers": [*headers, *_HEADERS]}


async def _answer(send: Send, refused: Refused) -> None:
    body = json.dumps({"detail": str(refused)}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    # What is left of a body that was refused is not waited for.
    head.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": head})
    await send({"type": "http.response.body", "body": body})
