"""What ``analyze`` leaves out: OLMoE at 1/8 of its width, measured, over mlx-lm's plain forward, per token.

python benchmarks/less_work.py [--rounds 9] [--experts stock grouped] [--quick] [--json PATH]

16 layers of width 256, 64 experts of 128 with top-8, a vocabulary of 6,288, 8 x 128 tokens, float32, random weights.
"routing" evaluates the tallies of every router and adds them up on the host; it needs neither the output head nor the
experts after the last router. Beside it: the body to its last hidden states and the experts of one layer, from which
(body - experts) / full is what leaving those out can give. Experts are mlx-lm's own, and then ours in all arms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from _bench import Results, arguments, in_turn, parsed, timed
from _models import TINY, Shape, random_ids, random_model

from mlx_moebench.allocator import keep_freed_memory
from mlx_moebench.instrument import LiveRoutingStats
from mlx_moebench.instrument.cpu_path import only_routing, use_cpu_path

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first

EIGHTH = Shape(
    "OLMoE at 1/8 of its width", layers=16, hidden=256, experts=64, top_k=8, expert=128, heads=16, vocabulary=6288
)
ROWS, TOKENS = 8, 1024
EXPERTS = {"stock": "mlx-lm's experts", "grouped": "grouped experts"}


def of_experts(results: Results, kind: str, model: Any, shape: Shape, rounds: int, tokens: int) -> None:
    """Add the ratios of one kind of experts."""
    ids = mx.array(random_ids(shape, ROWS, tokens))
    x, experts = mx.random.normal((ids.size, shape.hidden)), model.layers[-1].mlp.switch_mlp
    scores = mx.random.normal((ids.size, shape.experts))
    chosen = mx.argpartition(scores, kth=shape.top_k - 1, axis=-1)[:, : shape.top_k]
    mx.eval(x, chosen)

    def routing() -> None:
        with LiveRoutingStats(model) as stats, stats.batch(ids=range(len(ids))), only_routing():
            model(ids)

    arms = {
        "full": timed(lambda: mx.eval(model(ids))),
        "routing": timed(routing),
        "body": timed(lambda: mx.eval(model.model(ids))),
        "experts": timed(lambda: mx.eval(experts(x, chosen))),
    }
    times = in_turn(arms, rounds, EXPERTS[kind])
    full = f"plain forward, {EXPERTS[kind]}"
    needed = np.subtract(times["body"], times["experts"]).tolist()
    results.ratio(f"routing, {EXPERTS[kind]}", full, times["routing"], times["full"])
    results.ratio(f"body without the experts of one layer, {EXPERTS[kind]}", full, needed, times["full"])


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--experts", nargs="+", choices=EXPERTS, default=list(EXPERTS))
    args = parsed(parser)
    keep_freed_memory()
    shape, tokens = (TINY, 256) if args.quick else (EIGHTH, TOKENS)
    results = Results("less_work", args.quick)
    for kind in args.experts:
        model = random_model(shape)
        if kind == "grouped":
            use_cpu_path(model)
        of_experts(results, kind, model, shape, args.rounds, tokens)
    results.note(f"{shape.name}, {tokens:,} tokens in {ROWS} rows.")
    results.finish(args.json)


if __name__ == "__main__":
    main()
