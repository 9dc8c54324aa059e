"""What ``analyze`` leaves out: OLMoE at 1/8 of its width, measured, over mlx-lm's plain forward, per token.

python benchmarks/less_work.py [--rounds 9] [--grouped] [--json PATH]

16 layers of width 256, 64 experts of 128 with top-8, a vocabulary of 6,288, 8 x 128 tokens, float32, random weights.
"routing" evaluates the tallies of every router and adds them up on the host; it needs neither the output head nor the
experts after the last router. Beside it: the body to its last hidden states and the experts of one layer, from which
(body - experts) / full is what leaving those out can give. Experts are mlx-lm's own, or with --grouped ours in all
arms.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mlx_moebench.allocator import keep_freed_memory
from mlx_moebench.environment import environment
from mlx_moebench.instrument import LiveRoutingStats
from mlx_moebench.instrument.cpu_path import only_routing, use_cpu_path

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first
from mlx_lm.models.olmoe import Model, ModelArgs  # isort: skip

SHAPE = {
    "model_type": "olmoe",
    "hidden_size": 256,
    "intermediate_size": 128,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": 6288,
}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--grouped", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()
    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(SHAPE))
    model.eval()
    mx.eval(model.parameters())
    if arguments.grouped:
        use_cpu_path(model)
    ids = mx.array(np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (8, 128)))
    x, experts = mx.random.normal((ids.size, 256)), model.layers[-1].mlp.switch_mlp
    chosen = mx.argpartition(mx.random.normal((ids.size, 64)), kth=7, axis=-1)[:, :8]
    mx.eval(x, chosen)

    def routing() -> None:
        with LiveRoutingStats(model) as stats, stats.batch(ids=range(len(ids))), only_routing():
            model(ids)

    arms: dict[str, Callable[[], object]] = {
        "full": lambda: mx.eval(model(ids)),
        "routing": routing,
        "body": lambda: mx.eval(model.model(ids)),
        "experts of a layer": lambda: mx.eval(experts(x, chosen)),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(arguments.rounds + 1):
        for name in arms if number % 2 else reversed(arms):
            times[name].append(seconds(arms[name]))
        print(f"round {number} of {arguments.rounds}", file=sys.stderr, flush=True)
    taken = {name: np.array(every[1:]) for name, every in times.items()}
    ratios = {
        "routing / full": taken["routing"] / taken["full"],
        "(body - experts of a layer) / full": (taken["body"] - taken["experts of a layer"]) / taken["full"],
    }
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print("; ".join(f"{name} {1000 * np.median(every):.0f} ms" for name, every in taken.items()))
    quartiles = {name: np.percentile(every, (50, 25, 75)).tolist() for name, every in ratios.items()}
    for name, (middle, low, high) in quartiles.items():
        print(f"{name}: {middle:.3f} [{low:.3f}, {high:.3f}]")
    if arguments.json:
        arms_out = {name: every.tolist() for name, every in taken.items()}
        whole = {"environment": environment(), "seconds": arms_out, "ratios": quartiles}
        arguments.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
