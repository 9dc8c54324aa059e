"""The stream that brings a session its answers, and its end, at which Gradio's page would lose one.

Gradio ends the stream when a session has nothing more to be run, and its page opens another with the next thing it asks
for, if it has read of that end by then. Where the page hears first that what it asks for is run, it waits for the
answer on the stream that has ended, for ever. So whoever asks while a stream ends hears of it after the page has hung
up on that stream, which it does when it has read of the end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

END = b'data: {"msg":"close_stream"'
"""How Gradio's last message of a stream begins."""

HEARS_SECONDS = 0.5
"""How long whatever passes next is waited for: Gradio tells at once that something is run, or waits."""

HANGS_UP_SECONDS = 5.0
"""How long a page may take to read of the end; what is no page may never hang up."""


class Stream:
    """One stream, from its first byte until the page has hung up."""

    def __init__(self) -> None:
        self._passed, self._over, self._ending = asyncio.Event(), asyncio.Event(), False

    async def settled(self) -> None:
        """Wait until it is sure that the stream goes on, or that the page knows of its end."""
        self._passed.clear()
        with contextlib.suppress(TimeoutError):
            if not self._ending:
                await asyncio.wait_for(self._passed.wait(), HEARS_SECONDS)
            if self._ending:
                await asyncio.wait_for(self._over.wait(), HANGS_UP_SECONDS)

    async def run(self, app: Callable[[Send], Awaitable[None]], receive: Receive, send: Send) -> None:
        """Pass on what ``app`` sends, but the end of an ended stream only after the page has hung up."""
        held: Message | None = None

        async def sent(message: Message) -> None:
            nonlocal held
            body: bytes = message.get("body", b"")
            self._ending = self._ending or body.startswith(END)
            if body:
                self._passed.set()
            if self._ending and not body and not message.get("more_body"):
                held = message
            else:
                await send(message)

        try:
            await app(sent)
            if held is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HANGS_UP_SECONDS):
                        while (await receive())["type"] != "http.disconnect":
                            pass
                await send(held)
        finally:
            self._over.set()
            self._passed.set()


class Streams:
    """The streams of all sessions; of a session the newest counts."""

    def __init__(self) -> None:
        self._open: dict[str, Stream] = {}

    async def run(self, session: str, app: Callable[[Send], Awaitable[None]], receive: Receive, send: Send) -> None:
        """`Stream.run`, known by its session as long as it lasts."""
        stream = self._open[session] = Stream()
        try:
            await stream.run(app, receive, send)
        finally:
            if self._open.get(session) is stream:
                del self._open[session]

    async def settled(self, session: str) -> None:
        """`Stream.settled` of the session's stream, if there is one."""
        if (stream := self._open.get(session)) is not None:
            await stream.settled()
