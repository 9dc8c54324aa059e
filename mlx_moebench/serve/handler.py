"""The endpoints: those of mlx-lm's server, behind an allow-list of hosts and origins and limits, and ours."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mlx_lm.server import APIHandler

from ..checkpoints.weights import shortened
from ..web.origins import Origins
from . import page
from .answers import PHASES, last_tokens, routing
from .prometheus import CONTENT_TYPE, metrics
from .requests import (
    BODY_SECONDS,
    BYTES_PER_SECOND,
    HEAD_SECONDS,
    WRONG,
    Refused,
    Timed,
    check,
    length_of,
    parsed,
)

OURS = ("/routing", "/routing/last", "/routing/view", "/metrics")
OVER = ("all", "window")


POSTS = ("/v1/completions", "/v1/chat/completions", "/chat/completions")
JSON = "application/json"


class Handler(APIHandler):
    """``response_generator.model_provider`` has the models that are served, ``cli_args.allowed_origins`` the list.

    Every refusal is one sentence of JSON.
    """

    rfile: io.BufferedIOBase
    timeout = HEAD_SECONDS
    """Seconds for which a client may let this server wait before it takes some of its answer."""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()  # which would wait for ever for what comes a byte at a time
        self._came, self._began = Timed(self.connection, HEAD_SECONDS), False
        self.rfile = io.BufferedReader(self._came)

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        why = self._origins.refusal(self.headers.items(), page=urlsplit(self.path).path == "/routing/view")
        if why is None:
            return True
        self._refuse(Refused(403, why))
        return False

    @property
    def _origins(self) -> Origins:
        allowed: Origins = self.response_generator.cli_args.allowed_origins
        return allowed

    def do_POST(self) -> None:  # noqa: N802
        try:
            body = self._body()
        except Refused as refused:
            self._refuse(refused)
            return
        came, self.rfile = self.rfile, io.BytesIO(body)
        try:
            super().do_POST()
        except ConnectionError:
            raise
        except WRONG as error:
            self._failed(error)
        finally:
            self.rfile = came

    def _body(self) -> bytes:
        """The body, which mlx-lm's server can read; raises `Refused`."""
        if self.path not in POSTS:
            raise Refused(404, "Not Found")
        length = length_of(self.headers)
        self._came.until = time.monotonic() + max(BODY_SECONDS, length / BYTES_PER_SECOND)
        try:
            raw = self.rfile.read(length)
        except TimeoutError:
            raise Refused(408, "The request did not come in time.") from None
        if len(raw) < length:
            raise Refused(400, f"The request ends after {len(raw):,} of {length:,} bytes.")
        check(parsed(raw), self.path)
        return raw

    def _failed(self, error: Exception) -> None:
        """Say why nothing, or nothing more, is answered."""
        sentence = f"This request cannot be answered: {type(error).__name__}: {shortened(error)}"
        logging.error("%s", sentence)
        if not self._began:
            self._headers_buffer: list[bytes] = []  # of the answer that was to come
            self._answer(json.dumps({"error": sentence}).encode(), JSON, 500)
        elif getattr(self, "stream", False):
            self.wfile.write(f"data: {json.dumps({'error': sentence})}\n\n".encode())

    def _refuse(self, refused: Refused) -> None:
        self._answer(json.dumps({"error": str(refused)}).encode(), JSON, refused.status)
        # What is still coming would else be answered by a reset, which takes the answer with it.
        self._came.until = time.monotonic() + 1
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while self.rfile.read1(1 << 16):
                pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `http.server` refuses by itself, as one sentence."""
        self.log_error("code %d, message %s", code, message or "")
        self._refuse(Refused(int(code), f"{message or HTTPStatus(code).phrase}."))

    def _set_cors_headers(self) -> None:
        """Let pages of the listed origins read, and no others; mlx-lm's server lets every page ask what it may."""
        origin = self.headers.get("Origin") if hasattr(self, "headers") else None
        if origin is not None and self._origins.lists(origin):
            self.send_header("Access-Control-Allow-Origin", origin)
            self.send_header("Access-Control-Allow-Methods", "*")
            self.send_header("Access-Control-Allow-Headers", "*")

    def end_headers(self) -> None:
        self._began = True
        listed = hasattr(self, "headers") and self._origins.lists(self.headers.get("Origin"))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "cross-origin" if listed else "same-origin")
        self.send_header("Vary", "Origin")
        super().end_headers()

    def do_GET(self) -> None:  # noqa: N802
        parts = urlsplit(self.path)
        answers: dict[str, Callable[[str], None]] = {
            "/routing": self._routing,
            "/routing/last": self._last,
            "/routing/view": self._view,
            "/metrics": self._metrics,
        }
        if parts.path in answers:
            answers[parts.path](parts.query)
        else:
            super().do_GET()

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        # A page that looks every second would fill the log.
        if urlsplit(getattr(self, "path", "")).path not in OURS or str(getattr(code, "value", code)) != "200":
            super().log_request(code, size)

    def handle_models_request(self) -> None:
        from huggingface_hub import constants

        if Path(constants.HF_HUB_CACHE).is_dir():
            super().handle_models_request()
            return
        place = Path(self.response_generator.cli_args.model)  # mlx-lm fails where nothing was ever downloaded
        known = [{"id": str(place.resolve()), "object": "model", "created": self.created}] * place.exists()
        self._answer(json.dumps({"object": "list", "data": known}).encode(), JSON)

    def _routing(self, query: str) -> None:
        asked = parse_qs(query)
        phases, over = asked.get("phase", list(PHASES)), asked.get("over", list(OVER))
        if wrong := [*({*phases} - {*PHASES}), *({*over} - {*OVER}), *({*asked} - {"phase", "over"})]:
            known = f"phase is one of {', '.join(PHASES)}, over is all or window"
            self._refuse(Refused(400, f"There is no {wrong[0]!r}: {known}."))
            return
        answer = routing(self.response_generator.model_provider.served, phases, over)
        self._answer(json.dumps(answer, allow_nan=False).encode(), JSON)

    def _last(self, _: str) -> None:
        answer = last_tokens(self.response_generator.model_provider.served)
        self._answer(json.dumps(answer, allow_nan=False).encode(), JSON)

    def _metrics(self, _: str) -> None:
        self._answer(metrics(self.response_generator.model_provider.served).encode(), CONTENT_TYPE)

    def _view(self, _: str) -> None:
        self._answer(page.view().encode(), "text/html; charset=utf-8", policy=page.POLICY)

    def _answer(self, body: bytes, kind: str, status: int = 200, policy: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if policy is not None:
            self.send_header("Content-Security-Policy", policy)
            self.send_header("Referrer-Policy", "no-referrer")
        if status == 200:
            self._set_cors_headers()
        self.end_headers()
        self.wfile.write(body)
