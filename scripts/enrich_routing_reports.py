"""Add or renew the intervals in stats files: every report is made again from the sums beside it.

    python scripts/enrich_routing_reports.py                        # results/routing_stats_*.json
    python scripts/enrich_routing_reports.py olmoe.json --ci percentile --resamples 10000

Values do not change, since the sums do not. A report whose .safetensors half is missing is named and left as it is, and
the exit status is 1: intervals come from the sums.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from leaderboard import plan_of, rebuilt

from mlx_moebench.errors import MoebenchError
from mlx_moebench.pair.storage import pair_paths, read_report

PAIRS = "routing_stats_*.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "stats", nargs="*", type=Path, metavar="STATS", help="either file of a stats pair [those in results/]"
    )
    parser.add_argument("--ci", choices=["bca", "percentile", "layer"], help="interval of means [as the report has it]")
    parser.add_argument("--resamples", type=int, help="bootstrap resamples [as the report has it]")
    parser.add_argument("--seed", type=int, help="seed of the bootstrap [as the report has it]")
    parser.add_argument("--level", type=float, help="level of the intervals [as the report has it]")
    args = parser.parse_args()
    wanted = {"method": args.ci, "resamples": args.resamples, "seed": args.seed, "level": args.level}
    changes = {key: value for key, value in wanted.items() if value is not None}
    failed = False
    stats = args.stats or sorted(Path("results").glob(PAIRS))
    if not stats:
        sys.exit(f"Error: There is no {PAIRS} in results/: name the stats files.")
    for path in dict.fromkeys(pair_paths(path)[0] for path in stats):
        try:
            plan = replace(plan_of(read_report(path, verify=False)), **changes)
            rebuilt(path, plan)
        except MoebenchError as error:
            missing = "" if pair_paths(path)[1].exists() else " Intervals need the sums."
            print(f"Error: {error}{missing}", file=sys.stderr)
            failed = True
            continue
        print(f"{path}: {plan.method}, {plan.resamples:,} resamples, seed {plan.seed}, level {plan.level:g}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
