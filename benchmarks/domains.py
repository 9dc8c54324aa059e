"""Verdicts and the permutation null on simulated domains, and what all domain statistics of a large model cost.

python benchmarks/domains.py --part verdicts    100 sets per scenario, effects of 1.25 and 2 half-widths
python benchmarks/domains.py --part null        rejections at 5% without an effect, of 5,000 sets
python benchmarks/domains.py --part coverage    of the intervals of a, b, r and MI, 1,000 sets per scenario
python benchmarks/domains.py --part speed       48 routers, 128 experts, 3 domains of 1,000 sequences each
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from domain_simulation import CASES, NULLS, coverage, effect_of, rejections, words
from intervals import random_sums
from scipy.stats import binom

from mlx_moebench import RoutingStats
from mlx_moebench.pair.profile import domain_report
from mlx_moebench.routing import Plan, RouterSpec


def verdicts() -> None:
    for case, right in CASES.items():
        for multiple in (1.25, 2.0):
            counts = words(case, multiple)
            print(
                f"{case}, {multiple} half-widths ({effect_of(case, multiple, 40):.3f}): {right} {counts[right]} of 100"
            )
            print(f"  all: {dict(counts)}", flush=True)


def null(sets: int = 5000) -> None:
    low, high = binom.interval(0.99, sets, 0.05)
    print(f"99% of tests at exactly 5% reject {low / sets:.2%} to {high / sets:.2%} of {sets:,} sets")
    for name in NULLS:
        print(f"{name}: {rejections(name, sets) / sets:.2%}", flush=True)


def covered() -> None:
    for case, effect in (("specialised", 0.15), ("balanced", 0.1), ("collapsed (a)", 0.1), ("collapsed (r)", 0.02)):
        for sequences in (20, 40):
            shares = coverage(case, effect, sequences, 1000)
            print(f"{case}, {sequences} per domain:", {k: f"{v:.1%}" for k, v in shares.items()}, flush=True)


def speed(routers: int = 48, experts: int = 128, sequences: int = 1000, domains: int = 3) -> None:
    """The report of each domain, as its stats pair has it, and what lies between the domains."""
    rng = np.random.default_rng(0)
    specs = [RouterSpec(i, i, "mlp", experts, 8) for i in range(routers)]
    names = [f"domain{d}" for d in range(domains)]
    merged = RoutingStats(specs, sources={name: {"name": name} for name in names})
    tokens = rng.integers(100, 256, sequences * domains)
    clusters = [(name, row) for name in names for row in range(sequences)]
    for number in range(routers):
        merged.add_sums(number, clusters, random_sums(rng, tokens, experts, 8), np.zeros((experts, experts)))
    peak_before = peak()
    start = time.perf_counter()
    reports = {name: part.report(Plan()) for name, part in merged.by_domain().items()}
    middle = time.perf_counter()
    domain_report(merged, reports, Plan())
    end = time.perf_counter()
    print(f"{routers} routers x {experts} experts, {domains} domains of {sequences} sequences, 2,000 resamples:")
    print(
        f"every metric of every domain {middle - start:.1f} s, between domains {end - middle:.1f} s (999 permutations)"
    )
    print(f"peak memory {peak():.0f} MiB, of which the data {peak_before:.0f} MiB")


def peak() -> float:
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # ru_maxrss is in bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"verdicts": verdicts, "null": null, "coverage": covered, "speed": speed}
    parser.add_argument("--part", choices=parts, required=True)
    parts[parser.parse_args().part]()


if __name__ == "__main__":
    main()
