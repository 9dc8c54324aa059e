"""What merging many stats pairs takes: peak memory and time of `mlx-moebench merge`, and of a tree of merges.

python benchmarks/merge.py [--pairs 10 100 1000] [--sequences 8] [--json results/benchmarks/merge.json]

The pairs are those of ``--shard i/n`` of the embedded model: its sums of the bundled maths prompts, again and again
under the rows that such a shard has. Each merge is a process of its own; its peak is VmHWM of /proc. "held" is the
memory that the result alone takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlx_moebench import RoutingStats
from mlx_moebench.measure import analyze
from mlx_moebench.options import Plan
from mlx_moebench.pair.storage import save_pair

SHA = "0" * 64
CHILD = """
import sys, time
from pathlib import Path
from mlx_moebench.cli import main
began = time.perf_counter()
main(["merge", *sys.argv[2:], "-o", sys.argv[1], "--quiet", "--resamples", "100"])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print("measured", int(peak.split()[1]) * 1024, time.perf_counter() - began, file=sys.stderr)
"""


def write_shards(folder: Path, pairs: int, sequences: int) -> list[Path]:
    """Pairs of shard 1/n to n/n, each with so many sequences, as one run of each would leave them."""
    source = analyze(None, "math", max_samples=sequences, max_length=64)
    ((_, facts),) = source.sources.items()
    rows = list(range(sequences))
    paths = []
    for shard in range(pairs):
        part = facts["parts"][0] | {"shard": f"{shard + 1}/{pairs}", "documents": sequences, "sequences": sequences}
        sources = {SHA: dict(facts) | {"documents": pairs * sequences, "parts": [part]}}
        stats = RoutingStats(source.specs, **source.facts() | {"sources": sources})
        clusters = [(SHA, shard + row * pairs) for row in rows]
        for number in range(len(source.specs)):
            stats.add_sums(number, clusters, source.sums(number), source.pairs(number))
        for number in range(len(source.specs) - 1):
            stats.add_transition(number, source.transition_counts(number))
        stats.texts = {cluster: 1 + cluster[1] for cluster in clusters}
        paths.append(save_pair(stats, folder / f"part{shard:04d}.json", Plan(resamples=100))[1])
    return paths


def merge(output: Path, paths: list[Path]) -> tuple[int, float]:
    """(peak bytes, seconds) of one merge in a process of its own."""
    command = [sys.executable, "-c", CHILD, str(output), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, peak, seconds = next(line for line in done.stderr.splitlines() if line.startswith("measured")).split()
    return int(peak), float(seconds)


def held(stats: RoutingStats) -> int:
    """Bytes of all sums of the result."""
    sums = [stats.sums(number) for number in range(len(stats.specs))]
    return sum(
        getattr(one, name).nbytes for one in sums for name in ("n_tokens", "counts", "top1_counts", "p_sum", "scalars")
    )


def tree(folder: Path, paths: list[Path], width: int) -> tuple[Path, int, float]:
    """(the last pair, the largest peak, all seconds) of merging ``width`` at a time, until one is left."""
    peak, seconds, level = 0, 0.0, 0
    while len(paths) > 1:
        groups = [paths[first : first + width] for first in range(0, len(paths), width)]
        paths = []
        for number, group in enumerate(groups):
            output = folder / f"level{level}-{number}.json"
            one, took = merge(output, group)
            peak, seconds = max(peak, one), seconds + took
            paths.append(output)
        level += 1
    return paths[0], peak, seconds


def same(a: RoutingStats, b: RoutingStats) -> bool:
    """Whether two have the same sums, bit for bit."""
    return a.clusters == b.clusters and all(
        np.array_equal(getattr(a.sums(n), name), getattr(b.sums(n), name), equal_nan=True)
        for n in range(len(a.specs))
        for name in ("n_tokens", "counts", "top1_counts", "p_sum", "scalars")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--width", type=int, default=100, help="pairs of one merge of the tree")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("| pairs | sequences | flat: peak, MiB | s | held, MiB | tree: peak, MiB | s | same |", flush=True)
    print("|---|---|---|---|---|---|---|---|")
    for pairs in options.pairs:
        with tempfile.TemporaryDirectory() as aside:
            began = time.perf_counter()
            paths = write_shards(Path(aside), pairs, options.sequences)
            print(f"{pairs} pairs written in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            peak, seconds = merge(Path(aside, "flat.json"), paths)
            top, tree_peak, tree_seconds = tree(Path(aside), paths, options.width)
            flat, treed = RoutingStats.load(Path(aside, "flat.json")), RoutingStats.load(top)
            rows.append({
                "pairs": pairs, "sequences": len(flat.clusters), "flat_peak_bytes": peak, "flat_seconds": seconds,
                "held_bytes": held(flat), "tree_width": options.width, "tree_peak_bytes": tree_peak,
                "tree_seconds": tree_seconds, "same_sums": same(flat, treed),
            })  # fmt: skip
        row = rows[-1]
        cells = [pairs, row["sequences"], f"{peak / 2**20:.0f}", f"{seconds:.1f}", f"{row['held_bytes'] / 2**20:.1f}"]
        cells += [f"{tree_peak / 2**20:.0f}", f"{tree_seconds:.1f}", "yes" if row["same_sums"] else "NO"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
