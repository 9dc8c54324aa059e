"""What grouping tokens by expert gives on a CPU: an OLMoE-shaped forward, mlx-lm's own, ours, and transformers'.

python benchmarks/cpu_path.py [--rounds 9] [--clock wall] [--quick] [--json PATH]

`_models.SMALL`, 8 x 256 tokens, float32 and random weights (transformers' are others of the same shapes), with the
threads that the environment gives. Arms run in turn, so that whatever else the machine does falls on all of them: read
the ratios of rounds, not the times. transformers have a process without the BLAS for MLX, which torch would take for
its own and be slower by. "routing" runs what ``analyze`` does, tallies included: no head, no last experts. "two ranks"
are two more processes with a BLAS thread each that measure half of the rows each, started together; processor time does
not see them, and leaves them out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from _bench import CLOCKS, Arm, Results, Worker, arguments, in_turn, parsed, serve_worker, timed
from _models import SMALL, TINY, Shape, random_ids, random_model

from mlx_moebench.allocator import keep_freed_memory
from mlx_moebench.blas import ENVIRONMENT_VARIABLE
from mlx_moebench.instrument import LiveRoutingStats
from mlx_moebench.instrument.cpu_path import only_routing, use_cpu_path

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first

ROWS, TOKENS = 8, 2048
STOCK, PEER = "mlx-lm, body", "transformers, body, router logits"


def shape_of(quick: bool) -> tuple[Shape, int]:
    """The model, and how many tokens it is given."""
    return (TINY, 256) if quick else (SMALL, TOKENS)


def measure_routing(model: Any, ids: mx.array) -> None:
    """What ``analyze`` does with a batch."""
    with LiveRoutingStats(model) as stats, stats.batch(ids=range(len(ids))), only_routing():
        model(ids)


def transformers_forward(shape: Shape, ids: Any) -> Callable[[], object]:
    """Its body alone, with the router logits that it can return."""
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM

    torch.manual_seed(0)
    settings = {key: value for key, value in shape.config.items() if key not in ("model_type", "architectures")}
    model = OlmoeForCausalLM(OlmoeConfig(**settings, pad_token_id=0)).eval().model
    given = torch.as_tensor(ids, dtype=torch.long)

    def run() -> None:
        with torch.inference_mode():
            model(given, use_cache=False, output_router_logits=True)

    return run


@contextmanager
def two_ranks(quick: bool) -> Iterator[Callable[[], None]]:
    """Runs both ranks at once and waits for them."""
    options = ["--quick"] if quick else []
    workers = [Worker(__file__, "--rank", str(rank), *options, threads=1) for rank in range(2)]

    def run() -> None:
        for worker in workers:
            worker.send("routing")
        for worker in workers:
            worker.answer("routing")

    try:
        yield run
    finally:
        for worker in workers:
            worker.close()


@contextmanager
def transformers_alone(quick: bool, clock: str) -> Iterator[Arm]:
    """The forward of transformers in a process of its own."""
    os.environ[ENVIRONMENT_VARIABLE] = "off"
    try:
        worker = Worker(__file__, "--peer", "--clock", clock, *(["--quick"] if quick else []))
    finally:
        del os.environ[ENVIRONMENT_VARIABLE]
    try:
        yield worker.arm("forward")
    finally:
        worker.close()


def serve_rank(rank: int, quick: bool) -> None:
    """Measure every second row when told to."""
    shape, tokens = shape_of(quick)
    model, ids = random_model(shape), mx.array(random_ids(shape, ROWS, tokens)[rank::2])
    use_cpu_path(model)
    serve_worker({"routing": lambda: measure_routing(model, ids)})


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for a busy machine")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parsed(parser)
    shape, tokens = shape_of(args.quick)
    if args.peer:
        serve_worker({"forward": timed(transformers_forward(shape, random_ids(shape, ROWS, tokens)), args.clock)})
        return
    keep_freed_memory()
    if args.rank is not None:
        serve_rank(args.rank, args.quick)
        return
    stock, ours, ids = random_model(shape), random_model(shape), mx.array(random_ids(shape, ROWS, tokens))
    use_cpu_path(ours)
    difference = mx.abs(stock(ids) - ours(ids)).max().item()
    runs: dict[str, Callable[[], object]] = {
        STOCK: lambda: mx.eval(stock.model(ids)),
        "ours, body": lambda: mx.eval(ours.model(ids)),
        "ours, with head": lambda: mx.eval(ours(ids)),
        "ours, routing": lambda: measure_routing(ours, ids),
    }
    with two_ranks(args.quick) as ranks, transformers_alone(args.quick, args.clock) as peer:
        if args.clock == "wall":
            runs["ours, routing, two ranks"] = ranks
        arms = {name: timed(run, args.clock) for name, run in runs.items()} | {PEER: peer}
        times = in_turn(arms, args.rounds, "cpu path")
    results = Results("cpu_path", args.quick)
    for base in (STOCK, PEER):
        for name in (name for name in times if name not in (STOCK, PEER)):
            results.ratio(name, base, times[name], times[base])
    results.ratio(PEER, STOCK, times[PEER], times[STOCK])
    results.figure("largest difference of a logit from mlx-lm's", difference, "")
    clock = "the clock" if args.clock == "wall" else "processor time, since other programs ran, too"
    results.note(f"{tokens:,} tokens in {ROWS} rows, by {clock}.")
    results.finish(args.json)


if __name__ == "__main__":
    main()
