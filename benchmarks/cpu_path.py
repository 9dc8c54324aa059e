"""What grouping tokens by expert gives on a CPU: an OLMoE-shaped forward, mlx-lm's own, ours, and transformers'.

python benchmarks/cpu_path.py [--rounds 9] [--threads 2] [--json PATH]

4 layers of width 512, 64 experts of 256 with top-8, 8 x 256 tokens, float32 and random weights (transformers' are
others of the same shapes). Arms run in turn in one process, so that whatever else the machine does falls on all of
them: read the ratios of rounds, not the times. "routing" runs what ``analyze`` does, tallies included: no head, no last
experts.
"two ranks" are two more processes with a BLAS thread each that measure half of the rows each, started together.
First the speed of a product of matrices and of mlx-lm's ``gather_mm``, on which all of this depends.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--threads", type=int, default=2, help="of BLAS and of torch")
parser.add_argument("--cpu-time", action="store_true", help="of the process, for a busy machine; without two ranks")
parser.add_argument("--json", type=Path)
parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
ARGUMENTS = parser.parse_args()
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = str(ARGUMENTS.threads)  # before anything loads a BLAS

import numpy as np  # noqa: E402

from mlx_moebench.allocator import keep_freed_memory  # noqa: E402
from mlx_moebench.environment import environment  # noqa: E402
from mlx_moebench.instrument import LiveRoutingStats  # noqa: E402
from mlx_moebench.instrument.cpu_path import leave_cpu_path, only_routing, use_cpu_path  # noqa: E402

import mlx.core as mx  # isort: skip  # noqa: E402  # after the package, which loads a fast BLAS first

SHAPE = {
    "model_type": "olmoe",
    "hidden_size": 512,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": 4096,
}
IDS = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (8, 256))


def build() -> Any:
    from mlx_lm.models.olmoe import Model, ModelArgs

    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(SHAPE))
    model.eval()
    mx.eval(model.parameters())
    return model


def seconds(run: Callable[[], object]) -> float:
    clock = time.process_time if ARGUMENTS.cpu_time else time.perf_counter
    start = clock()
    run()
    return clock() - start


def speeds(model: Any) -> dict[str, float]:
    """GFLOP/s of a dense product, and of gather_mm for one projection of all selections; the best of three."""
    a, weight = mx.random.normal((1024, 1024)), model.layers[0].mlp.switch_mlp.gate_proj.weight
    rows, chosen = mx.random.normal((IDS.size * 8, 1, 512)), mx.sort(mx.random.randint(0, 64, (IDS.size * 8,)))
    mx.eval(a, rows, chosen)

    def gathered() -> None:
        mx.eval(mx.gather_mm(rows, weight.swapaxes(-1, -2), rhs_indices=chosen, sorted_indices=True))

    dense = min(seconds(lambda: mx.eval(a @ a)) for _ in range(3))
    return {
        "dense": 2 * 1024**3 / dense / 1e9,
        "gather_mm": 2 * rows.size * 256 / min(seconds(gathered) for _ in range(3)) / 1e9,
    }


def routing(model: Any, ids: mx.array) -> None:
    """What ``analyze`` does with a batch."""
    with LiveRoutingStats(model) as stats, stats.batch(ids=range(len(ids))), only_routing():
        model(ids)


def transformers_forward() -> Callable[[], object]:
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM

    torch.set_num_threads(ARGUMENTS.threads)
    torch.manual_seed(0)
    shape = {key: value for key, value in SHAPE.items() if key != "model_type"}
    config = OlmoeConfig(**shape, pad_token_id=0, eos_token_id=0)
    model = OlmoeForCausalLM(config).eval().model
    ids = torch.tensor(IDS)

    def run() -> object:
        with torch.inference_mode():
            return model(ids, use_cache=False, output_router_logits=True)

    return run


class Ranks:
    """Two processes that measure half of the rows each when told to."""

    def __enter__(self) -> Ranks:
        command = [sys.executable, __file__, "--threads", "1", "--rank"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.processes = [subprocess.Popen([*command, str(rank)], **pipes) for rank in range(2)]
        self.run()
        return self

    def run(self) -> None:
        for process in self.processes:
            print("go", file=process.stdin, flush=True)
        for process in self.processes:
            if not process.stdout.readline():
                raise SystemExit("A rank ended; see its error above.")

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.communicate()


def serve_rank(rank: int) -> None:
    model, ids = build(), mx.array(IDS[rank::2])
    use_cpu_path(model)
    for _ in sys.stdin:
        routing(model, ids)
        print("done", flush=True)


def main() -> None:
    keep_freed_memory()
    if ARGUMENTS.rank is not None:
        serve_rank(ARGUMENTS.rank)
        return
    stock, ours, ids = build(), build(), mx.array(IDS)
    use_cpu_path(ours)
    difference = mx.abs(stock(ids) - ours(ids)).max().item()
    measured = speeds(stock)
    with Ranks() as ranks:
        arms: dict[str, Callable[[], object]] = {
            "mlx-lm, body": lambda: mx.eval(stock.model(ids)),
            "ours, body": lambda: mx.eval(ours.model(ids)),
            "ours, with head": lambda: mx.eval(ours(ids)),
            "ours, routing": lambda: routing(ours, ids),
            "ours, routing, two ranks": ranks.run,
            "transformers, body, router logits": transformers_forward(),
        }
        if ARGUMENTS.cpu_time:
            del arms["ours, routing, two ranks"]
        times: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(ARGUMENTS.rounds + 1):
            for name, run in arms.items():
                times[name].append(seconds(run))
            print(f"round {number} of {ARGUMENTS.rounds}", file=sys.stderr, flush=True)
    report(measured, difference, {name: np.array(taken[1:]) for name, taken in times.items()})
    leave_cpu_path(ours)


def report(measured: dict[str, float], difference: float, times: dict[str, Any]) -> None:
    print(", ".join(f"{key} {value}" for key, value in environment().items()), f"threads {ARGUMENTS.threads}", sep=", ")
    print(", ".join(f"{name} {speed:.1f} GFLOP/s" for name, speed in measured.items()))
    print(f"largest difference of a logit from mlx-lm's: {difference:.1e}\n")
    bases = ("mlx-lm, body", "transformers, body, router logits")
    print("| arm | median, ms | least, ms | " + " | ".join(f"{base} over it [quartiles]" for base in bases) + " |")
    print("|---" * 5 + "|")
    rows: dict[str, Any] = {}
    for name, taken in times.items():
        ratios = {base: np.percentile(times[base] / taken, (50, 25, 75)).tolist() for base in bases}
        rows[name] = {"seconds": taken.tolist(), "ratios": ratios}
        cells = [f"{middle:.2f} [{low:.2f}, {high:.2f}]" for middle, low, high in ratios.values()]
        print(f"| {name} | {1000 * np.median(taken):.0f} | {1000 * taken.min():.0f} | {' | '.join(cells)} |")
    if ARGUMENTS.json:
        whole = {"environment": environment() | {"threads": ARGUMENTS.threads}, "gflops": measured, "arms": rows}
        ARGUMENTS.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
