"""The routers of the lab written out a second time, token by token in NumPy float64, from the methods' equations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Numbers = np.ndarray[Any, np.dtype[np.float64]]


class Said(NamedTuple):
    """Of one token: logits [R], what was chosen in order, g of each (positive), and the block's output [D]."""

    logits: Numbers
    chosen: list[int]
    weights: list[float]
    output: Numbers


def softmax(z: Numbers) -> Numbers:
    e = np.exp(z - z.max())
    return e / e.sum()


def sigmoid(z: Numbers) -> Numbers:
    return 1 / (1 + np.exp(-z))


def best(scores: Numbers, k: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:k]


def ffn(first: Numbers, second: Numbers, x: Numbers) -> Numbers:
    return second @ np.maximum(first @ x, 0)


def block(name: str, spec: str, w: Mapping[str, Numbers], k: int, x: Numbers, before: Numbers | None) -> Said:
    """One token x [D] through the block of router ``name``; w: its parameters, as they are named in the model."""
    first, second = w["experts.input_linear.weight"], w["experts.output_linear.weight"]
    n = len(first)

    def expert(i: int) -> Numbers:
        return ffn(first[i], second[i], x)

    if name == "xmoe":
        r, v = w["gate.reduce"] @ x, w["gate.weight"]
        z = np.array([1.5 * (r @ one) / (np.linalg.norm(r) * np.linalg.norm(one)) / 0.3 for one in v])
        z = softmax(z) - 1 / n if spec == "libmoe" else z
    else:
        z = w["gate.weight"] @ x
    if name in ("smoe", "xmoe", "shared_v2"):
        p = softmax(z)
        chosen = best(p, k)
        g = [p[i] / sum(p[j] for j in chosen) for i in chosen]
        y = sum(weight * expert(i) for weight, i in zip(g, chosen, strict=True))
    elif name == "sigma":
        s = sigmoid(z)
        chosen = best(s, k)
        g = [s[i] / (sum(s[j] for j in chosen) if spec == "libmoe" else 1) for i in chosen]
        y = sum(weight * expert(i) for weight, i in zip(g, chosen, strict=True))
    elif name == "shared_v3":
        s, paper = sigmoid(z), spec == "paper"
        chosen = best(s + w["selection_bias"], k) if paper else best(s, k)
        g = [(2.5 if paper else 1.0) * s[i] / sum(s[j] for j in chosen) for i in chosen]
        y = sum(weight * expert(i) for weight, i in zip(g, chosen, strict=True))
    elif name == "tc_moe":
        z = z.copy()
        z[n : 2 * n] -= 1
        z[2 * n :] -= 10
        p = softmax(z)
        chosen = best(p, k)
        divisor = sum(p[i] for i in chosen if i < 2 * n) + p[2 * n :].sum()
        g = [p[i] / divisor for i in chosen]
        signs = [1 if i < n else -1 if i < 2 * n else 0 for i in chosen]
        y = sum(sign * weight * expert(i % n) for sign, weight, i in zip(signs, g, chosen, strict=True))
    elif name == "moepp":
        z = z if before is None else z + w["gate.carry"] @ before
        p, constants = softmax(z), w["experts.constant"]
        chosen, zero = best(p, k), len(z) - 1
        kept = [0.0 if i == zero else p[i] for i in chosen]
        g = [one / sum(kept) for one in kept]

        def column(i: int) -> Numbers:
            if i < n:
                return expert(i)
            if i < n + len(constants):
                a = softmax(w["experts.mix"][2 * (i - n) : 2 * (i - n) + 2] @ x)
                return a[0] * x + a[1] * constants[i - n]
            return x if i == zero - 1 else np.zeros_like(x)

        y = sum(weight * column(i) for weight, i in zip(g, chosen, strict=True))
    else:
        raise KeyError(f"write the equations of {name!r} here")
    if "shared.input_linear.weight" in w:
        y = y + ffn(w["shared.input_linear.weight"], w["shared.output_linear.weight"], x)
    return Said(z, chosen, g, np.asarray(y))


def entropy(p: Numbers) -> float:
    return -sum(one * math.log(one) for one in p if one > 0)
