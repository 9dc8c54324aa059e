"""The statistics, audited on simulated routing whose truth is known exactly: a table for docs/uncertainty.md.

python benchmarks/audit.py [--part coverage domains independence counts findings needed thirds
    loss overlap vocabulary answers seeds] [--quick] [--sets 1000]
    [--output results/audit.json] [--docs docs/uncertainty.md]

Every cell is kept in the output as soon as it is done, and is not done again. ``--quick`` does a few small cells with
few sets, which says whether something broke and nothing more. With ``--docs`` the tables are written there, between
the lines that mark them, from all cells that the output holds; no cell is then needed to run.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import audit_cells
import audit_tables
import audit_tables_tokens

Cell = tuple[str, Callable[[int, int], dict[str, Any]]]

QUICK_SETS = 40
QUICK_CELLS = 3


def cells(part: str, quick: bool) -> list[Cell]:
    """(name, what measures it) of a part, in an order that makes an unfinished audit a fair sample of the whole one."""
    populations: dict[str, list[Cell]] = {}
    for cell in audit_cells.PARTS[part]():
        populations.setdefault(cell[0].rsplit(", ", 1)[0], []).append(cell)
    order = list(populations.values())
    random.Random(part).shuffle(order)
    return [group[0] for group in order[:QUICK_CELLS]] if quick else [cell for group in order for cell in group]


def run(parts: list[str], sets: int, seed: int, quick: bool, output: Path) -> dict[str, Any]:
    """Measure what the output lacks."""
    results: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    for part in parts:
        done = results.setdefault(part, {})
        for name, measure in cells(part, quick):
            if name in done and done[name]["sets"] >= sets:
                continue
            start = time.perf_counter()
            done[name] = {"sets": sets, "seed": seed, **measure(sets, seed)}
            aside = output.with_suffix(".part")
            aside.write_text(json.dumps(results, indent=1) + "\n")
            aside.replace(output)
            print(f"{part}: {name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=audit_cells.PARTS, nargs="*", default=list(audit_cells.PARTS))
    parser.add_argument("--sets", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results" / "audit.json")
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sets = args.sets or (QUICK_SETS if args.quick else 1000)
    results = run(args.part, sets, args.seed, args.quick, args.output)
    tables = audit_tables.tables(results) | audit_tables_tokens.tables(results)
    if args.docs:
        audit_tables.write(args.docs, tables)
    else:
        print("\n\n".join(tables.values()))


if __name__ == "__main__":
    main()
