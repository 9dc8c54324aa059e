"""Coverage of the 95% intervals of a rank correlation on simulated tokens, beside that of ranking only once.

python benchmarks/rank_coverage.py [--samples 1000] [--sequences 20 40 100] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rank_simulation import CASES, coverage, population, pseudo_values, ranked_once

from mlx_moebench.routing.intervals.ranks import spearman


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--sequences", type=int, nargs="+", default=[20, 40, 100])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| relation | rho | sequences | pseudo-values | ranked once, percentile |\n|---|---|---|---|---|")
    for case in CASES:
        x, y, _ = population(case)
        for n in args.sequences:
            shares = [coverage(case, n, args.samples, method, args.seed) for method in (pseudo_values, ranked_once)]
            print(f"| {case} | {spearman(x, y)[0]:.3f} | {n} | {shares[0]:.1%} | {shares[1]:.1%} |", flush=True)


if __name__ == "__main__":
    main()
