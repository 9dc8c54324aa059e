"""What measuring costs: time of a forward with the routers tallied over one without, and memory against tokens.

python benchmarks/overhead.py [--pairs 20] [--tokens 1024] [--part width nano memory]

width: two layers of OLMoE's real widths with random float32 weights, which take 4 GB of memory.
nano: the embedded model. Both arms evaluate the logits; the measured one also evaluates every tally and adds it up,
as ``analyze`` does. Arms alternate in one process, and which goes first alternates too, so that whatever else the
machine does falls on both: read the ratio, not the times. "tallies" is the part of a measured forward that comes
after its logits, which a noisy machine disturbs less than the difference of two forwards.
memory: peak resident memory of a process that measures 10,000 or 100,000 tokens on the embedded model.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from mlx_moebench.data import batches, encode, pad_id, read_corpus
from mlx_moebench.environment import environment
from mlx_moebench.instrument import LiveRoutingStats
from mlx_moebench.models import load, select_device

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first

ROWS = 8
MANY = (10_000, 100_000)
OLMOE = {
    "model_type": "olmoe",
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": 4096,
}


def at_real_width() -> Any:
    """Two layers of OLMoE-1B-7B with random weights."""
    from mlx_lm.models.olmoe import Model, ModelArgs

    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(OLMOE))
    model.eval()
    mx.eval(model.parameters())
    return model


def plain(model: Any, ids: mx.array) -> float:
    """Seconds of a forward to its logits."""
    start = time.perf_counter()
    mx.eval(model(ids))
    return time.perf_counter() - start


def measured(model: Any, ids: mx.array) -> tuple[float, float]:
    """Seconds of a forward to its logits and its sums on the host, and what of that came after the logits."""
    with LiveRoutingStats(model) as stats:  # taps go on and off outside the clock
        start = time.perf_counter()
        with stats.batch(ids=range(ROWS)):
            mx.eval(model(ids))
            after_logits = time.perf_counter()
        end = time.perf_counter()
    return end - start, end - after_logits


def time_it(name: str, model: Any, pairs: int, tokens: int) -> None:
    """Print the ratio of measured to plain over ``pairs`` pairs, after one that warms up."""
    ids = mx.array(np.random.default_rng(0).integers(0, 4096, (ROWS, tokens // ROWS)))
    timed = []
    for n in range(pairs + 1):
        first = plain(model, ids) if n % 2 else None
        whole, tallies = measured(model, ids)
        timed.append((first or plain(model, ids), whole, tallies))
        print(f"{name}: pair {n} of {pairs}, {timed[-1][0]:.2f} and {whole:.2f} s", file=sys.stderr, flush=True)
    times = np.array(timed[1:])
    low, middle, high = np.percentile(times[:, 1] / times[:, 0], (25, 50, 75))
    cells = " | ".join(f"{1000 * seconds:.1f}" for seconds in np.median(times, axis=0))
    print(f"| {name} | {cells} | {middle:.4f} [{low:.4f}, {high:.4f}] |", flush=True)


def measure_tokens(tokens: int, clusters: str) -> None:
    """Measure ``tokens`` tokens of the bundled maths prompts, used again and again, and print the peak and clusters.

    clusters: ``many`` counts every use of a prompt as a sequence of its own; ``few`` adds it to the first use.
    """
    model, tokenizer = load()
    sequences = encode(read_corpus("math"), tokenizer, 256)
    left, start = tokens, itertools.count(step=len(sequences))
    stats = LiveRoutingStats(model)
    while left > 0:
        offset = next(start) if clusters == "many" else 0
        for batch in batches(sequences, 8, pad_id(tokenizer)):
            if left > 0:
                with stats.batch(mask=batch.mask, ids=[row + offset for row in batch.rows]):
                    model(mx.array(batch.ids))
                left -= int(batch.mask.sum())
    stats.close()
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # ru_maxrss is in bytes on macOS
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, len(stats.clusters))


def compare_memory(repeats: int = 3) -> None:
    """Print peak memory at both numbers of tokens, each the median of ``repeats`` fresh processes."""
    print("\n| sequences | tokens | sequences kept apart | peak memory, MiB | ratio |\n|---|---|---|---|---|")
    for clusters in ("few", "many"):
        first = None
        for tokens in MANY:
            command = [sys.executable, __file__, "--measure-tokens", str(tokens), "--clusters", clusters]
            peaks, counts = [], "0"
            for _ in range(repeats):
                words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                peaks.append(float(words[0]))
                counts = words[1]
            peak = float(np.median(peaks))
            first = first or peak
            print(f"| {clusters} | {tokens:,} | {counts} | {peak:.0f} | {peak / first:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=1024, help="of a forward, in 8 rows")
    parser.add_argument("--part", nargs="+", choices=("width", "nano", "memory"), default=["width", "nano", "memory"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--measure-tokens", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clusters", choices=("few", "many"), default="many", help=argparse.SUPPRESS)
    args = parser.parse_args()
    select_device(args.device)
    if args.measure_tokens:
        measure_tokens(args.measure_tokens, args.clusters)
        return
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    if {"width", "nano"} & set(args.part):
        columns = (f"{args.tokens:,} tokens", "plain, ms", "measured, ms", "tallies, ms", "ratio [quartiles]")
        print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    if "nano" in args.part:
        time_it("moebench-nano, 6 routers", load(dtype="float32")[0], args.pairs, args.tokens)
    if "width" in args.part:
        time_it("OLMoE's widths, 2 layers", at_real_width(), args.pairs, args.tokens)
    if "memory" in args.part:
        compare_memory()


if __name__ == "__main__":
    main()
