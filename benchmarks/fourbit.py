"""Experts in 4 bit on torch: memory while loading, bytes of the experts, and how far the routing stays the same.

python benchmarks/fourbit.py [--part memory agreement] [--threads 1]

memory: a Mixtral of 16 layers and 2 GB with random weights, loaded in fresh processes in three ways, with the peak of
each by Linux' own account. agreement: the share of (token, router) pairs whose set of experts is that of the
unquantised weights in float32, with 95% intervals over sequences; moebench-nano on the bundled prompts, and the random
Mixtral on random tokens. Both parts write 2 GB to a temporary folder and hold up to 5 GB in memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from wide_mixtral import VOCABULARY, load_elsewhere, write_wide_mixtral

import mlx_moebench
from mlx_moebench.data import encode, read_corpus
from mlx_moebench.environment import package_version
from mlx_moebench.routing.intervals.ratios import ratio_intervals
from torch_fallback.fourbit import load_in_4bit

CPU = torch.device("cpu")
NANO = Path(mlx_moebench.__file__).parent / "models" / "nano"
WAYS = {
    "here": "4 bit, this package",
    "bitsandbytes": "`load_in_4bit` of transformers and bitsandbytes alone",
    "bfloat16": "bfloat16, unquantised",
}

Sets = list[np.ndarray]
"""Of every sequence, the experts of each token in each router, sorted: [routers, tokens, K]."""


def compare_memory(folder: Path, size: int) -> None:
    """Print what each way of loading ``folder`` takes."""
    print(f"\nMixtral with random weights, 16 layers, {size / 1e9:.2f} GB in bfloat16.\n")
    print(
        "| loaded as | peak, GB | of bfloat16 | stays, GB | experts, of bfloat16 | seconds |\n|---|---|---|---|---|---|"
    )
    for how, name in WAYS.items():
        memory = load_elsewhere(folder, how)
        cells = (memory.peak / 1e9, memory.peak / size, memory.stays / 1e9, memory.expert_bytes / memory.expert_bf16)
        print(f"| {name} | {' | '.join(f'{cell:.3f}' for cell in cells)} | {memory.seconds:.0f} |", flush=True)


@contextmanager
def watched(model: Any) -> Iterator[list[np.ndarray]]:
    """A list to which every forward inside adds the experts [tokens, K] of each router, in running order."""
    chosen: list[np.ndarray] = []
    hooks = [
        layer.mlp.gate.register_forward_hook(lambda _module, _inputs, output: chosen.append(np.sort(output[2].numpy())))
        for layer in model.model.layers
    ]
    yield chosen
    for hook in hooks:
        hook.remove()


def route(model: Any, sequences: Sequence[np.ndarray]) -> Sets:
    """The sets of experts of every sequence, each run by itself, so without padding."""
    sets = []
    for ids in sequences:
        with watched(model) as chosen, torch.inference_mode():
            model(torch.tensor(ids.astype(np.int64))[None], use_cache=False)
        sets.append(np.stack(chosen))
    return sets


def print_agreement(name: str, ours: Sets, reference: Sets) -> None:
    """Print the share of tokens that keep their set, over all routers, then in the best and the worst of them."""
    same = np.array([(a == b).all(-1).sum(-1) for a, b in zip(ours, reference, strict=True)])
    tokens = np.array([[sets.shape[1]] * sets.shape[0] for sets in reference])
    over, under = np.column_stack([same.sum(1), same]), np.column_stack([tokens.sum(1), tokens])
    bounds = ratio_intervals(over, under, np.zeros(len(same)))
    shares = over.sum(0) / under.sum(0)
    best, worst = 1 + int(shares[1:].argmax()), 1 + int(shares[1:].argmin())
    cells = [
        f"{100 * shares[n]:.1f} [{100 * bounds[n].low:.1f}, {100 * bounds[n].high:.1f}]"
        + (f" (layer {n - 1})" if n else "")
        for n in (0, best, worst)
    ]
    print(f"| {name} | {len(same)} | {tokens[:, 0].sum():,} | {' | '.join(cells)} |", flush=True)


def compare_routing(name: str, folder: Path, texts: dict[str, Sequence[np.ndarray]]) -> None:
    """Print the agreement with the unquantised weights in float32: of these in 4 bit, and of rounding alone."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = {text: route(reference, sequences) for text, sequences in texts.items()}
    del reference
    for dtype in (torch.float32, torch.bfloat16):
        model = load_in_4bit(folder, config, device=CPU, dtype=dtype)
        for text, sequences in texts.items():
            kind = f"4 bit, the rest {str(dtype).removeprefix('torch.')}"
            print_agreement(f"{name}, {text} | {kind}", route(model, sequences), expected[text])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    for text, sequences in texts.items():
        print_agreement(f"{name}, {text} | unquantised, bfloat16", route(model, sequences), expected[text])


def bundled() -> dict[str, Sequence[np.ndarray]]:
    """The bundled prompts as moebench-nano's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    return {
        name: [sequence.ids for sequence in encode(read_corpus(name), tokenizer, 256)]
        for name in ("math", "general", "code")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=("memory", "agreement"), default=["memory", "agreement"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sequences", type=int, default=20, help="of 32 random tokens, for the random Mixtral")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    software = ("torch", "transformers", "bitsandbytes", "safetensors", "numpy")
    print(", ".join([platform.platform(), *(f"{name} {package_version(name)}" for name in software)]))
    with tempfile.TemporaryDirectory() as folder:
        size = write_wide_mixtral(Path(folder))
        if "memory" in args.part:
            compare_memory(Path(folder), size)
        if "agreement" in args.part:
            columns = ("model and text", "computed in", "sequences", "tokens", "all routers, %", "best, %", "worst, %")
            print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
            compare_routing("moebench-nano", NANO, bundled())
            random = np.random.default_rng(0).integers(1, VOCABULARY, (args.sequences, 32))
            compare_routing("random Mixtral", Path(folder), {"random tokens": list(random)})


if __name__ == "__main__":
    main()
