"""Servers in processes of their own, and what they are asked over real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
SECONDS = 120

OURS = "from mlx_moebench.cli import main\nmain(['serve', *sys.argv[1:]])"
DEMO = "from mlx_moebench.cli import main\nmain(['demo', '--no-browser', *sys.argv[1:]])"
THEIRS = "from mlx_lm import server\nsys.argv[0] = 'server'\nserver.main()"

# What goes to the experts, counted by a second hand: around mlx-lm's own classes, knowing nothing of the recorder.
# Token 0 stands at padding only.
COUNTER = """
import atexit, json, threading
import numpy as np
import mlx_lm.models.olmoe as olmoe
from mlx_lm.models.switch_layers import SwitchGLU
here, counts, run, experts = threading.local(), {}, olmoe.OlmoeModel.__call__, SwitchGLU.__call__
def noted(self, inputs, *args, **kwargs):
    here.ids, here.layer = np.array(inputs).ravel(), 0
    return run(self, inputs, *args, **kwargs)
def counted(self, x, indices, *args, **kwargs):
    chosen = np.array(indices).reshape(here.ids.size, -1)[here.ids != 0]
    counts[here.layer] = counts.get(here.layer, 0) + np.bincount(chosen.ravel(), minlength=16)
    here.layer += 1
    return experts(self, x, indices, *args, **kwargs)
olmoe.OlmoeModel.__call__, SwitchGLU.__call__ = noted, counted
atexit.register(lambda: open(COUNTED, "w").write(json.dumps([counts[n].tolist() for n in sorted(counts)])))
"""


def checkpoint(folder: Path, **settings: Any) -> Path:
    """moebench-nano in float32, which mlx-lm's server can run on a CPU."""
    from mlx_moebench.checkpoints.located import NANO

    import mlx.core as mx  # isort: skip

    folder.mkdir(parents=True)
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / file).write_bytes((NANO / file).read_bytes())
    weights = mx.load(str(NANO / "model.safetensors"))
    weights = {name: array.astype(mx.float32) for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    if settings:
        config = json.loads((folder / "config.json").read_text("utf-8")) | settings
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A running server: ask it, and end it."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def get(self, path: str, **headers: str) -> bytes:
        with urlopen(Request(f"http://127.0.0.1:{self.port}{path}", headers=headers), timeout=SECONDS) as answer:
            return bytes(answer.read())

    def routing(self, query: str = "") -> Any:
        return json.loads(self.get(f"/routing{query}"))

    def status(self, path: str, body: Any = None, **headers: str) -> int:
        data = None if body is None else json.dumps(body).encode()
        try:
            request = Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
            with urlopen(request, timeout=SECONDS) as answer:
                answer.read()
                return int(answer.status)
        except HTTPError as error:
            return error.code

    def complete(self, **body: Any) -> tuple[str, Any]:
        """(text, usage or, of a stream, why it ended) of a completion at temperature 0."""
        data = json.dumps({"temperature": 0, **body}).encode()
        with urlopen(Request(f"http://127.0.0.1:{self.port}/v1/completions", data), timeout=SECONDS) as answer:
            if not body.get("stream"):
                said = json.loads(answer.read())
                return said["choices"][0]["text"], said["usage"]
            lines = [line[6:] for line in answer if line.startswith(b"data: {")]
        choices = [json.loads(line)["choices"][0] for line in lines]
        return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(SECONDS)


@contextmanager
def serving(code: str, *arguments: str, cwd: Path) -> Iterator[Server]:
    """A server at a free port once its model is loaded; killed at the end if it still runs."""
    port = free_port()
    hears = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as from a terminal
    command = [sys.executable, "-c", hears + code]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLX_DISABLE_COMPILE": "1", "OPENBLAS_NUM_THREADS": "1"}
    log = cwd / f"log-{port}.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, *arguments, "--port", str(port)], stdout=out, stderr=subprocess.STDOUT, cwd=cwd, env=environment,
            text=True,
        )  # fmt: skip
    server = Server(process, port, log)
    try:
        _wait(server, "/" if code == DEMO else "/health")
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(SECONDS)


def _wait(server: Server, path: str) -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        assert server.process.poll() is None, server.log
        try:
            server.get(path)
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(server.log)


def refused(*arguments: str, cwd: Path) -> tuple[int, str]:
    """(exit status, stderr) of a server that does not start."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLX_DISABLE_COMPILE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mlx_moebench", "serve", *arguments], cwd=cwd, env=environment, timeout=SECONDS,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def counts(report: Any) -> list[list[int]]:
    """Selections by router and expert of a report."""
    return [router["selection_counts"] for router in report["routers"]]


def summed(*reports: Path) -> Any:
    """The same over several reports on disk."""
    import numpy as np

    return sum(np.array(counts(json.loads(path.read_text("utf-8")))) for path in reports if path.exists())


def until(condition: Any, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


__all__: Sequence[str] = (
    *("COUNTER", "DEMO", "OURS", "THEIRS", "Server", "checkpoint", "refused", "serving", "summed", "until"),
)
