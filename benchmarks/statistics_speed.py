"""Seconds and peak memory of everything that is said of a large model on several domains.

python benchmarks/statistics_speed.py [--routers 48] [--experts 128] [--top-k 8] [--sequences 1000] [--domains 3]
    [--resamples 2000] [--quick] [--json PATH]

Of each domain and router every metric, corrected, with its interval, the busiest expert and the bands of all; the means
over routers; and between the domains their information, divergences, test and findings. Once, for it takes long.
"""

from __future__ import annotations

import time

import numpy as np
from _bench import Results, arguments, parsed, peak_mib
from intervals import random_sums

from mlx_moebench.routing import Plan, Sums
from mlx_moebench.routing.domains.estimates import domain_estimates
from mlx_moebench.routing.domains.findings import count_words, findings
from mlx_moebench.routing.intervals.bands import Estimates, maximum, share_bands, together
from mlx_moebench.routing.intervals.halves import Halves, random_halves, ratios
from mlx_moebench.routing.intervals.routers import RouterMetrics, over_routers


def of_a_domain(routers: list[Sums], halves: Halves) -> int:
    """How many numbers with intervals were made."""
    shown, shares = [], []
    for sums in routers:
        shown.append(RouterMetrics(sums, halves))
        shares.append(Estimates.of(ratios(sums.counts, sums.n_tokens, halves)))
    made = sum(len(one.metrics()) for one in shown)
    for each in shares:
        maximum(each)
        share_bands(each)
    maximum(together(shares))
    return made + sum(over_routers(shown, name) is not None for name in shown[0].names)


def main() -> None:
    parser = arguments(__doc__, rounds=1, quick_rounds=1)
    usual = {"routers": 48, "experts": 128, "top-k": 8, "sequences": 1000, "domains": 3, "resamples": 2000}
    quick = {"routers": 4, "experts": 16, "top-k": 2, "sequences": 40, "domains": 2, "resamples": 200}
    for name, default in usual.items():
        parser.add_argument(f"--{name}", type=int, help=f"by default {default}")
    args = parsed(parser)
    for name, value in (quick if args.quick else usual).items():
        field = name.replace("-", "_")
        setattr(args, field, getattr(args, field) or value)
    rng = np.random.default_rng(0)
    tokens = rng.integers(100, 256, args.sequences * args.domains)
    labels = np.repeat([f"domain{d}" for d in range(args.domains)], args.sequences)
    routers = [random_sums(rng, tokens, args.experts, args.top_k) for _ in range(args.routers)]
    data = peak_mib()
    start = time.perf_counter()
    made = 0
    for d in range(args.domains):
        halves = random_halves(np.zeros(args.sequences), args.resamples, d)
        rows = np.flatnonzero(labels == f"domain{d}").tolist()
        made += of_a_domain([sums.take(rows) for sums in routers], halves)
    middle = time.perf_counter()
    every = [findings(one) for one in domain_estimates(routers, labels, Plan(resamples=args.resamples))]
    end = time.perf_counter()
    words = {word: n for word, n in count_words(every).items() if n}
    results = Results("bootstrap", args.quick)
    results.figure(f"{made} metrics of every domain, with intervals", middle - start, "s")
    results.figure("between domains", end - middle, "s")
    results.figure("peak memory", peak_mib(), "MiB")
    results.figure("of which the sums of all sequences", data, "MiB")
    size = f"{args.routers} routers x {args.experts} experts, {args.domains} domains of {args.sequences:,} sequences"
    results.note(f"{size}, {args.resamples:,} random halves; findings: {words}.")
    results.finish(args.json)


if __name__ == "__main__":
    main()
