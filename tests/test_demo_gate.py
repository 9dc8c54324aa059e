"""What the demo answers: its own page's requests, each checked and bounded, and nothing else that Gradio serves."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Any

import pytest
from serve_process import DEMO, Server, serving

from mlx_moebench.demo.gate import ASSETS, Refused
from mlx_moebench.demo.wanted import LONGEST, MOST_BYTES, Wanted, too_long

USERS = 60
JOIN, DATA = "/gradio_api/queue/join", "/gradio_api/queue/data"

# -- what the page may ask -------------------------------------------------------------------------------------------

WANTED = Wanted({0: 1, 1: 4, 7: 3}, ["moebench-nano"], ["one text", "two texts"])
RIGHT = {"session_hash": "abc123", "fn_index": 1, "data": ["moebench-nano", "one text", "a", "b"]}


def test_what_the_page_sends_is_passed_on_and_nothing_beside() -> None:
    told = WANTED(RIGHT | {"event_data": {"x": 1}, "trigger_id": 5, "batched": True, "request": {}, "simple_format": 1})
    assert told == RIGHT | {"event_data": None, "trigger_id": 5}
    assert WANTED({"session_hash": "a", "fn_index": 0, "data": ["two texts"]})["trigger_id"] is None


@pytest.mark.parametrize(
    "change",
    [
        *({"session_hash": wrong} for wrong in (None, "", "../x", "A", "a" * 41, 3)),
        *({"fn_index": wrong} for wrong in (None, 2, 7, -1, True, "1", 1.0)),
        *({"data": wrong} for wrong in (None, [], ["one text"], "abcd", [1, 2, 3, 4], [["x"], "one text", "a", "b"])),
        {"data": ["other", "one text", "a", "b"]},
        {"data": ["moebench-nano", "no such", "a", "b"]},
        {"data": ["moebench-nano", "one text", "a" * (LONGEST + 1), "b"]},
        {"data": ["moebench-nano", "one text", "a", "b" * (LONGEST + 1)]},
        {"data": ["moebench-nano", "one text", "\ud800", "b"]},
        {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, "one text", "a", "b"]},
    ],
)
def test_what_no_page_sends_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        WANTED(RIGHT | change)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(".")


def test_texts_have_a_limit_on_the_server() -> None:
    assert too_long("a" * LONGEST, "") is None
    assert "200,001 characters" in str(too_long("a", "a" * (LONGEST + 1)))
    for wrong in (None, [], 3, "x"):
        with pytest.raises(Refused):
            WANTED(wrong)


def test_paths_of_assets_stay_in_their_folders() -> None:
    for path in ("/", "/assets/index-1a.js", "/assets/a/b.css", "/static/fonts/x-y_1.woff2", "/theme.css"):
        assert ASSETS.fullmatch(path)
    for path in (
        "/assets/../x", "/assets/.x", "/assets//etc/passwd", "/static/a/../../x", "/assets/a\\b", "/assets/", "//",
        "/assets/a/.env", "/gradio_api/file=/etc/passwd", "/config/../x", "/static/a%2f..", "/assets/a\n",
    ):  # fmt: skip
        assert not ASSETS.fullmatch(path), path


# -- a real demo -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="gradio is not installed (extra demo)")
    pytest.importorskip("mlx.core", reason="needs MLX to route texts")
    folder = tmp_path_factory.mktemp("gate")
    with serving(DEMO, "--max-length", "32", cwd=folder) as running:
        yield running
        assert running.status("/") == 200
        assert running.end(signal.SIGINT) == 128 + signal.SIGINT, running.log
    lines = running.log.splitlines()
    assert lines[0].startswith("Serving at http://127.0.0.1:")
    assert "Traceback" not in running.log
    assert not [line for line in lines if line.startswith((" ", "\t"))]


def asked(demo: Server, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """(status, body, headers) of a request."""
    line = HTTPConnection("127.0.0.1", demo.port, timeout=60)
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    named = {"Content-Type": "application/json"} if raw is not None else {}
    line.request(method, path, raw, named | {name.replace("_", "-"): value for name, value in headers.items()})
    answer = line.getresponse()
    found = answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    line.close()
    return found


def routes(demo: Server) -> int:
    """The number of the function that routes texts."""
    config = json.loads(asked(demo, "GET", "/config")[1])
    return int(next(one["id"] for one in config["dependencies"] if len(one["inputs"]) == 4))


def shown(demo: Server, session: str, number: int, text: str) -> str:
    """What a user is told of a text: the message of the page."""
    data = ["moebench-nano", "one text", text, ""]
    status, said, _ = asked(demo, "POST", JOIN, {"session_hash": session, "fn_index": number, "data": data})
    if status != 200:
        return str(json.loads(said)["detail"])
    line = HTTPConnection("127.0.0.1", demo.port, timeout=120)
    line.request("GET", f"{DATA}?session_hash={session}")
    answer = line.getresponse()
    try:
        while row := answer.readline():
            if row.startswith(b"data: ") and (said := json.loads(row[6:]))["msg"] == "process_completed":
                return str(said["output"]["data"][0]) if said["success"] else str(said["output"]["error"])
    finally:
        line.close()
    return ""


@pytest.mark.slow
def test_sixty_users_at_once_are_all_answered(demo: Server) -> None:
    number = routes(demo)
    halves = (
        b"GET / HTTP/1.1\r\nHo",
        f"POST {JOIN} HTTP/1.1\r\nHost: localhost\r\n".encode()
        + b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    )
    with ExitStack() as others, ThreadPoolExecutor(USERS) as pool:
        for half in halves * 10:  # who never finish their requests
            others.enter_context(socket.create_connection(("127.0.0.1", demo.port))).sendall(half)
        answers = list(
            pool.map(lambda n: shown(demo, f"user{n}", number, " ".join(["one"] * (n % 7 + 1))), range(USERS))
        )
    for n, answer in enumerate(answers):
        assert f"moebench-nano: {n % 7 + 1} token" in answer or "busy" in answer, (n, answer)
    assert sum("busy" in answer for answer in answers) == 0


GONE = (
    ("POST", "/gradio_api/upload"), ("GET", "/gradio_api/upload_progress?upload_id=x"), ("POST", "/upload"),
    ("GET", "/gradio_api/file=/etc/passwd"), ("HEAD", "/gradio_api/file=/etc/passwd"), ("GET", "/file=/etc/passwd"),
    ("GET", "/gradio_api/file/etc/passwd"), ("GET", "/gradio_api/proxy=http://127.0.0.1:1/"), ("GET", "/proxy=x"),
    ("GET", "/gradio_api/stream/a/b/c/playlist.m3u8"), ("POST", "/gradio_api/stream/x"), ("GET", "/monitoring"),
    ("GET", "/monitoring/summary"), ("GET", "/gradio_api/heartbeat/abc"), ("POST", "/gradio_api/reset"),
    ("POST", "/gradio_api/cancel"), ("POST", "/gradio_api/component_server"), ("GET", "/gradio_api/info"),
    ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/api/routed"), ("POST", "/gradio_api/call/routed"),
    ("POST", "/gradio_api/call/v2/routed"), ("GET", "/gradio_api/call/routed/x"), ("POST", "/run/predict"),
    ("POST", "/api/predict"), ("GET", "/gradio_api/queue/status"), ("GET", "/gradio_api/startup-events"),
    ("GET", "/gradio_api/deep_link?session_hash=a"), ("POST", "/login"), ("GET", "/logout"), ("GET", "/svelte/x"),
    ("GET", "/gradio_api/runs"), ("GET", "/gradio_api/openapi.json"), ("GET", "/openapi.json"), ("GET", "/docs"),
    ("GET", "/gradio_api/vibe-code"), ("POST", "/gradio_api/vibe-edit"), ("GET", "/gradio_api/mcp/sse"),
    ("GET", "/gradio_api/custom_component/a/client/component/index.js"), ("GET", "/static/../routes.py"),
    ("GET", "/assets/..%2f..%2froutes.py"), ("GET", "/static/%2e%2e/routes.py"), ("GET", "/pwa_icon"), ("PUT", "/"),
    ("DELETE", "/"), ("POST", "/"), ("OPTIONS", "/"), ("TRACE", "/"), ("OPTIONS", JOIN), ("GET", JOIN),
    ("GET", "/..//"),
)  # fmt: skip


@pytest.mark.slow
def test_nothing_but_the_page_is_there(demo: Server) -> None:
    for method, path in GONE:
        status, body, _ = asked(demo, method, path, {} if method == "POST" else None)
        assert status in (403, 404, 405), (method, path, status)
        assert b"root:" not in body
        assert method == "HEAD" or json.loads(body)["detail"].count(".") >= 1, (method, path)
    boundary = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nhello\r\n--x--\r\n'
    status, _, _ = asked(demo, "POST", "/gradio_api/upload", boundary, Content_Type="multipart/form-data; boundary=x")
    assert status == 404


@pytest.mark.slow
def test_requests_that_no_page_sends_are_one_sentence(demo: Server) -> None:
    number = routes(demo)
    right = {"session_hash": "s1", "fn_index": number, "data": ["moebench-nano", "one text", "a", "b"]}
    for body, status in (
        (b"{", 400), (b"\xff", 400), (b"[" * 100_000, 400), (b"x" * (MOST_BYTES + 1), 413),
        (right | {"fn_index": 99}, 404),
        (right | {"data": ["moebench-nano", "one text", "a" * (LONGEST + 1), "b"]}, 413),
    ):  # fmt: skip
        found, said, _ = asked(demo, "POST", JOIN, body)
        assert found == status, said
        assert "\n" not in json.loads(said)["detail"]
    assert asked(demo, "POST", JOIN, right, Content_Type="text/plain")[0] == 415
    assert asked(demo, "GET", f"{DATA}?session_hash=../x")[0] == 400
    assert asked(demo, "GET", DATA)[0] == 400
    assert asked(demo, "GET", f"{DATA}?session_hash=nobody")[0] == 404
    for raw in (
        b"\x16\x03\x01\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", demo.port), timeout=30) as line:
            try:
                line.sendall(raw)
                assert line.recv(4096).startswith(b"HTTP/1.1 4")
            except ConnectionError:
                pass  # it hung up before all was sent
    assert "no token" in shown(demo, "empty", number, " ")


@pytest.mark.slow
def test_what_only_the_browser_does_cannot_be_asked(demo: Server) -> None:
    """Links and examples are scripts of the page, without a function here."""
    config = json.loads(asked(demo, "GET", "/config")[1])
    scripts = [one for one in config["dependencies"] if not one["backend_fn"]]
    assert len(scripts) > 5
    for one in scripts:
        data = ["moebench-nano", "one text", "a", "b"][: len(one["inputs"])]
        assert asked(demo, "POST", JOIN, {"session_hash": "s3", "fn_index": one["id"], "data": data})[0] == 404


@pytest.mark.slow
def test_hosts_origins_and_headers(demo: Server) -> None:
    here = f"127.0.0.1:{demo.port}"
    number = routes(demo)
    right = {"session_hash": "s2", "fn_index": number, "data": ["moebench-nano", "one text", "a", "b"]}
    for headers in (
        {"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": f"http://localhost:{demo.port}"},
        {"Origin": "null"}, {"Sec_Fetch_Site": "same-site"}, {"Referer": "https://evil.example/"},
    ):  # fmt: skip
        for method, path, body in (
            ("GET", "/config", None),
            ("POST", JOIN, right),
            ("GET", f"{DATA}?session_hash=s2", None),
        ):
            status, _, sent = asked(demo, method, path, body, **headers)
            assert status == 403, (headers, path)
            assert not [name for name in sent if name.startswith("access-control")]
    for origin in ({}, {"Origin": f"http://{here}"}):
        status, _, sent = asked(demo, "GET", "/", **origin)
        assert status == 200
        assert sent["content-security-policy"].startswith("default-src 'self' ")
        assert sent["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in sent if name.startswith("access-control")]
    forwarded = asked(demo, "GET", "/", X_Forwarded_Host="evil.example", X_Forwarded_Proto="https")[1]
    assert b"evil.example" not in forwarded
    assert b"evil" not in asked(demo, "GET", "/?deep_link=evil&view=evil")[1]


@pytest.mark.slow
def test_a_request_that_drips_is_ended(demo: Server) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", demo.port), timeout=60) as line:
        line.sendall(b"GET / HTTP/1.1\r\nX: ")
        line.settimeout(1)
        ended = False
        while not ended and time.monotonic() - began < 55:
            try:
                ended = not line.recv(4096)
                line.sendall(b"x")
            except TimeoutError:
                line.sendall(b"x")
            except ConnectionError:
                ended = True
    assert ended


def test_who_asks_while_a_stream_ends_hears_of_it_after_hanging_up(demo: Server) -> None:
    """Gradio's page waits for ever for an answer that it hears of before it has read that its stream has ended."""
    number, session = routes(demo), "endsnow"
    body = {"session_hash": session, "fn_index": number, "data": ["moebench-nano", "one text", "words", ""]}
    assert asked(demo, "POST", JOIN, body)[0] == 200
    stream = HTTPConnection("127.0.0.1", demo.port, timeout=60)
    stream.request("GET", f"{DATA}?session_hash={session}")
    answer = stream.getresponse()
    while b"close_stream" not in answer.readline():
        pass
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(asked, demo, "POST", JOIN, body)
        with pytest.raises(TimeoutError):
            second.result(0.5)
        answer.close()
        stream.close()
        assert second.result(60)[0] == 200
    assert shown(demo, session, number, "again") != ""
