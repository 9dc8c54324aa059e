"""What hearing every expert costs: time of `experts` on texts over that of a plain forward of the same tokens.

python benchmarks/experts.py [--rounds 20] [--tokens 1024] [--part nano small] [--clock cpu] [--quick] [--json PATH]

nano: the embedded model. small: the OLMoE-shaped model that peers are compared on, with 64 experts of which 8 run. Both
arms run every block; the plain one evaluates the logits, the other one reads what the chosen experts returned, adds it
up and leaves the output head out, as nobody reads that; against the body alone, without it, both do the same blocks.
"Last tokens" counts one position of each sequence. Arms alternate in one process: read the ratio, not the times;
--clock cpu tells how long processors were busy, which other programs disturb less.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
from _bench import CLOCKS, Results, arguments, in_turn, parsed, timed
from overhead import LOADED, ROWS

from mlx_moebench.analysis.contributed import contributed
from mlx_moebench.analysis.expert_texts import Texts
from mlx_moebench.checkpoints import LoadedModel
from mlx_moebench.data import Sequence
from mlx_moebench.instrument.cpu_path import use_cpu_path
from mlx_moebench.models import load, select_device
from mlx_moebench.routing.repeats import units_of

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first


def texts_of(ids: np.ndarray, first: int) -> Texts:
    """Rows [B, S] of ids, of which the positions from ``first`` on count."""
    sequences = [Sequence(row, 0, one, truncated=False) for row, one in enumerate(ids)]
    counted = np.array([[first, ids.shape[1]]] * len(ids))
    return Texts(sequences, counted, units_of(range(len(ids))), ["random"] * len(ids), {})


def compare(results: Results, name: str, model: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    """Add the ratios of both kinds of positions to a plain forward, and to its body, and what is kept."""
    tokens = 64 if args.quick else args.tokens
    ids = np.random.default_rng(0).integers(1, 4000, (ROWS, tokens // ROWS)).astype(np.int32)
    checkpoint = LoadedModel(model, tokenizer)
    whole, last = texts_of(ids, 0), texts_of(ids, ids.shape[1] - 1)
    arms = {
        "plain": timed(lambda: mx.eval(model(mx.array(ids))), args.clock),
        "body": timed(lambda: mx.eval(model.model(mx.array(ids))), args.clock),
        "all": timed(partial(contributed, checkpoint, whole, ROWS), args.clock),
        "last": timed(partial(contributed, checkpoint, last, ROWS), args.clock),
    }
    times = in_turn(arms, args.rounds, name)
    for arm, words in (("all", f"all {tokens:,} tokens"), ("last", "last tokens")):
        results.ratio(f"experts, {words}, {name}", "a plain forward", times[arm], times["plain"])
        results.ratio(f"experts, {words}, {name}", "its body", times[arm], times["body"])
    sums = contributed(checkpoint, whole, ROWS).sums
    kept = sum(a.nbytes for one in sums for a in vars(one).values() if isinstance(a, np.ndarray))
    results.figure(f"kept of {ROWS} sequences, whatever their length, {name}", kept / 2**20, "MiB")


def main() -> None:
    parser = arguments(__doc__, rounds=20)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--part", nargs="+", choices=["nano", "small"], default=["nano", "small"])
    args = parsed(parser)
    select_device("auto")
    results = Results("experts", args.quick)
    tokenizer = load()[1]
    for part in args.part:
        name, make = LOADED[part]
        model = make(args.quick)
        use_cpu_path(model)
        compare(results, name, model, tokenizer, args)
    if args.clock == "cpu":
        results.note("Times are of busy processors, not of a clock on the wall.")
    results.finish(args.json)


if __name__ == "__main__":
    main()
