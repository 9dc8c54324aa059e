"""Random routing records, and the definitions written out as slow float64 loops to compare the package with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from mlx_moebench import RoutingStats
from mlx_moebench.files import header_of
from mlx_moebench.pair.seal import SEAL, sums_seal
from mlx_moebench.pair.storage import FORMAT
from mlx_moebench.routing import RouterSpec, Routing, Sums, tally
from mlx_moebench.routing.sums import FIELDS
from mlx_moebench.routing.tally import SCALARS, transition_counts

SCHEMA = json.loads(files("mlx_moebench.routing").joinpath("schema/routing_stats.schema.json").read_text("utf-8"))


def random_routing(
    seed: int = 0,
    shape: tuple[int, int] = (3, 9),
    experts: int = 6,
    top_k: int = 2,
    rule: str = "softmax",
    mask: np.ndarray | None = None,
    bias: bool = False,
) -> Routing:
    """Normal logits; the K with the best score (p, or p + bias) in a random order; weights p over the chosen."""
    rng = np.random.default_rng(seed)
    logits = (2 * rng.standard_normal((*shape, experts))).astype(np.float32)
    p = probabilities(logits, rule)
    score = p + (rng.normal(0, 0.2, experts) if bias else 0.0)
    indices = rng.permuted(np.argsort(-score, axis=-1)[..., :top_k], axis=-1)
    weights = np.take_along_axis(p, indices, -1)
    return Routing(
        logits=logits,
        indices=indices.astype(np.int32),
        weights=weights.astype(np.float32),
        mask=np.ones(shape, bool) if mask is None else mask,
        distribution=rule,  # type: ignore[arg-type]
        selection=score.astype(np.float32) if bias else None,
    )


def probabilities(logits: np.ndarray, rule: str) -> np.ndarray:
    z = np.asarray(logits, np.float64)
    if rule == "sigmoid_normalised":
        s = 1 / (1 + np.exp(-z))
        return s / s.sum(-1, keepdims=True)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def plogp(p: Any) -> float:
    return -sum(float(x) * math.log(x) for x in p if x > 0)


def slow_tally(r: Routing) -> dict[str, np.ndarray]:
    """`tally` one token at a time."""
    p_all = probabilities(r.logits, r.distribution)
    batch, length, experts = r.logits.shape
    out = {
        "n_tokens": np.zeros(batch, int),
        "counts": np.zeros((batch, experts), int),
        "top1_counts": np.zeros((batch, experts), int),
        "p_sum": np.zeros((batch, experts)),
        "scalars": np.zeros((batch, len(SCALARS))),
        "pairs": np.zeros((experts, experts), int),
    }
    for b in range(batch):
        for t in range(length):
            if not r.mask[b, t]:
                continue
            p, chosen = p_all[b, t], sorted(int(i) for i in r.indices[b, t])
            q = np.sort(r.weights[b, t].astype(float) / r.weights[b, t].astype(float).sum())[::-1]
            score = p if r.selection is None else r.selection[b, t]
            rest = [score[i] for i in range(experts) if i not in chosen]
            best = sorted(p, reverse=True)
            margin = min(score[i] for i in chosen) - max(rest) if rest else math.nan
            token = {
                "entropy": plogp(p),
                "topk_entropy": plogp(q),
                "margin_prob": best[0] - best[1],
                "margin_weight": q[0] - q[1] if len(q) > 1 else 0.0,
                "selection_margin": margin,
                "tied": float(margin == 0),
                "z_squared": math.log(sum(math.exp(float(z)) for z in r.logits[b, t])) ** 2,
            }
            if t + 1 < length and r.mask[b, t + 1]:
                token["adjacent_shared"] = len(set(chosen) & {int(i) for i in r.indices[b, t + 1]})
                token["adjacent_pairs"] = 1
            out["n_tokens"][b] += 1
            out["top1_counts"][b, min(chosen, key=lambda i: (-p[i], i))] += 1
            out["p_sum"][b] += p
            for name, value in token.items():
                out["scalars"][b, SCALARS.index(name)] += value
            for i in chosen:
                out["counts"][b, i] += 1
                for j in chosen:
                    out["pairs"][i, j] += 1
    return out


def make_stats(
    rows: range = range(12),
    *,
    specs: tuple[RouterSpec, ...] | None = None,
    sha: str = "a" * 64,
    length: int = 14,
    max_length: int | None = 64,
    reading: Mapping[str, str] | None = None,
    **settings: Any,
) -> RoutingStats:
    """Statistics of random routing on rows of a made-up data set; a row's routing depends on sha and row alone."""
    specs = specs or tuple(RouterSpec(layer, layer, "mlp", 8, 2) for layer in range(3))
    settings = {"model": MODEL, "environment": ENVIRONMENT} | settings
    source = {"name": f"data-{sha[0]}", "max_length": max_length, "padding": "right, masked", "bos": None} | dict(
        reading or {}
    )
    stats = RoutingStats(specs, sources={sha: source}, **settings)
    for row in rows:
        before = None
        for number, spec in enumerate(specs):
            seed = 1000 * row + 10 * number + ord(sha[0])
            t = tally(random_routing(seed, (1, length + row % 5), spec.n_experts, spec.top_k, spec.distribution))
            stats.add(number, [(sha, row)], t)
            if before is not None:
                stats.add_transition(number - 1, transition_counts(before, t.selected))
            before = t.selected
    return stats


