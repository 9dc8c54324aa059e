"""Coverage of the 95% intervals of differences on simulated routing, how often chance is called one, and speed.

python benchmarks/differences.py --part coverage [--samples 1000] [--sequences 40 100] [--cases ...] [--seed 0]
python benchmarks/differences.py --part halves [--samples 200] [--seed 0]
python benchmarks/differences.py --part speed [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from comparison_simulation import CASES, halves, measure, populations
from intervals import random_sums

from mlx_moebench.routing import METRICS, Plan
from mlx_moebench.routing.comparison.differences import differences
from mlx_moebench.routing.comparison.resampling import Samples

SIMULATED = ["mean_entropy", "top_share_token", "load_entropy", "n_eff", "gini", "cv", "token_information"]


def coverage(cases: list[str], samples: int, sequences: list[int], seed: int) -> None:
    """A line per case, design and number of sequences: lowest and highest layer / mean over layers (/ peak)."""
    print("| A, B | design | n | " + " | ".join(SIMULATED) + " |\n|" + "---|" * (3 + len(SIMULATED)))
    for case in cases:
        sides = populations(case)
        for paired in (True, False):
            for n in sequences:
                coverages, _ = measure(sides, SIMULATED, paired, n, samples, seed)
                cells = []
                for name in SIMULATED:
                    inside = {where: 100 * c.inside for (metric, where), c in coverages.items() if metric == name}
                    joint = [inside.pop(where) for where in ("mean", "peak") if where in inside]
                    cells.append(
                        f"{min(inside.values()):.1f}-{max(inside.values()):.1f}" + "".join(f" / {x:.1f}" for x in joint)
                    )
                print(f"| {case} | {'paired' if paired else 'unpaired'} | {n} | {' | '.join(cells)} |", flush=True)


def null(samples: int, seed: int) -> None:
    """Random halves of the bundled maths prompts, as the embedded model routes them."""
    from mlx_moebench import analyze

    names = [name for name, metric in METRICS.items() if metric.interval != "none"]
    rates = halves(analyze(None, "math"), samples, names, seed=seed)
    print("| metric | mean over layers | a layer |\n|---|---|---|")
    for name in [*names, "load_l1", "load_jsd"]:
        print(f"| {name} | {f'{rates[name]:.1%}' if name in rates else ''} | {rates[f'{name}, a layer']:.1%} |")


def speed(seed: int) -> None:
    """Seconds of this process for every metric of 48 routers x 128 experts x 40 sequences a side, 2,000 resamples."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(100, 256, 40)
    sides = [[random_sums(rng, tokens, 128, 8) for _ in range(48)] for _ in range(2)]
    for paired in (True, False):
        start = time.process_time()
        differences(*sides, Samples(["x"] * 40, ["x"] * 40, paired), Plan())
        print(f"{'paired' if paired else 'unpaired'}: {time.process_time() - start:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["coverage", "halves", "speed"], required=True)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--sequences", type=int, nargs="+", default=[40, 100])
    parser.add_argument("--cases", choices=list(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.part == "coverage":
        coverage(args.cases, args.samples or 1000, args.sequences, args.seed)
    elif args.part == "speed":
        speed(args.seed)
    else:
        null(args.samples or 200, args.seed)


if __name__ == "__main__":
    main()
