"""Peak resident memory of a measurement against tokens, experts and layers, each in a fresh process.

python benchmarks/memory.py [--part tokens experts layers] [--rounds 3] [--quick] [--json PATH]

tokens: the embedded model measures the bundled maths prompts again and again. "Few" adds every reuse of a prompt to the
same sequence; "many" counts it as a new one, whose sums are kept apart for the intervals. experts, layers: an OLMoE
with narrow experts and random weights runs 2,048 tokens in batches of 8 rows of 64, measured and not; what is compared
is the peak with over the peak without, so that the weights, which grow too, are on both sides.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from _bench import Results, arguments, in_turn, parsed, peak_mib, run_child
from _models import SMALL, Shape, random_ids, random_model

from mlx_moebench.data import batches, encode, pad_id, read_corpus
from mlx_moebench.instrument import LiveRoutingStats
from mlx_moebench.models import load, select_device

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first

NARROW = replace(SMALL, name="narrow", layers=8, hidden=128, expert=32, heads=4)
EXPERTS, LAYERS = (16, 64, 256), (4, 16, 48)
TOKENS = (10_000, 100_000)
ROWS, LENGTH, FORWARDS = 8, 64, 4


def measure_tokens(tokens: int, clusters: str) -> None:
    """Measure so many tokens of the bundled maths prompts, used again and again."""
    model, tokenizer = load()
    sequences = encode(read_corpus("math"), tokenizer, 256)
    left, start = tokens, itertools.count(step=len(sequences))
    stats = LiveRoutingStats(model)
    while left > 0:
        offset = next(start) if clusters == "many" else 0
        for batch in batches(sequences, 8, pad_id(tokenizer)):
            if left > 0:
                with stats.batch(mask=batch.mask, ids=[row + offset for row in batch.rows]):
                    model(mx.array(batch.ids))
                left -= int(batch.mask.sum())
    stats.close()


def run_narrow(experts: int, layers: int, measured: bool) -> None:
    """Forwards of a model of so many experts and layers to their hidden states, measured or not."""
    shape = replace(NARROW, experts=experts, layers=layers)
    model = random_model(shape)
    stats = LiveRoutingStats(model) if measured else None
    for number in range(FORWARDS):
        ids = mx.array(random_ids(shape, ROWS, ROWS * LENGTH, number))
        if stats is None:
            mx.eval(model.model(ids))
            continue
        with stats.batch(ids=range(number * ROWS, (number + 1) * ROWS)):
            mx.eval(model.model(ids))
    if stats is not None:
        stats.close()


def child(*options: object) -> float:
    """The peak of a fresh process of this script, MiB."""
    return float(run_child([__file__, *map(str, options)]))


def of_tokens(results: Results, rounds: int, tokens: Sequence[int]) -> None:
    for clusters in ("few", "many"):
        arms = {f"{n:,}": partial(child, "--measure-tokens", n, "--clusters", clusters) for n in tokens}
        peaks = in_turn(arms, rounds, f"memory of {clusters} sequences", warm_up=0)
        first, *others = arms
        for other in others:
            what = f"{other} tokens, {clusters} sequences"
            results.ratio(what, f"{first} tokens", peaks[other], peaks[first], "MiB, peak")


def of_shapes(results: Results, rounds: int, shapes: Sequence[Shape], what: str) -> None:
    for shape in shapes:
        command = partial(child, "--experts", shape.experts, "--layers", shape.layers)
        arms = {"plain": command, "measured": partial(command, "--measured")}
        peaks = in_turn(arms, rounds, f"memory of {shape.layers} x {shape.experts}", warm_up=0)
        size = f"{shape.layers} layers x {shape.experts} experts"
        results.ratio(
            f"measured, {size}", f"plain forward ({what} varied)", peaks["measured"], peaks["plain"], "MiB, peak"
        )


def main() -> None:
    parser = arguments(__doc__, rounds=3, quick_rounds=1)
    parser.add_argument(
        "--part", nargs="+", choices=("tokens", "experts", "layers"), default=["tokens", "experts", "layers"]
    )
    for name in ("measure-tokens", "experts", "layers"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clusters", choices=("few", "many"), help=argparse.SUPPRESS)
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)
    args = parsed(parser)
    select_device("auto")
    if args.measure_tokens or args.experts:
        if args.experts:
            run_narrow(args.experts, args.layers, args.measured)
        else:
            measure_tokens(args.measure_tokens, args.clusters)
        print(peak_mib())
        return
    results = Results("memory", args.quick)
    quick = {"experts": EXPERTS[:1], "layers": LAYERS[:1]} if args.quick else {"experts": EXPERTS, "layers": LAYERS}
    if "tokens" in args.part:
        of_tokens(results, args.rounds, (500, 1000) if args.quick else TOKENS)
    for what in ("experts", "layers"):
        if what in args.part:
            of_shapes(results, args.rounds, [replace(NARROW, **{what: n}) for n in quick[what]], what)
    results.finish(args.json)


if __name__ == "__main__":
    main()
