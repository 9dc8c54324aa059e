"""What the entropy floor costs: time and peak memory of a training step with it over the same step without.

python benchmarks/training_step.py [--pairs 20] [--part nano width] [--signal load] [--scope batch]

Without: mlx-lm's own loss on an untapped model. With: `train.Objective`, which also measures every router for the log.
Both have the same LoRA on every gate and on the query projections, the same batch and Adam. Steps alternate in one
process, and which goes first alternates too: read the ratio, not the times. Compiling is off for both on a CPU, as in
`mlx-moebench train`. width: two layers of OLMoE's real widths with random float32 weights, which take 4 GB of memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _models import WIDE, random_model

from mlx_moebench.environment import environment
from mlx_moebench.instrument import routers_of
from mlx_moebench.models import load, select_device
from mlx_moebench.train import Objective, RoutingLoss
from mlx_moebench.train.lora import add_lora, lora_keys

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first
import mlx.nn as nn  # isort: skip
import mlx.optimizers as optimizers  # isort: skip
from mlx_lm.tuner.trainer import default_loss  # isort: skip


def with_lora(model: Any) -> Any:
    """``model`` with adapters of rank 8 on every gate and query projection."""
    model.freeze()
    keys = lora_keys(model, -1, ["self_attn.q_proj"], routers_of(model))
    add_lora(model, -1, {"rank": 8, "scale": 10.0, "dropout": 0.0, "keys": keys}, False)
    model.train()
    mx.eval(model.parameters())
    return model


def step_of(model: Any, loss: Callable[..., Any]) -> Callable[[mx.array, mx.array], tuple[float, int]]:
    """A function that makes one step and returns its seconds and the peak of memory, bytes."""
    optimizer = optimizers.Adam(learning_rate=1e-5)
    optimizer.init(model.trainable_parameters())
    gradient = nn.value_and_grad(model, loss)

    def step(batch: mx.array, lengths: mx.array) -> tuple[float, int]:
        mx.clear_cache()
        mx.reset_peak_memory()
        start = time.perf_counter()
        (value, tokens), grad = gradient(model, batch, lengths)
        optimizer.update(model, grad)
        mx.eval(model.state, optimizer.state, value, tokens)
        return time.perf_counter() - start, mx.get_peak_memory()

    return step


def compare(name: str, make: Callable[[], Any], settings: RoutingLoss, pairs: int, tokens: int) -> None:
    """Print the ratios of a step with the loss to one without, after one pair that warms up."""
    rows = 8
    batch = mx.array(np.random.default_rng(0).integers(0, 4096, (rows, tokens // rows + 1)))
    lengths = mx.array([[0, batch.shape[1]]] * rows)
    plain, floored = with_lora(make()), with_lora(make())
    with Objective(floored, settings) as objective:
        steps = (step_of(plain, default_loss), step_of(floored, objective))
        costs = []
        for n in range(pairs + 1):
            order = (0, 1) if n % 2 else (1, 0)
            pair: list[tuple[float, int]] = [(0.0, 0), (0.0, 0)]
            for arm in order:
                pair[arm] = steps[arm](batch, lengths)
            costs.append(pair)
            print(f"{name}: pair {n} of {pairs}, {pair[0][0]:.2f} and {pair[1][0]:.2f} s", file=sys.stderr, flush=True)
    figures = np.array(costs[1:], dtype=float)  # [pairs, arm, (seconds, bytes)]
    low, middle, high = np.percentile(figures[:, 1, 0] / figures[:, 0, 0], (25, 50, 75))
    seconds, peak = np.median(figures[..., 0], axis=0), np.median(figures[..., 1], axis=0)
    cells = f"{1000 * seconds[0]:.0f} | {1000 * seconds[1]:.0f} | {middle:.3f} [{low:.3f}, {high:.3f}]"
    print(f"| {name} | {cells} | {peak[0] / 2**20:.0f} | {peak[1] / 2**20:.0f} | {peak[1] / peak[0]:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=1024, help="of a step, in 8 rows")
    parser.add_argument("--part", nargs="+", choices=("nano", "width"), default=["nano", "width"])
    parser.add_argument("--signal", choices=("marginal", "token", "load"), default="load")
    parser.add_argument("--scope", choices=("sequence", "batch", "window"), default="batch")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if select_device(args.device) == "cpu":
        mx.disable_compile()
    settings = RoutingLoss(weight=0.1, signal=args.signal, scope=args.scope)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    columns = (
        f"{args.tokens:,} tokens",
        "without, ms",
        "with, ms",
        "ratio [quartiles]",
        "MiB without",
        "with",
        "ratio",
    )
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    if "nano" in args.part:
        compare("moebench-nano, 6 routers", lambda: load(dtype="float32")[0], settings, args.pairs, args.tokens)
    if "width" in args.part:
        compare("OLMoE's widths, 2 layers", lambda: random_model(WIDE), settings, args.pairs, args.tokens)


if __name__ == "__main__":
    main()
