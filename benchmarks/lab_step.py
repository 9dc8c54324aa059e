"""Tokens per second of an update of `lab train` over those of a plain PyTorch implementation of the same model.

python benchmarks/lab_step.py [--router smoe dense] [--rounds 20] [--clock wall] [--quick] [--json PATH]

Both begin with the same weights and see the same batch of `tiny`'s recipe: forward, losses, gradients, clipping and
AdamW, in float32. Ours is `lab.steps.Updater` as `lab train` runs it, which also sums what its log says of every
router; the last arm is it without the CPU path. PyTorch is written here as its users write such a model: its own
attention, cross-entropy, optimizer and clipping, and one pair of products for every expert. Each is a process that
stays, with the threads that the environment gives; their updates take turns. That they train the same model is checked
first: the losses of two updates must agree.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from _bench import CLOCKS, Results, Worker, arguments, in_turn, parsed, serve_worker

if TYPE_CHECKING:
    import torch

ARMS = {"ours": "lab train", "torch": "PyTorch", "off": "lab train, MLX_MOEBENCH_CPU_PATH=off"}
ROUTERS = ("smoe", "dense")
CLIP, RATE, DECAY = 0.25, 2e-3, 0.01
TOLERANCE = 1e-4
"""Between losses of two libraries, nats a token."""

WARM_UP = 5
"""PyTorch's first updates take twice as long."""

Update = Callable[[], tuple[float, int]]
"""Makes an update and returns its cross-entropy, nats a token, and its tokens."""


def our_update(router: str, quick: bool, folder: Path) -> Update:
    """An update of `lab train`; its first weights and its batch go to ``folder``."""
    from mlx_moebench.blas import load_fast_blas

    load_fast_blas()
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten

    from mlx_moebench.allocator import keep_freed_memory
    from mlx_moebench.lab.decoder import Model
    from mlx_moebench.lab.initial import initialise
    from mlx_moebench.lab.objective import Objective
    from mlx_moebench.lab.presets import PRESETS, model_args
    from mlx_moebench.lab.steps import Updater
    from mlx_moebench.models import select_device

    if select_device("auto") == "cpu":
        mx.disable_compile()
        keep_freed_memory()
    preset = PRESETS["tiny"]
    preset = replace(preset, batch_size=2, seq_length=32) if quick else preset
    args = model_args(preset, router)
    model = Model(args)
    initialise(model, args, 0)
    model.train()
    optimizer = optim.AdamW(RATE, weight_decay=DECAY, bias_correction=True)
    optimizer.init(model.trainable_parameters())
    group = mx.distributed.init()
    rows = np.random.default_rng(0).integers(0, args.vocab_size, (preset.batch_size, preset.seq_length + 1), np.int32)
    if not (path := folder / "first.npz").exists():
        weights = {name: np.array(value) for name, value in tree_flatten(model.parameters())}
        np.savez(path, allow_pickle=False, rows=rows, top_k=args.num_experts_per_tok, heads=preset.heads, **weights)
    update = Updater(model, Objective(model, 0.0, group), optimizer, CLIP, preset.batch_size, group)

    def once() -> tuple[float, int]:
        said = update(rows, RATE)
        return said.ce, said.tokens

    return once


