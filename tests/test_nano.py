"""The embedded model: what it is, that other libraries read it, and that they see the same routing."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_moebench import load
from mlx_moebench.data import read_corpus
from mlx_moebench.instrument import capture
from mlx_moebench.models import NANO

NEAR_TIE = 1e-6


def test_size_and_form() -> None:
    from mlx.utils import tree_flatten

    model, tokenizer = load()
    parameters = sum(p.size for _, p in tree_flatten(model.parameters()))
    assert 5.0e6 <= parameters <= 5.7e6
    assert sum(f.stat().st_size for f in NANO.rglob("*") if f.is_file()) <= 12e6
    config = json.loads((NANO / "config.json").read_text())
    assert (config["model_type"], config["dtype"]) == ("olmoe", "bfloat16")
    assert (
        tokenizer.decode(tokenizer.encode("def f(x):\n    return x ** 2  # à ∑"))
        == "def f(x):\n    return x ** 2  # à ∑"
    )


def test_stock_mlx_lm_loads_it() -> None:
    import mlx_lm

    ours, tokenizer = load()
    stock, _ = mlx_lm.load(str(NANO))
    stock.set_dtype(mx.float32)  # as stored it is bf16, which MLX's expert kernels do not run on a CPU
    ids = mx.array([tokenizer.encode("What is 2 + 3? Add them.")])
    assert mx.array_equal(stock(ids), ours(ids))


def test_transformers_sees_the_same_routing() -> None:
    """Same chosen sets (near-ties listed), routing distribution within 1e-5, from transformers' own router modules."""
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    from transformers import OlmoeForCausalLM

    torch.set_num_threads(1)  # beside MLX's BLAS threads more of them only wait for each other
    ours, tokenizer = load()
    theirs = OlmoeForCausalLM.from_pretrained(NANO, dtype=torch.float32)
    theirs.eval()
    their_logits: dict[int, np.ndarray] = {}
    their_indices: dict[int, np.ndarray] = {}
    for number, layer in enumerate(theirs.model.layers):

        def note(_module: object, _inputs: object, output: tuple[torch.Tensor, ...], number: int = number) -> None:
            logits, _weights, indices = output
            their_logits[number], their_indices[number] = logits.detach().numpy(), indices.numpy()

        layer.mlp.gate.register_forward_hook(note)

    our_logits: dict[int, np.ndarray] = {}
    our_indices: dict[int, np.ndarray] = {}

    def sink(number: int, logits: mx.array, indices: mx.array, _shape: tuple[int, ...]) -> None:
        our_logits[number], our_indices[number] = np.array(logits), np.array(indices)

    ties = []
    with capture(ours, sink):
        for name in ("math", "general", "code"):
            for document in read_corpus(name, max_samples=5).documents:
                ids = tokenizer.encode(document.text)
                mx.eval(ours(mx.array([ids])))
                with torch.no_grad():
                    theirs(torch.tensor([ids]), use_cache=False)
                for layer in range(6):
                    assert not np.allclose(their_logits[layer].sum(-1), 1), "router_logits were already softmaxed"
                    p, q = _softmax(our_logits[layer]), _softmax(their_logits[layer])
                    np.testing.assert_allclose(p, q, atol=1e-5, rtol=0)
                    for token in range(len(ids)):
                        if set(our_indices[layer][token]) != set(their_indices[layer][token]):
                            ordered = np.sort(p[token])[::-1]
                            ties.append((document.row, layer, token, float(ordered[1] - ordered[2])))
    assert all(gap < NEAR_TIE for *_, gap in ties), f"chosen sets differ away from ties: {ties}"


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64) - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
