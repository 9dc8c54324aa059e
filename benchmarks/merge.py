"""What merging many stats pairs takes: peak memory and time of `mlx-moebench merge`, and of a tree of merges.

python benchmarks/merge.py [--pairs 10 60 1000] [--sequences 8] [--width 100] [--quick] [--json PATH]

The pairs are those of ``--shard i/n`` of the embedded model: its sums of the bundled maths prompts, again and again
under the rows that such a shard has. Each merge is a process of its own. "held" is the memory that the sums of the
result alone take. The script ends with an error where the tree's sums are not those of the single merge, bit by bit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from _bench import Results, arguments, parsed, peak_mib, run_child, say

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main as command
from mlx_moebench.options import Plan
from mlx_moebench.pair.storage import save_pair
from mlx_moebench.routing.sums import FIELDS

SHA = "0" * 64


def write_shards(folder: Path, pairs: int, sequences: int) -> list[Path]:
    """Pairs of shard 1/n to n/n, each with so many sequences, as one run of each would leave them."""
    from mlx_moebench.measure import analyze  # what merges needs none of it, and its memory is what counts

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


def merge_here(given: list[str]) -> None:
    """Merge in this process, the output first, and say (its peak in MiB, seconds)."""
    output, *paths = given
    began = time.perf_counter()
    command(["merge", *paths, "-o", output, "--quiet", "--resamples", "100"])
    print("\n" + json.dumps([peak_mib(), time.perf_counter() - began]))


def merge(output: Path, paths: list[Path]) -> tuple[float, float]:
    """(peak MiB, seconds) of one merge in a process of its own."""
    said = run_child([__file__, "--merge", str(output), *map(str, paths)])
    peak, seconds = json.loads(said.splitlines()[-1])
    return peak, seconds


def held_mib(stats: RoutingStats) -> float:
    """MiB of all sums of the result."""
    sums = [stats.sums(number) for number in range(len(stats.specs))]
    return float(sum(getattr(one, name).nbytes for one in sums for name in FIELDS) / 2**20)


def tree(folder: Path, paths: list[Path], width: int) -> tuple[Path, float, float]:
    """(the last pair, the largest peak, all seconds) of merging ``width`` at a time, until one is left."""
    peak, seconds, level = 0.0, 0.0, 0
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


def check_same(a: RoutingStats, b: RoutingStats) -> None:
    """End the script unless two have the same sums, bit for bit."""
    same = a.clusters == b.clusters and all(
        np.array_equal(getattr(a.sums(n), name), getattr(b.sums(n), name), equal_nan=True)
        for n in range(len(a.specs))
        for name in FIELDS
    )
    if not same:
        raise SystemExit("The tree of merges gave other sums than the single merge.")


def of_pairs(results: Results, pairs: int, sequences: int, width: int) -> None:
    """Add what merging so many pairs takes."""
    with tempfile.TemporaryDirectory() as aside:
        began = time.perf_counter()
        paths = write_shards(Path(aside), pairs, sequences)
        say(f"{pairs} pairs written in {time.perf_counter() - began:.0f} s")
        peak, seconds = merge(Path(aside, "flat.json"), paths)
        top, tree_peak, tree_seconds = tree(Path(aside), paths, width)
        flat = RoutingStats.load(Path(aside, "flat.json"))
        check_same(flat, RoutingStats.load(top))
    what = f"{pairs:,} pairs, {len(flat.clusters):,} sequences"
    results.figure(f"{what}: one merge, peak", peak, "MiB")
    results.figure(f"{what}: of which the sums of the result", held_mib(flat), "MiB")
    results.figure(f"{what}: one merge", seconds, "s")
    results.figure(f"{what}: tree of {width} at a time, peak of a merge", tree_peak, "MiB")
    results.figure(f"{what}: tree of {width} at a time, all merges", tree_seconds, "s")


def main() -> None:
    parser = arguments(__doc__, rounds=1, quick_rounds=1)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10, 60, 1000])
    parser.add_argument("--sequences", type=int, default=8, help="of each pair")
    parser.add_argument("--width", type=int, default=100, help="pairs of one merge of the tree")
    parser.add_argument("--merge", nargs="+", help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.merge:
        merge_here(args.merge)
        return
    results = Results("merge", args.quick)
    for pairs in (4,) if args.quick else args.pairs:
        of_pairs(results, pairs, args.sequences, 2 if args.quick else args.width)
    results.note(
        f"Pairs of shards of moebench-nano, {args.sequences} sequences each; the tree's sums are those of the single "
        "merge, bit by bit."
    )
    results.finish(args.json)


if __name__ == "__main__":
    main()
