"""Throughput of ``mlx-moebench serve`` over that of mlx-lm's server, and with ``--last-tokens`` over without.

python benchmarks/serve.py [--rounds 10] [--part width nano] [--rows 8] [--tokens 48] [--quick] [--json PATH]

Three servers run side by side, one of each kind, with the same checkpoint: ``width``, two layers of OLMoE's real widths
with random float32 weights (4 GB for each server), or ``nano``, the embedded model. A round sends ``--rows`` requests
at once to one of them and waits for all; rounds alternate between them, and so does which goes first. Prompts are
new in every pair, so that no prompt cache helps. Read the ratio, not the rates. The answers are compared, too.

After the rounds of a model it says, from a run of its own, which share of the processor time of the thread that
generates (which builds what other threads compute) each part of the recorder takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
from _bench import Results, arguments, in_turn, parsed
from _models import WIDE, random_model

from mlx_moebench.checkpoints.located import NANO
from mlx_moebench.models import select_device

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first
from mlx.utils import tree_flatten  # isort: skip

KEPT = 64
"""Of ``--last-tokens``: the tokens of each request whose choices are kept for the live page."""

OURS = "from mlx_moebench.cli import main\nmain(['serve', '--output', sys.argv.pop(1), *sys.argv[1:]])"
KEEPING = OURS.replace("'serve',", f"'serve', '--last-tokens', '{KEPT}',")
THEIRS = "sys.argv.pop(1)\nfrom mlx_lm import server\nserver.main()"
PROFILED = """
import atexit, json, time
from mlx_moebench.instrument.live import LiveRoutingStats as Live
from mlx_moebench.routing.recorder import Recorder
spent = {}
def timed(kind, name, label):
    method = getattr(kind, name)
    def measured(self, *args, **kwargs):
        start = time.thread_time()
        try:
            return method(self, *args, **kwargs)
        finally:
            spent[label] = spent.get(label, 0) + time.thread_time() - start
    setattr(kind, name, measured)
timed(Recorder, "record", "hearing")
timed(Live, "evaluate", "scheduling, which the model alone does later")
timed(Recorder, "_tally_steps", "tallying and adding up")
timed(Recorder, "end", "all at the end of a forward")
from mlx_lm.generate import BatchGenerator
timed(BatchGenerator, "_next", "generation")
atexit.register(lambda: open("profile.json", "w").write(json.dumps(spent)))
"""


def write_checkpoint(folder: Path, part: str) -> Path:
    """A float32 checkpoint that mlx-lm's server runs on any device."""
    folder.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (folder / file).write_bytes((NANO / file).read_bytes())
    if part == "width":
        (folder / "config.json").write_text(json.dumps(WIDE.config), encoding="utf-8")
        weights = dict(tree_flatten(random_model(WIDE).parameters()))
    else:
        loaded = mx.load(str(NANO / "model.safetensors"))
        weights = {name: array.astype(mx.float32) for name, array in loaded.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder


class Server:
    """A server in a process of its own."""

    def __init__(self, code: str, model: Path, folder: Path, name: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        hears = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        command = [sys.executable, "-c", hears + code, f"{name}.json", "--model", str(model), "--port", str(self.port)]
        paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        with (folder / f"{name}.log").open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": paths}
            )
        while True:
            try:
                urlopen(f"http://127.0.0.1:{self.port}/health", timeout=10).read()
                break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit((folder / f"{name}.log").read_text("utf-8")) from None
                time.sleep(0.2)

    def complete(self, prompt: str, tokens: int) -> tuple[str, int]:
        body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0}).encode()
        with urlopen(Request(f"http://127.0.0.1:{self.port}/v1/completions", body), timeout=600) as answer:
            said = json.loads(answer.read())
        return said["choices"][0]["text"], said["usage"]["completion_tokens"]

    def round(self, prompts: list[str], tokens: int) -> tuple[list[str], float]:
        """(the answers, generated tokens a second) of all prompts at once."""
        start = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            made = list(pool.map(lambda prompt: self.complete(prompt, tokens), prompts))
        return [text for text, _ in made], sum(n for _, n in made) / (time.perf_counter() - start)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)


def prompts(pair: int, rows: int) -> list[str]:
    """Some words, others in every pair."""
    words = ("a", "farmer", "has", "apples", "and", "gives", "the", "teacher", "two", "students", "half", "of", "all")
    rng = np.random.default_rng(pair)
    return [" ".join(rng.choice(words, 12)) for _ in range(rows)]


def compare(part: str, model: Path, folder: Path, args: argparse.Namespace, results: Results) -> None:
    """Add the ratios of the rates, after one round that warms up."""
    kinds = {"mlx-lm": THEIRS, "serve": OURS, "keeping": KEEPING}
    servers = {name: Server(code, model, folder, f"{part}-{name}") for name, code in kinds.items()}
    answers: dict[str, list[list[str]]] = {name: [] for name in servers}

    def arm(name: str) -> Callable[[], float]:
        numbers = itertools.count()  # each arm runs once a round, so both get the same prompts

        def once() -> float:
            texts, rate = servers[name].round(prompts(next(numbers), args.rows), args.tokens)
            answers[name].append(texts)
            return rate

        return once

    rates = in_turn({name: arm(name) for name in servers}, args.rounds, part)
    for server in servers.values():
        server.end()
    what = f"{part}, {args.rows} requests at once of {args.tokens} tokens"
    results.ratio(f"serve, {what}", "mlx-lm's server", rates["serve"], rates["mlx-lm"], "tokens/s, more is faster")
    results.ratio(
        f"serve --last-tokens {KEPT}, {what}", "serve", rates["keeping"], rates["serve"], "tokens/s, more is faster"
    )
    same = sum(ours == theirs == kept for theirs, ours, kept in zip(*answers.values(), strict=True))
    results.note(f"{part}: the same answers in {same} of {args.rounds + 1} rounds.")


def profile(part: str, model: Path, folder: Path, args: argparse.Namespace, results: Results) -> None:
    """Add which share of the time of steps each part of the recorder took."""
    server = Server(PROFILED + OURS, model, folder, f"{part}-profile")
    for pair in range(3):
        server.round(prompts(1000 + pair, args.rows), args.tokens)
    server.end()
    spent = json.loads((folder / "profile.json").read_text("utf-8"))
    whole = spent.pop("generation")
    shares = "; ".join(f"{k} {100 * v / whole:.1f}%" for k, v in spent.items())
    results.note(f"{part}, of {whole:.2f} s of processor time of the generating thread: {shares}.")


def main() -> None:
    parser = arguments(__doc__, rounds=10, quick_rounds=1)
    parser.add_argument("--rows", type=int, default=8, help="requests at once")
    parser.add_argument("--tokens", type=int, default=48, help="that each request generates")
    parser.add_argument("--part", nargs="+", choices=("width", "nano"), default=["width", "nano"])
    args = parsed(parser)
    if args.quick:
        args.rows, args.tokens, args.part = 2, 4, ["nano"]
    select_device("auto")
    results = Results("serve", args.quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in args.part:
            model = write_checkpoint(folder / part, part)
            compare(part, model, folder, args, results)
            profile(part, model, folder, args, results)
    results.finish(args.json)


if __name__ == "__main__":
    main()
