"""Coverage of the 95% intervals on simulated routing: a table per case and number of sequences.

python benchmarks/coverage.py [--samples 2000] [--sequences 20 40 100] [--experts 16] [--top-k 2] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from coverage_simulation import CASES, measure, population

METRICS = ["mean_entropy", "top_share_token", "load_entropy", "n_eff", "gini", "token_information"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--sequences", type=int, nargs="+", default=[20, 40, 100])
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| case | sequences | metric | layers (lowest, highest) | mean or peak over layers |\n|---|---|---|---|---|")
    for case in CASES:
        layers = population(case, experts=args.experts, top_k=args.top_k)
        for n in args.sequences:
            coverages = measure(layers, METRICS, n, args.samples, seed=args.seed)
            for name in METRICS:
                inside = {where: c.inside for (metric, where), c in coverages.items() if metric == name}
                joint = inside.pop("mean", None) or inside.pop("peak")
                print(
                    f"| {case} | {n} | {name} | {min(inside.values()):.1%}, {max(inside.values()):.1%} | {joint:.1%} |"
                )


if __name__ == "__main__":
    main()
