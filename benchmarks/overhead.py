"""What measuring costs: time of a forward with the routers tallied over one without.

python benchmarks/overhead.py [--rounds 20] [--tokens 1024] [--part nano small width torch] [--quick] [--json PATH]

nano: the embedded model. small: the OLMoE-shaped model that peers are compared on. width: two layers of OLMoE's real
widths with random float32 weights, which take 4 GB of memory. Both arms evaluate the logits; the measured one also
evaluates every tally and adds it up, as ``analyze`` does. Arms alternate in one process, and which goes first
alternates too, so that whatever else the machine does falls on both: read the ratio, not the times. "Tallies" is the
part of a measured forward that comes after its logits, which a noisy machine disturbs less than the difference of two
forwards. torch: the small model on transformers, its body alone against a measured forward of all of it, and against
one that ends at the last router, as that of ``analyze --backend torch`` does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _bench import Results, arguments, in_turn, parsed, timed
from _models import SMALL, TINY, WIDE, Shape, random_ids, random_model, write_checkpoint

from mlx_moebench.data import Batch
from mlx_moebench.instrument import LiveRoutingStats
from mlx_moebench.models import load, select_device

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first

ROWS = 8
LOADED: dict[str, tuple[str, Callable[[bool], Any]]] = {
    "nano": ("moebench-nano, 6 routers", lambda quick: load(dtype="float32")[0]),
    "small": ("OLMoE-shaped, 4 routers", lambda quick: random_model(TINY if quick else SMALL)),
    "width": ("OLMoE's widths, 2 layers", lambda quick: random_model(TINY if quick else WIDE)),
}
"""The parts on MLX: what each is called, and its model."""


def on_mlx(results: Results, name: str, model: Any, rounds: int, tokens: int) -> None:
    """Add the ratio of measured to plain, and the share of the tallies."""
    ids = mx.array(np.random.default_rng(0).integers(0, 4096, (ROWS, tokens // ROWS)))
    tallies: list[float] = []

    def measured() -> float:
        with LiveRoutingStats(model) as stats:  # taps go on and off outside the clock
            start = time.perf_counter()
            with stats.batch(ids=range(ROWS)):
                mx.eval(model(ids))
                after_logits = time.perf_counter()
            stats.still()  # adds what waits
            end = time.perf_counter()
        tallies.append(end - after_logits)
        return end - start

    times = in_turn({"plain": timed(lambda: mx.eval(model(ids))), "measured": measured}, rounds, name)
    results.ratio(f"measured, {name}", "plain forward", times["measured"], times["plain"])
    results.spread(f"tallies, {name}", [1000 * seconds for seconds in tallies[-rounds:]], "ms")


def on_torch(results: Results, shape: Shape, rounds: int, tokens: int) -> None:
    """Add the ratios of measured forwards to the body alone."""
    import torch

    from torch_fallback.backend import BACKEND
    from torch_fallback.live import TorchRoutingStats
    from torch_fallback.loading import load_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = load_checkpoint(write_checkpoint(Path(folder) / "model", shape))
    body = checkpoint.model.model
    ids = random_ids(shape, ROWS, tokens)
    given = torch.as_tensor(ids, dtype=torch.long)
    batch = Batch(ids, np.ones(ids.shape, bool), tuple(range(ROWS)), (0,) * ROWS, 0)

    def plain() -> None:
        with torch.inference_mode():
            body(input_ids=given, use_cache=False)

    def measured(run: Callable[[], object]) -> Callable[[], float]:
        def arm() -> float:
            with TorchRoutingStats(checkpoint.model) as stats:  # hooks go on and off outside the clock
                start = time.perf_counter()
                with stats.batch(mask=batch.mask, ids=batch.rows):
                    run()
                stats.still()
                return time.perf_counter() - start

        return arm

    arms = {
        "body": timed(plain),
        "measured": measured(plain),
        "ends early": measured(lambda: BACKEND.forward(checkpoint, batch, logits=False)),
    }
    times = in_turn(arms, rounds, "torch")
    results.ratio("measured on torch, the whole body", "transformers, body", times["measured"], times["body"])
    results.ratio("measured on torch, up to the last router", "transformers, body", times["ends early"], times["body"])
    results.note(
        f"Up to the last router: without the experts of the last of {shape.layers} layers and the final norm, which is "
        "less work than the body."
    )


def main() -> None:
    parser = arguments(__doc__, rounds=20)
    parser.add_argument("--tokens", type=int, help="of a forward, in 8 rows, by default 1,024")
    parts = [*LOADED, "torch"]
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    parser.add_argument("--device", default="auto")
    args = parsed(parser)
    select_device(args.device)
    results = Results("overhead", args.quick)
    tokens = args.tokens or (128 if args.quick else 1024)
    results.note(f"{tokens:,} tokens in {ROWS} rows.")
    for part in args.part:
        if part == "torch":
            on_torch(results, TINY if args.quick else SMALL, args.rounds, tokens)
        else:
            name, make = LOADED[part]
            on_mlx(results, name, make(args.quick), args.rounds, tokens)
    results.finish(args.json)


if __name__ == "__main__":
    main()
