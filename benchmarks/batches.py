"""Batches of eight sequences against batches that are fitted to memory (``--batch-size auto``): seconds and MLX's peak.

python benchmarks/batches.py [--rounds 5] [--clock wall] [--quick] [--json PATH]

`analyze` of the embedded model, loaded before: the bundled maths prompts, texts of 256 tokens, and a mix of lengths
from 5 to 1,024 tokens, as many of each octave. Arms take turns in one process. Counts are compared: rounding differs
with the shape of a batch, and may turn a choice that was all but a tie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from _bench import CLOCKS, Results, arguments, in_turn, parsed, timed
from _models import Numbers

import mlx_moebench
from mlx_moebench import RoutingStats
from mlx_moebench.data import read_corpus
from mlx_moebench.models import load, select_device
from mlx_moebench.options import AUTO

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first

EIGHT, FITTED = "8 sequences", AUTO
SIZES: dict[str, int | str] = {EIGHT: 8, FITTED: AUTO}


def texts_of(lengths: list[int]) -> list[str]:
    """A text of random ids of each length, as `_models.Numbers` reads them."""
    rng = np.random.default_rng(0)
    return [Numbers().decode(rng.integers(1, 4096, length).tolist()) for length in lengths]


def mixed(each: int, longest: int) -> list[int]:
    """So many lengths of each octave from 8 to ``longest``."""
    octaves = range(3, longest.bit_length())
    rng = np.random.default_rng(1)
    return [int(length) for octave in octaves for length in rng.integers(2 ** (octave - 1) + 1, 2**octave + 1, each)]


def of_texts(results: Results, name: str, model: Any, tokenizer: Any, texts: list[str], args: Any) -> None:
    """Add the ratios of one data set."""
    rounds = args.rounds
    peaks: dict[str, list[float]] = {arm: [] for arm in SIZES}
    last: dict[str, RoutingStats] = {}

    def run(arm: str) -> Callable[[], None]:
        def once() -> None:
            mx.reset_peak_memory()
            last[arm] = mlx_moebench.analyze(
                model, {"texts": texts}, tokenizer=tokenizer, max_length=1024, batch_size=SIZES[arm]
            )
            peaks[arm].append(mx.get_peak_memory() / 2**20)

        return once

    times = in_turn({arm: timed(run(arm), args.clock) for arm in SIZES}, rounds, name)
    results.ratio(f"{FITTED}, {name}", EIGHT, times[FITTED], times[EIGHT])
    results.ratio(f"{FITTED}, {name}", EIGHT, peaks[FITTED][-rounds:], peaks[EIGHT][-rounds:], "MiB, MLX's peak")
    moved, chosen = 0, 0
    for number in range(len(last[EIGHT].specs)):
        a, b = (last[arm].sums(number).counts for arm in SIZES)
        moved, chosen = moved + int(np.abs(a - b).sum()) // 2, chosen + int(a.sum())
    results.figure(f"selections that differ, {name}", moved / chosen, "share")
    (facts,) = last[FITTED].sources.values()
    (part,) = facts["parts"]
    results.note(
        f"{name}: {len(texts)} texts, {last[FITTED].n_tokens:,} tokens; {part['batches']} batches of at most "
        f"{part['batch_size']} sequences with {FITTED}, {-(-len(texts) // 8)} of 8."
    )


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for a busy machine")
    args = parsed(parser)
    select_device("auto")
    model, tokenizer = load()
    prompts = [document.text for document in read_corpus("math", max_samples=8 if args.quick else None).documents]
    results = Results("batches", args.quick)
    of_texts(results, "maths prompts", model, tokenizer, prompts, args)
    of_texts(results, "256 tokens each", model, Numbers(), texts_of([256] * (8 if args.quick else 32)), args)
    mix = mixed(2, 32) if args.quick else mixed(12, 1024)
    of_texts(results, "a mix of lengths", model, Numbers(), texts_of(mix), args)
    results.note("Times by the clock." if args.clock == "wall" else "Processor time, since other programs ran, too.")
    results.finish(args.json)


if __name__ == "__main__":
    main()
