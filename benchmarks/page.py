"""Seconds to make the page of a report, and its bytes: of the embedded model, and of 48 routers x 128 experts, 5
domains.

python benchmarks/page.py [--rounds 5] [--quick] [--json PATH]

The stats pairs are on disk, with their intervals; what is timed reads them and builds the page in one process. The
large ones are made up, with loads as uneven as real ones. --quick takes 4 routers x 64 experts instead.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from _bench import ROOT, Results, arguments, in_turn, parsed, timed

sys.path.insert(0, str(ROOT / "tests"))
from page_inputs import NANO, uneven_stats

from mlx_moebench.routing import Plan
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page import build_page

DOMAINS = 5


def write_large(folder: Path, layers: int, experts: int) -> list[str]:
    """Stats pairs of as many domains as there are, of made-up counts."""
    paths = []
    for letter in "abcde"[:DOMAINS]:
        path = folder / f"{letter}.json"
        uneven_stats(f"domain {letter}", letter * 64, layers, experts).save(path, Plan(resamples=100))
        paths.append(str(path))
    return paths


def main() -> None:
    args = parsed(arguments(__doc__, rounds=5))
    results = Results("page", args.quick)
    layers, experts = (4, 64) if args.quick else (48, 128)
    with tempfile.TemporaryDirectory() as folder:
        inputs = {
            "moebench-nano, 3 domains": NANO,
            f"{layers} x {experts}, {DOMAINS} domains": write_large(Path(folder), layers, experts),
        }
        made: dict[str, str] = {}

        def make(name: str) -> None:
            made[name] = build_page(read_inputs(inputs[name]))

        times = in_turn({name: timed(partial(make, name)) for name in inputs}, args.rounds, "page")
    for name, page in made.items():
        results.spread(f"page of {name}", times[name], "s")
        results.figure(f"its size, {name}", len(page.encode()) / 1e6, "MB")
    results.finish(args.json)


if __name__ == "__main__":
    main()