def reseal(path: Path, tensors: Change | None = None, facts: Change | None = None) -> None:
    """Change a file of sums as somebody may who knows how to seal it: what it holds is then all that can be wrong."""
    from safetensors.numpy import load, save

    blob = path.read_bytes()
    arrays, kept = load(blob), json.loads(header_of(blob).metadata[FORMAT])
    if tensors is not None:
        tensors(arrays)
    if facts is not None:
        facts(kept)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    path.write_bytes(save(arrays, {FORMAT: json.dumps(kept | {SEAL: sums_seal(kept, arrays)})}))


Change = Callable[[dict[str, Any]], object]
"""Changes a dictionary in place."""


MODEL = {
    "id": "test/tiny",
    "revision": None,
    "model_type": "olmoe",
    "dtype": "float32",
    "weight_bits": 32,
    "router_bits": 32,
    "backend": "mlx",
}
ENVIRONMENT = {
    "mlx_moebench": "0",
    "python": "3",
    "platform": "test",
    "numpy": "2",
    "mlx": None,
    "mlx_lm": None,
    "device": "cpu",
    "blas": None,
    "threads": 1,
}


def sums_of(packed: dict[str, np.ndarray], top_k: int, distribution: str = "softmax") -> Sums:
    """`Sums` of a `slow_tally` or of arrays named like one."""
    fields = {k: packed[k] for k in ("n_tokens", "counts", "top1_counts", "p_sum", "scalars")}
    return Sums(fields["counts"].shape[-1], top_k, distribution, **fields)  # type: ignore[arg-type]


def validate(report: Any) -> None:
    """Against the schema, as a reader in another language would see the report."""
    text = json.dumps(report, allow_nan=False)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))


def assert_same(a: RoutingStats, b: RoutingStats) -> None:
    assert a.specs == b.specs
    assert a.clusters == b.clusters
    assert (a.phase, a.tau, a.collapse_on, a.model) == (b.phase, b.tau, b.collapse_on, b.model)
    assert a.sources == b.sources
    assert a.texts == b.texts
    for number in range(len(a.specs)):
        for name in FIELDS:
            x, y = getattr(a.sums(number), name), getattr(b.sums(number), name)
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y, err_msg=name)
        np.testing.assert_array_equal(a.pairs(number), b.pairs(number))
    for number in range(len(a.specs) - 1):
        np.testing.assert_array_equal(a.transition_counts(number), b.transition_counts(number))
