"""Streaming against a model in memory: wall time and peak memory, and memory against the number of tokens.

    python benchmarks/streaming.py --model FOLDER --output results.json [--rounds 5] [--texts 8] [--length 128]
    python benchmarks/streaming.py --tokens --output results.json

Every run is a process of its own; the arms of a round follow one another, and ratios are of one round. FOLDER is one
that scripts/make_big_checkpoint.py wrote and that fits into memory. With --tokens the model in the package is streamed
over 10 thousand and 1 million tokens, with all hidden states on the disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

RUN = """
import json, sys, time
from pathlib import Path
import mlx_moebench
model, options = json.loads(sys.argv[1])
rows, length = options.pop("texts"), options["max_length"]
texts = [" ".join(str((row * 7919 + n * 31) % 9973) for n in range(length)) for row in range(rows)]
wall, cpu = time.perf_counter(), time.process_time()
stats = mlx_moebench.analyze(model, {"numbers": texts}, device="cpu", **options)
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
print(json.dumps({"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu, "peak_bytes": peak,
                  "tokens": stats.n_tokens}))
"""


def run(model: str | None, **options: Any) -> dict[str, float]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        options["output"] = str(Path(folder) / "out.json")
        command = [sys.executable, "-c", RUN, json.dumps([model, options])]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def against_memory(model: str, rounds: int, texts: int, length: int) -> dict[str, Any]:
    """Rounds of both arms, and the quartiles of the ratios of their times."""
    every = []
    for number in range(rounds):
        arms = ("off", "on") if number % 2 else ("on", "off")
        every.append({arm: run(model, texts=texts, max_length=length, stream=arm) for arm in arms})
        print(every[-1], file=sys.stderr)
    ratios = [one["on"]["seconds"] / one["off"]["seconds"] for one in every]
    return {"rounds": every, "seconds_on_over_off": dict(zip(("25%", "50%", "75%"), quartiles(ratios), strict=True))}


def quartiles(values: list[float]) -> list[float]:
    return [float(value) for value in np.percentile(values, (25, 50, 75))]


def against_tokens() -> dict[str, Any]:
    """Peak memory of the embedded model, all hidden states on the disk."""
    sizes = {"10k": 40, "1M": 3907}
    runs = {
        name: run(None, texts=texts, max_length=256, batch_size=8, stream="on", stream_memory=0)
        for name, texts in sizes.items()
    }
    return runs | {"peak_1M_over_10k": runs["1M"]["peak_bytes"] / runs["10k"]["peak_bytes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model")
    parser.add_argument("--tokens", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    result = (
        against_tokens()
        if arguments.tokens
        else against_memory(arguments.model, arguments.rounds, arguments.texts, arguments.length)
    )
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "rounds"}, indent=1))


if __name__ == "__main__":
    main()
