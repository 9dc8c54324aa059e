"""Time of `analyze` over that of other ways to the same: plain forwards, router logits of transformers, and moewatch.

python benchmarks/peers.py [--part torch mlx] [--rounds 10] [--tokens 2048] [--clock wall] [--moewatch FOLDER]
    [--quick] [--json PATH]

All run the same OLMoE-shaped checkpoint (`_models.SMALL`) with random float32 weights on the same tokens, 8 rows, with
the threads that the environment gives. transformers with moewatch, our torch backend, mlx-lm and our MLX backend are a
process each, which stay; their arms take turns. What is timed begins with a loaded model and ends with the numbers in
memory: of ours a whole `analyze` of texts, encoding included. No arm keeps a KV cache.

transformers: the body alone, which is the least that any hook can cost; the body with ``output_router_logits``, which
leaves counting to the reader; and as its documentation shows it, with the output head and the loss of the balance.

moewatch 0.1.0 is not a dependency. ``pip install --no-deps --target FOLDER moewatch==0.1.0`` brings it, and
``--moewatch FOLDER`` uses it; without it a sentence says so. Its own detection takes the blocks of experts for routers,
so it is given the gates (`router_modules`). It is run as its documentation says, on the model with its head, and on the
body. Beside the times its numbers are held against ours of the same batch.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _bench import CLOCKS, Results, Worker, arguments, in_turn, parsed, serve_worker, timed
from _models import SMALL, TINY, Numbers, Shape, as_texts, random_ids, write_checkpoint

ROWS = 8
WITHOUT = (
    "moewatch is not there, so it was not compared: pip install --no-deps --target FOLDER moewatch==0.1.0, then "
    "--moewatch FOLDER."
)
OURS = {"torch": "analyze --backend torch", "mlx": "analyze (MLX)"}
CLOCK = {"wall": "times by the clock", "cpu": "times are of processors, since other programs ran, too"}
Answers = dict[str, Callable[[], object]]


def transformers_arms(folder: Path, shape: Shape, ids: np.ndarray, clock: str) -> Answers:
    """Forwards of transformers, and moewatch's audit of them where it is installed."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batch = {"input_ids": torch.as_tensor(ids, dtype=torch.long), "use_cache": False}
    with torch.inference_mode():
        logits = model.model(**batch, output_router_logits=True).router_logits
    assert not torch.allclose(logits[0].sum(-1), torch.ones(ids.size)), "these router logits went through a softmax"

    def forward(run: Any, **options: bool) -> Callable[[], object]:
        def once() -> None:
            with torch.inference_mode():
                run(**batch, **options)

        return timed(once, clock)

    answers: Answers = {
        "body": forward(model.model),
        "router logits": forward(model.model, output_router_logits=True),
        "router logits, head": forward(model, output_router_logits=True),
        "threads": torch.get_num_threads,
    }
    try:
        moewatch = importlib.import_module("moewatch")
    except ImportError:
        return answers | {"moewatch": lambda: None}
    return answers | moewatch_arms(moewatch, model, shape, batch, clock)


