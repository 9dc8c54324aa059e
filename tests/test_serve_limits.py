"""What a server does with requests that are none, are too many, or never end: one sentence each, and it goes on."""

from __future__ import annotations

import io
import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serve_process import OURS, Server, checkpoint, serving

pytest.importorskip("mlx_lm", reason="needs MLX")

from mlx_moebench.serve.http import BUSY
from mlx_moebench.serve.requests import MOST_BYTES, Refused, Timed, check, check_tokens, length_of, parsed
from mlx_moebench.web.log import OneLine

USERS = 60

# -- what a request may be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 411),
        ({"Transfer-Encoding": "chunked", "Content-Length": "3"}, 411),
        *(({"Content-Length": wrong}, 400) for wrong in ("-1", "x", "", "1 1", "+1", "1e3", "²", "9" * 5000)),
        ({"Content-Length": str(MOST_BYTES + 1)}, 413),
    ],
)
def test_a_body_without_a_sensible_length_is_refused(headers: dict[str, str], status: int) -> None:
    with pytest.raises(Refused) as refused:
        length_of(headers)
    assert refused.value.status == status
    assert length_of({"Content-Length": "12"}) == 12


BAD_JSON = (
    *(b"", b"{", b"\xff\xfe", b"[]", b"3", b"null", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": -Infinity}'),
    *(b"[" * 200_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}"),
)


@pytest.mark.parametrize("raw", BAD_JSON, ids=range(len(BAD_JSON)))
def test_what_is_no_json_object_is_one_sentence(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parsed(raw)
    assert refused.value.status == 400
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
WRONG: list[tuple[str, dict[str, Any]]] = [
    *((TEXT, {"prompt": wrong}) for wrong in (None, 3, [1, 2], {}, ["a"])),
    (TEXT, {}),
    (CHAT, {}),
    *((CHAT, {"messages": wrong}) for wrong in (None, "x", [], [1], [{}], [{"role": 3}], [HELLO])),
    *((CHAT, {"messages": [{"role": "user", "content": wrong}]}) for wrong in (3, [3], [{"text": "x"}], {})),
    *((TEXT, {"prompt": "x", "stop": wrong}) for wrong in (3, [3], [""], {})),
    *((TEXT, {"prompt": "x", "stream_options": wrong}) for wrong in (3, {}, {"include_usage": 1})),
    *((TEXT, {"prompt": "x", name: 3}) for name in ("model", "draft_model", "adapters", "tools", "role_mapping")),
    *((TEXT, {"prompt": "x", name: 2**80}) for name in ("seed", "max_tokens", "top_k", "temperature")),
    *(
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]})
        for url in ("http://127.0.0.1:9/x", {"url": "https://e.example/"}, "file:///etc/passwd")
    ),
]