def torch_update(folder: Path) -> Update:
    """The same update in PyTorch."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    file = np.load(folder / "first.npz", allow_pickle=False)
    ids = torch.as_tensor(file["rows"], dtype=torch.long)
    top_k, heads = int(file["top_k"]), int(file["heads"])
    names = [name for name in file.files if name not in ("rows", "top_k", "heads")]
    weights = {name: torch.nn.Parameter(torch.as_tensor(file[name])) for name in names}
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=DECAY)

    def once() -> tuple[float, int]:
        logits, balance = decoder(weights, ids[:, :-1], heads, top_k)
        ce = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        (ce + 0.01 * balance).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), CLIP)
        optimizer.step()
        return float(ce.detach()), ids[:, 1:].numel()

    return once


Weights = "dict[str, torch.Tensor]"


def decoder(weights: Weights, ids: torch.Tensor, heads: int, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, S, V] of ids [B, S], and the sum over layers of the balance of every sequence, 1 each at balance."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    x, balance, layer = weights["model.embed_tokens.weight"][ids], torch.zeros(()), 0
    while f"{(at := f'model.layers.{layer}')}.input_layernorm.weight" in weights:
        x = x + attention(weights, f"{at}.self_attn", norm(x, f"{at}.input_layernorm"), heads)
        h = norm(x, f"{at}.post_attention_layernorm")
        if f"{at}.mlp.gate.weight" in weights:
            y, loss = mixture(weights, f"{at}.mlp", h, top_k)
            x, balance = x + y, balance + loss
        else:
            hidden = F.relu(F.linear(h, weights[f"{at}.mlp.input_linear.weight"]))
            x = x + F.linear(hidden, weights[f"{at}.mlp.output_linear.weight"])
        layer += 1
    return F.linear(norm(x, "model.norm"), weights["lm_head.weight"], weights["lm_head.bias"]), balance


def attention(weights: Weights, at: str, x: torch.Tensor, heads: int) -> torch.Tensor:
    """Causal attention of x [B, S, D], with rotary positions on the first half of each head."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    rows, length, _ = x.shape
    q, k, v = (
        F.linear(x, weights[f"{at}.{name}_proj.weight"]).view(rows, length, heads, -1).transpose(1, 2) for name in "qkv"
    )
    turned = q.shape[-1] // 4 * 2
    angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, turned, 2) / turned)
    cos, sin = angles.cos(), angles.sin()

    def rotated(y: torch.Tensor) -> torch.Tensor:
        a, b, rest = y[..., : turned // 2], y[..., turned // 2 : turned], y[..., turned:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)

    y = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
    return F.linear(y.transpose(1, 2).reshape(rows, length, -1), weights[f"{at}.o_proj.weight"])


def mixture(weights: Weights, at: str, x: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of a block of experts with the router ``smoe``, and its balance loss."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    p = F.softmax(F.linear(x, weights[f"{at}.gate.weight"]), dim=-1)
    chosen, indices = p.topk(top_k, dim=-1)
    g = (chosen / chosen.sum(-1, keepdim=True)).flatten(0, 1)
    n_experts = p.shape[-1]
    load = F.one_hot(indices, n_experts).sum((1, 2)) / (x.shape[1] * top_k)
    balance = n_experts * (load * p.mean(1)).sum(-1).mean()
    flat, ids = x.flatten(0, 1), indices.flatten(0, 1)
    first = weights[f"{at}.experts.input_linear.weight"].unbind(0)
    second = weights[f"{at}.experts.output_linear.weight"].unbind(0)
    y = torch.zeros_like(flat)
    for expert in range(n_experts):
        token, slot = torch.where(ids == expert)
        out = F.linear(F.relu(F.linear(flat[token], first[expert])), second[expert])
        y = y.index_add(0, token, out * g[token, slot, None])
    return y.view_as(x), balance


def serve(kind: str, args: argparse.Namespace) -> None:
    """Be the process of one arm: ``rate`` makes an update and is its tokens a second, ``ce`` is that of the last."""
    update = torch_update(args.folder) if kind == "torch" else our_update(args.router[0], args.quick, args.folder)
    now, last = CLOCKS[args.clock], [0.0]

    def rate() -> float:
        start = now()
        last[0], tokens = update()
        return tokens / (now() - start)

    serve_worker({"rate": rate, "ce": lambda: last[0]})


def compare(router: str, results: Results, args: argparse.Namespace, folder: Path) -> None:
    """Add the ratios of one router."""
    folder.mkdir()
    common = ["--router", router, "--clock", args.clock, "--folder", str(folder), *(["--quick"] if args.quick else [])]
    with ExitStack() as stack:
        workers = {}
        for kind in ARMS:
            os.environ["MLX_MOEBENCH_CPU_PATH"] = "off" if kind == "off" else ""
            workers[kind] = Worker(__file__, "--worker", kind, *common)
            stack.callback(workers[kind].close)
            workers[kind].ask("ce")  # ours has written its weights then
        for number in (1, 2):
            ce = {kind: [worker.ask("rate"), worker.ask("ce")][1] for kind, worker in workers.items()}
            if max(ce.values()) - min(ce.values()) > TOLERANCE:
                raise SystemExit(f"{router}: the losses of update {number} are {ce}; that is not the same model.")
        arms = {ARMS[kind]: worker.arm("rate") for kind, worker in workers.items()}
        rates = in_turn(arms, args.rounds, router, warm_up=WARM_UP)
    unit = "tokens/s" if args.clock == "wall" else "tokens per second of processors"
    for kind in ("ours", "off"):
        results.ratio(f"{router}: {ARMS[kind]}", ARMS["torch"], rates[ARMS[kind]], rates[ARMS["torch"]], unit)
    results.ratio(f"{router}: {ARMS['ours']}", ARMS["off"], rates[ARMS["ours"]], rates[ARMS["off"]], unit)


def main() -> None:
    parser = arguments(__doc__, rounds=20)
    parser.add_argument("--router", nargs="+", choices=ROUTERS, default=list(ROUTERS))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--worker", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.worker:
        serve(args.worker, args)
        return
    results = Results("lab_step", args.quick)
    with tempfile.TemporaryDirectory() as place:
        for router in args.router:
            compare(router, results, args, Path(place) / router)
    results.note(
        "Rates: more than 1 is faster. The losses of two updates agreed between the arms to 1e-4 nats a token."
    )
    results.finish(args.json)


if __name__ == "__main__":
    sys.exit(main())
