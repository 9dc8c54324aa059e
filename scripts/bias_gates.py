"""Make a checkpoint whose routing is collapsed on purpose: a few experts of every layer get a head start.

    python scripts/bias_gates.py --out runs/biased --experts 3 --bias 4

A gate has no bias of its own, so one is built into its weights: v is fitted by least squares so that v . x is about 1
for every token's hidden state x at the gate, and ``bias`` times v is added to the rows of the chosen experts. Every
other weight is that of the model, so what a training must undo is the routing alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_moebench.data import batches, encode, read_corpus
from mlx_moebench.models import load_checkpoint

import mlx.core as mx  # isort: skip
from safetensors.numpy import load_file, save_file  # isort: skip


def gate_inputs(model: Any, tokenizer: Any) -> list[npt.NDArray[np.float64]]:
    """[tokens, D] hidden states at the gate of each layer, on the bundled prompts."""
    seen: list[list[npt.NDArray[np.float64]]] = [[] for _ in model.layers]
    numbers = {id(layer.mlp.gate): n for n, layer in enumerate(model.layers)}
    plain = type(model.layers[0].mlp.gate)

    class Recording(plain):  # type: ignore[misc, valid-type]
        def __call__(self, x: mx.array) -> mx.array:
            seen[numbers[id(self)]].append(np.array(x.reshape(-1, x.shape[-1]), dtype=np.float64)[valid])
            return plain.__call__(self, x)

    for layer in model.layers:
        layer.mlp.gate.__class__ = Recording
    for name in ("math", "general", "code"):
        for batch in batches(encode(read_corpus(name), tokenizer, 128), 8):
            valid = batch.mask.reshape(-1)
            mx.eval(model(mx.array(batch.ids)))
    for layer in model.layers:
        layer.mlp.gate.__class__ = plain
    return [np.concatenate(parts) for parts in seen]


def constant_direction(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """v [D] with v . x about 1 for all rows of ``x`` (ridge regression of 1 on x)."""
    ridge = 1e-3 * np.trace(x.T @ x) / x.shape[1] * np.eye(x.shape[1])
    v: npt.NDArray[np.float64] = np.linalg.solve(x.T @ x + ridge, x.T @ np.ones(len(x)))
    return v


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="an OLMoE folder in one safetensors file [moebench-nano]")
    parser.add_argument("--out", type=Path, default=Path("runs/biased"))
    parser.add_argument("--experts", type=int, default=3, help="of each layer that get the head start")
    parser.add_argument("--bias", type=float, default=4.0, help="added to their logits, nats")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    inputs = gate_inputs(checkpoint.model, checkpoint.tokenizer)
    args.out.mkdir(parents=True, exist_ok=True)
    for file in checkpoint.path.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, args.out / file.name)
    settings = json.loads((args.out / "config.json").read_text())
    settings |= {"dtype": "float32"}
    (args.out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    weights = _float32(checkpoint.path / "model.safetensors")
    for layer, x in enumerate(inputs):
        v = constant_direction(x)
        chosen = np.random.default_rng(layer).choice(settings["num_experts"], args.experts, replace=False)
        name = f"model.layers.{layer}.mlp.gate.weight"
        weights[name] = weights[name].copy()
        weights[name][chosen] += (args.bias * v).astype(np.float32)
        print(f"layer {layer}: experts {sorted(map(int, chosen))}, v . x = {(x @ v).mean():.3f} +- {(x @ v).std():.3f}")
    save_file(weights, args.out / "model.safetensors", {"format": "pt"})
    print(f"Wrote {args.out}")


def _float32(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    try:
        return {name: array.astype(np.float32) for name, array in load_file(path).items()}
    except TypeError:  # NumPy has no bfloat16
        return {name: np.array(array.astype(mx.float32)) for name, array in mx.load(str(path)).items()}


if __name__ == "__main__":
    main()
