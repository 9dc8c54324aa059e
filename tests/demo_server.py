"""The demo of the embedded model in a process of its own, which says what it asks of a network."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SECONDS = 120
ADAPTER = "adapter<i>${1+1}{{x}}"

# Every address that the server's process connects to or asks the name of goes to a file.
SERVE = """
import signal, sys
log = open(sys.argv[1], "a", buffering=1)
def hook(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        print(arguments[1][0], file=log)
    elif event == "socket.getaddrinfo":
        print(arguments[0], file=log)
sys.addaudithook(hook)
# A shell starts what runs in the background deaf to Ctrl-C, and this test with it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from mlx_moebench.cli import main
main(["demo", *sys.argv[2:]])
"""


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(address, file with the addresses that the server asked) of a demo with an adapter, ended by Ctrl-C."""
    from mmlu_files import write_adapter

    folder = tmp_path_factory.mktemp("demo")
    adapter, asked = write_adapter(folder / ADAPTER), folder / "asked.txt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--port", str(port), "--no-browser", "--adapter-path", str(adapter), "--max-length", "64"]
    with (folder / "out.txt").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(asked), *arguments], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + SECONDS
        while "Serving at" not in (said := (folder / "out.txt").read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/", asked
    finally:
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(20)
        finally:
            process.kill()
    assert code == 128 + signal.SIGINT
    said = (folder / "out.txt").read_text().splitlines()
    assert said == [f"Serving at http://127.0.0.1:{port}/ (Ctrl-C ends it)", "Error: Stopped by Ctrl-C."]


def wait_for(page: Any, text: str) -> None:
    page.locator("#message", has_text=text).wait_for(timeout=20_000)