@pytest.mark.parametrize(("path", "body"), WRONG, ids=range(len(WRONG)))
def test_parts_of_another_kind_are_refused(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        check(body, path)
    assert "\n" not in str(refused.value)
    check({"prompt": "x", "stop": ["a"], "stream_options": {"include_usage": True}, "model": None}, TEXT)
    check({"messages": [*HELLO, {"role": "assistant", "content": None}]}, CHAT)


def test_tokens_beyond_the_vocabulary_are_refused() -> None:
    check_tokens({0: 1.0, 9: -1.0}, 9, [1], 10)
    for arguments in (({10: 1.0}, 0, [1], 10), ({-1: 1.0}, 0, [1], 10), (None, 10, [1], 10), (None, 0, [], 10)):
        with pytest.raises(ValueError, match=r"vocabulary|no token"):
            check_tokens(*arguments)


def test_a_client_that_drips_runs_out_of_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        came = io.BufferedReader(Timed(ours, 30))
        theirs.sendall(b"GET")
        assert came.read1(9) == b"GET"
        late = Timed(ours, -1)
        theirs.sendall(b"x")
        with pytest.raises(TimeoutError):
            late.readinto(bytearray(1))
        assert ours.gettimeout() is None


def test_a_record_of_the_log_is_a_line() -> None:
    formatter = OneLine(logging.Formatter("%(levelname)s - %(message)s"))
    try:
        raise ValueError("of\ntwo \x1b[2J lines")
    except ValueError as error:
        told = (type(error), error, error.__traceback__)
        record = logging.LogRecord("n", logging.ERROR, "f.py", 1, "it %s", ("failed\n",), told)
    assert formatter.format(record) == r"ERROR - it failed\n (ValueError: of\ntwo \x1b[2J lines)"
    assert record.exc_info


def test_the_busy_answer_is_whole() -> None:
    head, _, body = BUSY.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert "try again" in json.loads(body)["error"]


# -- a real server ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("limits")
    model = checkpoint(folder / "nano32")
    with serving(OURS, "--model", str(model), "--output", "out.json", cwd=folder) as running:
        yield running
        assert running.status("/health") == 200
        assert running.end() == 128 + signal.SIGTERM, running.log
    for line in running.log.splitlines():
        assert "Traceback" not in line, running.log
        assert not line.startswith((" ", "\t")), running.log
        assert "\x1b" not in line


def sent(server: Server, data: bytes, seconds: float = 30) -> tuple[int, bytes]:
    """(status, body) of what a server answers to raw bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as line:
        line.sendall(data)
        got = b""
        while more := line.recv(65536):
            got += more
    head, _, body = got.partition(b"\r\n\r\n")
    first = head.split(b" ", 2)
    return (int(first[1]), body) if first[0].startswith(b"HTTP/") else (0, got)


def post(body: bytes, *headers: str, path: str = TEXT) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


MALFORMED = {
    "no http": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", (0, 400)),
    "nothing": (b"\r\n\r\n", (0, 400)),
    "version": (b"GET / HTTP/9\r\n\r\n", (0, 400, 505)),
    "method": (b"BREW /pot HTTP/1.1\r\nHost: localhost\r\n\r\n", (501,)),
    "line": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", (414,)),
    "header": (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", (431,)),
    "headers": (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n", (431,)),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", (403,)),
    "path": (b"GET /\x1b[2J\x9b HTTP/1.1\r\nHost: localhost\r\n\r\n", (404, 400)),
    "chunks": (post(b"5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), (411,)),
    "negative": (post(b"", "Content-Length: -1"), (400,)),
    "large": (post(b"{}", "Content-Length: 999999999999"), (413,)),
    "bytes": (post(b"\xff\xfe{}", "Content-Length: 4"), (400,)),
    "deep": (post(b"[" * 300_000, "Content-Length: 300000"), (400,)),
    "elsewhere": (post(b"{}", "Content-Length: 2", path="/v1/embeddings"), (404,)),
}


@pytest.mark.slow
def test_malformed_requests_are_one_line_each(server: Server) -> None:
    for name, (data, statuses) in MALFORMED.items():
        status, body = sent(server, data)
        assert status in statuses, (name, status, body)
        if status and name != "path":
            assert "\n" not in json.loads(body)["error"], name
        assert b"Traceback" not in body
    assert server.status("/health") == 200


@pytest.mark.slow
def test_requests_that_would_end_the_thread_that_generates_do_not(server: Server) -> None:
    odd: list[dict[str, Any]] = [
        {"prompt": ""},
        {"prompt": "x", "top_k": 10**6},
        {"prompt": "x", "logit_bias": {"99999999": 5.0}},
        {"prompt": "x", "logit_bias": {"-99999999": 5.0}},
        {"prompt": "x", "stop": ["\udcff"]},
        {"prompt": "\ud800 lone"},
        {"prompt": "x", "seed": -5, "max_tokens": 2},
        {"prompt": "x", "repetition_penalty": 1.1, "repetition_context_size": 0, "max_tokens": 2},
        {"prompt": "x", "model": "/etc/passwd"},
        {"prompt": "x", "model": "\x00"},
        {"prompt": "x", "adapters": "/nowhere"},
        {"prompt": "x", "xtc_probability": 1.0, "xtc_threshold": 0.5, "max_tokens": 2},
        {"prompt": "x", "temperature": 1e-30, "max_tokens": 2},
        {"prompt": "x", "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}},
    ]
    for body in odd:
        raw = json.dumps({"max_tokens": 2, **body}).encode()
        status, answer = sent(server, post(raw, f"Content-Length: {len(raw)}"))
        assert status in (200, 400, 404, 500), (body, answer)
        if status != 200:
            assert "\n" not in json.loads(answer)["error"].strip(), body
    for messages in ([{"role": "odd", "content": "x"}], [{"role": "user", "content": None}], HELLO):
        raw = json.dumps({"messages": messages, "max_tokens": 2}).encode()
        status, answer = sent(server, post(raw, f"Content-Length: {len(raw)}", path=CHAT))
        assert status in (200, 400, 404, 500), (messages, answer)
    assert server.complete(prompt="What is 2 + 2?", max_tokens=3)[1]["completion_tokens"] == 3


BREAKS = """
from mlx_lm import server
made = server._make_sampler
def broken(args, tokenizer):
    if args.sampling.top_p == 0.125:
        raise IndexError("of the library")
    return made(args, tokenizer)
server._make_sampler = broken
"""


@pytest.mark.slow
def test_a_request_that_ends_the_loop_is_told_and_the_loop_begins_anew(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "nano32")
    with serving(BREAKS + OURS, "--model", str(model), "--output", "out.json", cwd=tmp_path) as server:
        for _ in range(3):
            assert server.status(TEXT, {"prompt": "x", "top_p": 0.125}) in (404, 500)
            assert server.complete(prompt="What is 2 + 2?", max_tokens=3)[1]["completion_tokens"] == 3
        with ThreadPoolExecutor(12) as pool:
            bodies = [{"prompt": "x", "max_tokens": 4, **({"top_p": 0.125} if n % 6 == 5 else {})} for n in range(12)]
            statuses = list(pool.map(lambda body: server.status(TEXT, body), bodies))
        assert set(statuses) <= {200, 404, 500}
        assert server.status("/health") == 200
        assert server.end() == 128 + signal.SIGTERM, server.log
        assert "Traceback" not in server.log
        assert "IndexError" in server.log or "of the library" in server.log


@pytest.mark.slow
def test_sixty_at_once_are_all_answered_while_others_never_finish(server: Server) -> None:
    lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(30)]
    for number, line in enumerate(lines):  # half stop within their headers, half within their bodies
        line.sendall(b"GET /health HTTP/1.1\r\nHo" if number % 2 else post(b'{"prompt', "Content-Length: 1000"))
    with ThreadPoolExecutor(USERS) as pool:
        asked = [pool.submit(server.complete, prompt=f"User {n} asks", max_tokens=4) for n in range(USERS)]
        answers = [one.result() for one in asked]
    assert [usage["completion_tokens"] for _, usage in answers] == [4] * USERS
    for line in lines:
        line.close()


@pytest.mark.slow
def test_a_request_that_drips_is_ended_and_told_why(server: Server) -> None:
    """A byte every second, far faster than the time allowed between two bytes."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as line:
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(1):
                try:
                    line.sendall(b"x")
                except OSError:
                    return

        line.sendall(b"GET /health HTTP/1.1\r\nX: ")
        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            while line.recv(4096):
                pass
        except ConnectionError:
            pass
        finally:
            stop.set()
            dripping.join()
    assert time.monotonic() - began < 55
    assert server.status("/health") == 200
