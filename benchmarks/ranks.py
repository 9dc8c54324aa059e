"""Two local ranks against one process: seconds of the same measurement, one after the other in turn.

python benchmarks/ranks.py [--rounds 5] [--samples 104] [--length 256] [--json results/benchmarks/ranks.json]

Arms: one process with one BLAS thread, one with two, and two ranks of mlx.launch with one thread each. Every arm is a
whole run of ``analyze`` of the embedded model, start included ("whole"); "measuring" leaves out what a run of two
documents takes in the same arm, which is nearly all start. Which arm goes first changes from round to round. Counts of
all arms are compared. Read the ratios: medians over rounds, with quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlx_moebench import RoutingStats

ARMS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 ranks, 1 thread each": (2, 1)}


def free_port() -> str:
    """A port that nothing listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def run(ranks: int, threads: int, output: Path, samples: int, length: int) -> float:
    """Seconds of one run of analyze."""
    command = [sys.executable, "-m", "mlx_moebench", "analyze", "--max-samples", str(samples), "--max-length"]
    command += [str(length), "--device", "cpu", "--resamples", "100", "--quiet", "--output", str(output)]
    if ranks > 1:
        launcher = str(Path(sys.executable).with_name("mlx.launch"))
        place = ["--starting-port", free_port()]
        command = [launcher, "-n", str(ranks), "--backend", "ring", *place, "--", *command]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
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


def quartiles(values: Any) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [round(float(value), 4) for value in np.percentile(values, (25, 50, 75))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=104)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = list(ARMS)
    whole: dict[str, list[float]] = {name: [] for name in names}
    start: dict[str, list[float]] = {name: [] for name in names}
    same = True
    with tempfile.TemporaryDirectory() as aside:
        for turn in range(options.rounds):
            found = []
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                output = Path(aside, f"{turn}-{names.index(name)}.json")
                start[name].append(run(*ARMS[name], output.with_stem(f"start-{output.stem}"), 2, options.length))
                whole[name].append(run(*ARMS[name], output, options.samples, options.length))
                found.append(counts(output))
                print(
                    f"{turn} {name}: {whole[name][-1]:.1f} s, start {start[name][-1]:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
            same &= all(np.array_equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    rows = []
    for name in names[:2]:
        one, two = np.array(whole[name]), np.array(whole[names[2]])
        less_one, less_two = one - np.array(start[name]), two - np.array(start[names[2]])
        rows.append({
            "two_ranks_against": name, "rounds": options.rounds, "counts_equal": bool(same),
            "whole_speedup": quartiles(one / two), "measuring_speedup": quartiles(less_one / less_two),
            "seconds": [round(float(np.median(one)), 2), round(float(np.median(two)), 2)],
            "load_average": os.getloadavg()[0],
        })  # fmt: skip
    print("| two ranks against | rounds | s, one and two | whole [quartiles] | measuring [quartiles] | counts equal |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        spans = [
            f"{m:.2f} [{low:.2f}, {high:.2f}]" for low, m, high in (row["whole_speedup"], row["measuring_speedup"])
        ]
        seconds = " and ".join(f"{s:.1f}" for s in row["seconds"])
        answer = "yes" if row["counts_equal"] else "NO"
        print(f"| {row['two_ranks_against']} | {row['rounds']} | {seconds} | {' | '.join(spans)} | {answer} |")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