def moewatch_arms(moewatch: Any, model: Any, shape: Shape, batch: dict[str, Any], clock: str) -> Answers:
    """Its audit of one batch, timed, and what it says of it."""
    import torch

    warnings.simplefilter("ignore")  # of few steps, and of hearing every one of them
    gates = [f"layers.{layer}.mlp.gate" for layer in range(shape.layers)]

    def audit(run: Any, modules: list[str], given: dict[str, Any]) -> Any:
        config = moewatch.WatchConfig(output="silent", sample_every=1, router_modules=modules)
        return moewatch.audit(run, [given], steps=1, config=config, verbose=False)

    def said() -> dict[str, Any]:
        report = audit(model.model, gates, batch)
        alone = audit(model.model, [], batch)
        mask = torch.ones_like(batch["input_ids"])
        mask[:, mask.shape[1] // 2 :] = 0
        padded = audit(model.model, gates, batch | {"attention_mask": mask})
        return {
            "counts": [report.layer_stats(gate).expert_counts.tolist() for gate in gates],
            "tokens": report.layer_stats(gates[0]).total_tokens,
            "detected": sorted({alone.layer_stats(name).n_experts for name in alone.layer_names()}),
            "padded": padded.layer_stats(gates[0]).total_tokens,
            "of which text": int(mask.sum()),
        }

    named = [f"model.{gate}" for gate in gates]
    return {
        "moewatch": timed(lambda: audit(model, named, batch), clock),
        "moewatch, body": timed(lambda: audit(model.model, gates, batch), clock),
        "said": said,
    }


def our_arms(backend: str, folder: Path, ids: np.ndarray, clock: str) -> Answers:
    """`analyze` on one of our backends."""
    import mlx_moebench
    from mlx_moebench.measure.backends import backend_named
    from mlx_moebench.options import Loading, quiet_step

    runner = backend_named(backend)
    runner.select_device("auto")
    checkpoint = replace(runner.load(folder, Loading(backend=backend), quiet_step), tokenizer=Numbers())
    texts = as_texts(ids)

    def analyze() -> Any:
        return mlx_moebench.analyze(checkpoint, texts, backend=backend, batch_size=ROWS, max_length=ids.shape[1])

    def counts() -> dict[str, Any]:
        stats = analyze()
        sums = [stats.totals(number) for number in range(len(stats.specs))]
        return {name: [getattr(one, name).tolist() for one in sums] for name in ("counts", "top1_counts")}

    return {"analyze": timed(analyze, clock), "counts": counts}


def mlx_lm_arms(folder: Path, ids: np.ndarray, clock: str) -> Answers:
    """Plain forwards of mlx-lm, on the BLAS that this package brings it; see docs/benchmarks.md."""
    from mlx_moebench.models import select_device

    select_device("auto")
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    tokens = mx.array(ids)
    return {
        "body": timed(lambda: mx.eval(model.model(tokens)), clock),
        "head": timed(lambda: mx.eval(model(tokens)), clock),
    }


def arms_of(worker: str, folder: Path, shape: Shape, ids: np.ndarray, clock: str) -> Answers:
    """What a worker can be asked for."""
    if worker == "transformers":
        return transformers_arms(folder, shape, ids, clock)
    return mlx_lm_arms(folder, ids, clock) if worker == "mlx-lm" else our_arms(worker, folder, ids, clock)


def compare(folder: Path, tokens: int, args: Any, results: Results) -> None:
    """Start the workers, run them in turn, and fill ``results``."""
    script, common = str(Path(__file__)), ["--folder", str(folder), "--tokens", str(tokens), "--clock", args.clock]
    common += ["--quick"] if args.quick else []
    common += ["--moewatch", str(args.moewatch)] if args.moewatch else []
    with ExitStack() as stack:

        def worker(kind: str) -> Worker:
            started = Worker(script, "--worker", kind, *common)
            stack.callback(started.close)
            return started

        theirs = worker("transformers")
        results.note(
            f"{tokens:,} tokens in {ROWS} rows; threads of torch: {theirs.ask('threads')}; {CLOCK[args.clock]}."
        )
        names = ("body", "router logits", "router logits, head")
        peers = {f"transformers, {name}": theirs.arm(name) for name in names}
        there = theirs.ask("moewatch") is not None
        if there:
            peers |= {name: theirs.arm(name) for name in ("moewatch", "moewatch, body")}
        else:
            results.note(WITHOUT)
        for part in args.part:  # one after the other: rounds are short where no slow arm is among them
            ours = worker(part)
            arms = dict(peers)
            if part == "mlx":
                plain = worker("mlx-lm")
                arms |= {f"mlx-lm, {name}": plain.arm(name) for name in ("body", "head")}
            times = in_turn(arms | {OURS[part]: ours.arm("analyze")}, args.rounds, f"peers of {part}")
            for other in arms:
                results.ratio(OURS[part], other, times[OURS[part]], times[other])
            if part == args.part[0]:
                first = "transformers, body"
                for other in [other for other in peers if other != first]:
                    results.ratio(other, first, times[other], times[first])
                if there:
                    hold_against(theirs.ask("said"), ours.ask("counts"), args, results)


def hold_against(theirs: dict[str, Any], ours: dict[str, Any], args: Any, results: Results) -> None:
    """What moewatch counts beside what we count of the same batch."""
    shape = TINY if args.quick else SMALL
    counts, top1, chosen = (np.array(rows) for rows in (theirs["counts"], ours["top1_counts"], ours["counts"]))
    results.note(
        f"moewatch, given the gates, counts {counts[0].sum():,} a layer of {theirs['tokens']:,} tokens, where "
        f"the experts ran on {int(chosen[0].sum()):,} (top-{shape.top_k}): its counts are of the argmax. As such "
        f"{(counts == top1).sum()} of {counts.size} equal our top1_counts, and {(counts == chosen).sum()} our counts."
    )
    shares, loads = (rows / rows.sum(-1, keepdims=True) for rows in (counts, chosen))
    results.note(
        f"Its busiest expert of a layer has {shares.max():.1%} of what it counts, that of the selections "
        f"{loads.max():.1%}; experts below 0.1% of what it counts: {(shares < 0.001).sum()}, of the "
        f"selections: {(loads < 0.001).sum()}."
    )
    results.note(
        f"moewatch, left to its own detection, reports {' and '.join(map(str, theirs['detected']))} experts a layer of "
        f"{shape.experts}: it reads the block's hidden states as logits."
    )
    results.note(
        f"With an attention mask that leaves {theirs['of which text']:,} tokens, moewatch counts {theirs['padded']:,}: "
        "padding, too."
    )


def main() -> None:
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--part", nargs="+", choices=("torch", "mlx"), default=["torch", "mlx"], help="our backends")
    parser.add_argument("--tokens", type=int, help="of a forward, in 8 rows, by default 2,048")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of processors, where other programs run")
    parser.add_argument("--moewatch", type=Path, metavar="FOLDER", help="where moewatch was installed with --target")
    parser.add_argument("--worker", choices=("transformers", "torch", "mlx", "mlx-lm"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parsed(parser)
    shape, tokens = (TINY, args.tokens or 256) if args.quick else (SMALL, args.tokens or 2048)
    if args.moewatch:
        sys.path.append(str(args.moewatch))
    if args.worker:
        serve_worker(arms_of(args.worker, args.folder, shape, random_ids(shape, ROWS, tokens), args.clock))
        return
    results = Results("peers", args.quick)
    with tempfile.TemporaryDirectory() as folder:
        compare(write_checkpoint(Path(folder) / "model", shape), tokens, args, results)
    results.note(
        f"{shape.name}: {shape.layers} layers, width {shape.hidden}, {shape.experts} experts of {shape.expert}, top-"
        f"{shape.top_k}, vocabulary {shape.vocabulary:,}, {shape.parameters:,} parameters."
    )
    results.finish(args.json)


if __name__ == "__main__":
    main()
