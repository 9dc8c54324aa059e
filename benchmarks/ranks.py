"""Two local ranks against one process: seconds of the same measurement, one after the other in turn.

python benchmarks/ranks.py [--rounds 5] [--samples 104] [--length 256] [--quick] [--json PATH]

Arms: one process with one BLAS thread, one with two, and two ranks of mlx.launch with one thread each. Every arm is a
whole run of ``analyze`` of the embedded model, start included ("whole"); "measuring" leaves out what a run of two
documents takes in the same arm, which is nearly all start. Counts of all arms are compared, and the script ends with an
error where they are not the same.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _bench import Results, arguments, environment_of_children, in_turn, parsed

from mlx_moebench import RoutingStats

ARMS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 ranks, 1 thread each": (2, 1)}
START = 2
"""Documents of a run that is nearly all start."""


def free_port() -> str:
    """A port that nothing listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def run(ranks: int, threads: int, output: Path, samples: int, length: int) -> float:
    """Seconds of one run of analyze, which replaces ``output``."""
    command = [sys.executable, "-m", "mlx_moebench", "analyze", "--max-samples", str(samples), "--max-length"]
    command += [str(length), "--device", "cpu", "--resamples", "100", "--quiet", "--output", str(output)]
    if ranks > 1:
        launcher = str(Path(sys.executable).with_name("mlx.launch"))
        place = ["--starting-port", free_port()]
        command = [launcher, "-n", str(ranks), "--backend", "ring", *place, "--", *command]
    output.unlink(missing_ok=True)
    environment = environment_of_children(threads)
    began = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    taken = time.perf_counter() - began
    if not output.exists():  # mlx.launch exits with 0 whatever becomes of its ranks
        raise SystemExit(f"{' '.join(command)} wrote nothing")
    return taken


def counts(path: Path) -> list[Any]:
    """Selections of every expert in every sequence, of every router."""
    stats = RoutingStats.load(path)
    return [stats.sums(number).counts for number in range(len(stats.specs))]


def check_equal(outputs: list[Path]) -> None:
    """End the script where two runs counted otherwise."""
    first, *others = (counts(path) for path in outputs)
    for other, path in zip(others, outputs[1:], strict=True):
        if not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True)):
            raise SystemExit(f"{path.stem} and {outputs[0].stem} counted otherwise.")


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--samples", type=int, default=104)
    parser.add_argument("--length", type=int, default=256)
    args = parsed(parser)
    samples, length = (8, 16) if args.quick else (args.samples, args.length)
    with tempfile.TemporaryDirectory() as aside:
        outputs = {name: Path(aside, f"{name.replace(' ', '-').replace(',', '')}.json") for name in ARMS}
        arms = {name: partial(run, *ARMS[name], outputs[name], samples, length) for name in ARMS}
        start = Path(aside, "start.json")
        starts = {f"{name}, start": partial(run, *ARMS[name], start, START, length) for name in ARMS}
        times = in_turn(arms | starts, args.rounds, "ranks")
        check_equal(list(outputs.values()))
    results = Results("ranks", args.quick)
    *ones, two = ARMS
    measuring = {name: np.subtract(times[name], times[f"{name}, start"]) for name in ARMS}
    for one in ones:
        results.ratio(f"{two}, whole", one, times[two], times[one])
        if min(measuring[one].min(), measuring[two].min()) > 0:  # a quick run is all start
            results.ratio(f"{two}, measuring", one, measuring[two].tolist(), measuring[one].tolist())
    results.note(
        f"{samples} documents of at most {length} tokens; all arms gave the same counts of every sequence. "
        f"{os.cpu_count()} cores."
    )
    results.finish(args.json)


if __name__ == "__main__":
    main()
