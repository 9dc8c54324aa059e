"""What a request may be: how long it may take to come, how large it is, and what its JSON holds.

mlx-lm's server reads as many bytes as a client announces, waits for them for ever, and passes on most of what they say
as it is: an odd value would end the thread that generates for all.
"""

from __future__ import annotations

import io
import json
import math
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ..errors import MoebenchError
from ..types import Json

HEAD_SECONDS, BODY_SECONDS = 20.0, 60.0
"""In which the request line with the headers, and the body, have to be there."""

BYTES_PER_SECOND = 100_000
"""A body may take longer than `BODY_SECONDS` where it is as fast as this."""

MOST_BYTES = 32_000_000
"""Of a body; the longest prompts that models take are far below, and leave room for pictures."""

AT_ONCE = 256
"""Connections that are answered at the same time; a further one is told that the server is busy."""

WRONG = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError, MoebenchError)
"""What mlx-lm's server, or ours within it, raises for a request that it cannot answer."""


class Refused(Exception):  # noqa: N818  # an answer, and no error of ours
    """Why a request is not answered, in one sentence, and its HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Timed(io.RawIOBase):
    """What comes through a socket until ``until``, a time of `time.monotonic`; then TimeoutError is raised."""

    def __init__(self, line: socket.socket, seconds: float) -> None:
        self._line = line
        self.until = time.monotonic() + seconds

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what there is, waiting for it no longer than ``until``, however slowly it comes."""
        before, left = self._line.gettimeout(), self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request did not come in time")
        self._line.settimeout(left)
        try:
            return self._line.recv_into(buffer)
        finally:
            self._line.settimeout(before)


def length_of(headers: Mapping[str, str]) -> int:
    """Bytes of the body that these headers announce; raises `Refused`."""
    if "Transfer-Encoding" in headers:
        raise Refused(411, "Send a body with Content-Length, not in chunks.")
    announced = headers.get("Content-Length")
    if announced is None:
        raise Refused(411, "Content-Length header is required")
    if not (announced.isascii() and announced.isdigit() and len(announced) < 20):
        raise Refused(400, "Invalid Content-Length header")
    if int(announced) > MOST_BYTES:
        raise Refused(413, f"A request has at most {MOST_BYTES:,} bytes, not {int(announced):,}.")
    return int(announced)


def parsed(raw: bytes) -> Json:
    """The JSON object of a body; raises `Refused`."""

    def no_number(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number of JSON")

    def number(word: str) -> float:
        return value if math.isfinite(value := float(word)) else no_number(word)

    try:
        body = json.loads(raw.decode(), parse_constant=no_number, parse_float=number)
    except UnicodeDecodeError:
        raise Refused(400, "Invalid JSON in request body: it is not UTF-8.") from None
    except ValueError as error:
        raise Refused(400, f"Invalid JSON in request body: {error}") from None
    except RecursionError:
        raise Refused(400, "Invalid JSON in request body: it is nested too deeply.") from None
    if not isinstance(body, dict):
        raise Refused(400, "Request should be a JSON dictionary")
    return body


def check(body: Json, path: str) -> None:
    """Raise `Refused` unless the parts that mlx-lm's server takes as they are can be what they should be."""
    needs = "prompt" if path == "/v1/completions" else "messages"
    if needs not in body:
        raise Refused(400, f"Request did not contain {'a ' if needs == 'prompt' else ''}{needs}")
    for name, (what, holds) in _PARTS.items():
        if body.get(name) is not None and not holds(body[name]):
            raise Refused(400, f"{name} must be {what}.")
    if body[needs] is None:
        raise Refused(400, f"{needs} must be {_PARTS[needs][0]}.")
    for name in _NUMBERS:
        value = body.get(name)
        if isinstance(value, int | float) and not -(2**31) < value < 2**31:
            raise Refused(400, f"{name} must lie within 32 bits.")
    if any(_fetched(part) for part in _parts_of(body.get("messages") or ())):
        raise Refused(400, "This server fetches no pictures: send them as data: URLs.")


def check_tokens(logit_bias: Mapping[int, float] | None, top_k: int, prompt: list[int], vocabulary: int) -> None:
    """Raise ValueError for what only the model's vocabulary tells; the arrays behind them are not bounds-checked."""
    if not prompt:
        raise ValueError("The prompt has no token: send some text.")
    wrong = [token for token in logit_bias or () if not 0 <= token < vocabulary]
    if wrong:
        raise ValueError(f"logit_bias names token {wrong[0]}, and the vocabulary has {vocabulary:,}.")
    if top_k >= vocabulary:
        raise ValueError(f"top_k must be below {vocabulary:,}, the size of the vocabulary.")


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) and one for one in value))


def _messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_message, value))


def _message(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("role"), str):
        return False
    content = one.get("content")
    parts = content if isinstance(content, list) else []
    return (content is None or isinstance(content, str | list)) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts
    )


def _options(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("include_usage"), bool)


def _kind(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_PARTS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "prompt": ("a string", _kind(str)),
    "messages": ("a list of messages, each with its role, and a string or typed parts as content", _messages),
    "stop": ("a string, or a list of strings", _texts),
    "stream_options": ("a dictionary with include_usage, true or false", _options),
    "model": ("a string", _kind(str)),
    "draft_model": ("a string", _kind(str)),
    "adapters": ("a string", _kind(str)),
    "tools": ("a list", _kind(list)),
    "role_mapping": ("a dictionary", _kind(dict)),
    "chat_template_kwargs": ("a dictionary", _kind(dict)),
}
_NUMBERS = (
    *("max_tokens", "max_completion_tokens", "seed", "top_k", "num_draft_tokens", "temperature", "presence_penalty"),
    *("frequency_penalty", "repetition_penalty", "repetition_context_size", "presence_context_size"),
    "frequency_context_size",
)


def _parts_of(messages: Any) -> list[Json]:
    return [part for one in messages for part in one.get("content") or () if isinstance(part, dict)]


def _fetched(part: Json) -> bool:
    """Whether mlx-lm would fetch it: from wherever the request says, this machine's own network included."""
    url = part.get("image_url", part.get("image"))
    url = url.get("url") if isinstance(url, dict) else url
    return isinstance(url, str) and not url.startswith("data:")
