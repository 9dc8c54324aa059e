"""Peak resident memory of a measurement against tokens, experts and layers, each in a fresh process.

python benchmarks/memory.py [--part tokens million experts layers] [--rounds 3] [--quick] [--json PATH]

tokens: the embedded model measures the bundled maths prompts again and again. "Few" adds every reuse of a prompt to the
same sequence; "many" counts it as a new one, whose sums are kept apart for the intervals. million: the whole of
``analyze``, texts and loading included, of 10 thousand and 1 million tokens in texts of 256, of a tiny model in memory,
and streamed with all hidden states on the disk; beside it the peak of what MLX held. Texts, their ids and the sums of
each sequence are in memory; of the same prompts again and again, as in "few", nothing more is. experts, layers: an
OLMoE with narrow experts and random weights runs 2,048 tokens in batches of 8 rows of 64, measured and not; what is
compared is the peak with over the peak without, so that the weights, which grow too, are on both sides.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from _bench import Results, arguments, in_turn, parsed, peak_mib, run_child
from _models import SMALL, TINY, Shape, random_ids, random_model, write_checkpoint

import mlx_moebench
from mlx_moebench.data import batches, encode, pad_id, read_corpus
from mlx_moebench.instrument import LiveRoutingStats
from mlx_moebench.models import load, select_device

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first

NARROW = replace(SMALL, name="narrow", layers=8, hidden=128, expert=32, heads=4)
EXPERTS, LAYERS = (16, 64, 256), (4, 16, 48)
TOKENS = (10_000, 100_000)
LEAST = replace(TINY, name="least", hidden=32, expert=16, heads=1)
MILLION = (10_000, 1_000_000)
TEXT = 256
ROWS, LENGTH, FORWARDS = 8, 64, 4


def measure_tokens(tokens: int, clusters: str, folder: str | None) -> None:
    """Measure so many tokens of the bundled maths prompts, used again and again; folder: of another model."""
    model, tokenizer = load(folder)
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


def measure_whole(model: str, tokens: int, stream: str) -> None:
    """``analyze`` so many tokens of made-up texts; says the peaks of this process and of MLX, MiB."""
    texts = [" ".join(str((row * 7919 + n * 31) % 9973) for n in range(TEXT)) for row in range(-(-tokens // TEXT))]
    mlx_moebench.analyze(model, {"numbers": texts}, max_length=TEXT, stream=stream, stream_memory=0)
    print("\n" + json.dumps([peak_mib(), mx.get_peak_memory() / 2**20]))


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


def of_million(results: Results, rounds: int, sizes: Sequence[int]) -> None:
    few, many = sizes
    with tempfile.TemporaryDirectory() as aside:
        model = write_checkpoint(Path(aside) / "model", LEAST)
        again = partial(child, "--clusters", "few", "--model", model, "--measure-tokens")
        peaks = in_turn({f"{n:,}": partial(again, n) for n in sizes}, rounds, "memory of the same texts", warm_up=0)
        what = f"{many:,} tokens, few sequences, tiny model"
        results.ratio(what, f"{few:,} tokens", peaks[f"{many:,}"], peaks[f"{few:,}"], "MiB, peak")
        for stream, how in (("off", "in memory"), ("on", "streamed")):
            held: dict[int, list[float]] = {tokens: [] for tokens in sizes}
            arms = {f"{n:,}": _whole(model, n, stream, held[n]) for n in sizes}
            peaks = in_turn(arms, rounds, f"memory of analyze, {how}", warm_up=0)
            what, over = f"analyze of {many:,} tokens, {how}", f"{few:,} tokens"
            results.ratio(what, over, peaks[f"{many:,}"], peaks[f"{few:,}"], "MiB, peak")
            results.ratio(f"of which MLX, {how}", over, held[many], held[few], "MiB, peak")


def _whole(model: Path, tokens: int, stream: str, held: list[float]) -> Callable[[], float]:
    """The peak of one ``analyze`` in a process of its own; that of MLX is added to ``held``."""

    def once() -> float:
        said = run_child([__file__, "--measure-whole", str(tokens), "--model", str(model), "--stream", stream])
        peak, of_mlx = json.loads(said.splitlines()[-1])
        held.append(of_mlx)
        return float(peak)

    return once


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
    every = ("tokens", "million", "experts", "layers")
    parser.add_argument("--part", nargs="+", choices=every, default=list(every))
    for name in ("measure-tokens", "measure-whole", "experts", "layers"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--stream", help=argparse.SUPPRESS)
    parser.add_argument("--clusters", choices=("few", "many"), help=argparse.SUPPRESS)
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)
    args = parsed(parser)
    select_device("auto")
    if args.measure_whole:
        measure_whole(args.model, args.measure_whole, args.stream)
        return
    if args.measure_tokens or args.experts:
        if args.experts:
            run_narrow(args.experts, args.layers, args.measured)
        else:
            measure_tokens(args.measure_tokens, args.clusters, args.model)
        print(peak_mib())
        return
    results = Results("memory", args.quick)
    quick = {"experts": EXPERTS[:1], "layers": LAYERS[:1]} if args.quick else {"experts": EXPERTS, "layers": LAYERS}
    if "tokens" in args.part:
        of_tokens(results, args.rounds, (500, 1000) if args.quick else TOKENS)
    if "million" in args.part:
        of_million(results, args.rounds, (500, 1000) if args.quick else MILLION)
    for what in ("experts", "layers"):
        if what in args.part:
            of_shapes(results, args.rounds, [replace(NARROW, **{what: n}) for n in quick[what]], what)
    results.finish(args.json)


if __name__ == "__main__":
    main()
