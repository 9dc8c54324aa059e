"""Seconds until commands answer: `--help`, importing the package, and `analyze` of one text, beside their libraries.

python benchmarks/startup.py [--rounds 10] [--quick] [--json PATH]

Every run is a fresh process, wall time from its start to its end. One that only starts Python and ends is the least;
what imports the library that a measurement stands on, and a forward of the same text with mlx-lm alone, are what
commands can be held against. Modules are compiled before, by the warm-up.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

from _bench import Results, arguments, environment_of_children, in_turn, parsed, timed

MAIN = ["-c", "from mlx_moebench.cli import main; main()"]
FORWARD = """
from mlx_moebench.blas import load_fast_blas
load_fast_blas()
import mlx.core as mx
from mlx_lm import load
from mlx_moebench.checkpoints.located import NANO
model, tokenizer = load(str(NANO))
model.set_dtype(mx.float32)
mx.eval(model(mx.array([tokenizer.encode("A farmer has 12 apples.")])))
"""
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "--help": [*MAIN, "--help"],
    "import mlx_moebench": ["-c", "import mlx_moebench"],
    "import mlx_lm": ["-c", "import mlx_lm"],
    "import transformers with a model": ["-c", "from transformers import OlmoeForCausalLM"],
    "mlx-lm alone, one text": ["-c", FORWARD],
    "analyze, one text": [*MAIN, "analyze", "--max-samples", "1", "--quiet"],
    "analyze --backend torch, one text": [*MAIN, "analyze", "--backend", "torch", "--max-samples", "1", "--quiet"],
}
HELD = {
    "--help": ("python -c pass", "import mlx_lm"),
    "import mlx_moebench": ("python -c pass", "import mlx_lm"),
    "analyze, one text": ("mlx-lm alone, one text",),
    "analyze --backend torch, one text": ("import transformers with a model",),
}


def run(command: list[str]) -> None:
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment_of_children())


def main() -> None:
    args = parsed(arguments(__doc__, rounds=10, quick_rounds=1))
    results = Results("startup", args.quick)
    arms: dict[str, Callable[[], float]] = {name: timed(partial(run, command)) for name, command in COMMANDS.items()}
    times = in_turn(arms, args.rounds, "start-up")
    for name, others in HELD.items():
        for other in others:
            results.ratio(name, other, times[name], times[other])
    results.finish(args.json)


if __name__ == "__main__":
    main()
