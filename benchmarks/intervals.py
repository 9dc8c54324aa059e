"""Seconds and peak memory of every interval of a large model: 48 routers, 128 experts, 40 sequences, 10,000 resamples.

python benchmarks/intervals.py [--routers 48] [--experts 128] [--top-k 8] [--sequences 40] [--resamples 10000]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

from mlx_moebench.routing import Plan, Sums
from mlx_moebench.routing.intervals.measured import measured
from mlx_moebench.routing.tally import SCALARS


def random_sums(rng: np.random.Generator, tokens: np.ndarray, experts: int, top_k: int) -> Sums:
    """Sums of sequences of so many tokens with even routing."""
    sequences = len(tokens)
    even = np.full(experts, 1 / experts)
    counts, top1 = rng.multinomial(tokens * top_k, even), rng.multinomial(tokens, even)
    p_sum = rng.dirichlet(np.ones(experts), sequences) * tokens[:, None]
    scalars = rng.random((sequences, len(SCALARS))) * tokens[:, None]
    return Sums(experts, top_k, "softmax", tokens, counts, top1, p_sum, scalars)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("routers", 48), ("experts", 128), ("top-k", 8), ("sequences", 40), ("resamples", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    tokens = rng.integers(100, 256, args.sequences)
    routers = [random_sums(rng, tokens, args.experts, args.top_k) for _ in range(args.routers)]
    start = time.perf_counter()
    measured(routers, np.zeros(args.sequences), Plan(resamples=args.resamples))
    seconds = time.perf_counter() - start
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # ru_maxrss is in bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(f"{args.routers} routers x {args.experts} experts, {args.resamples} resamples of {args.sequences} sequences:")
    print(f"{seconds:.2f} s, peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
