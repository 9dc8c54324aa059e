"""Softmax and cross-entropy with gradients, in NumPy on a Linux CPU, where MLX takes one exponential at a time.

Up to float32 rounding they are MLX's own, which is what runs on a GPU, on macOS, with ``MLX_MOEBENCH_CPU_PATH=off``,
and inside `mx.compile`.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..routing.record import Array
from .capture import is_traced
from .cpu_path import has_cpu_path
from .grouped import Floats, in_threads, shared_memory

AT_A_TIME = 2**16
"""Numbers that are taken through all passes together; they stay in a second-level cache."""


def softmax(x: Array) -> Array:
    """exp(x) / sum exp(x) along the last axis, of any shape; -inf gives 0, a row of -inf alone NaN."""
    if not _in_numpy(x):
        return mx.softmax(x, axis=-1)

    @mx.custom_function
    def run(x: Array) -> Array:
        rows = _rows(x)
        p = np.empty_like(rows)
        _by_blocks(rows, lambda block: _softmax(rows[block], p[block]))
        return mx.array(p).reshape(x.shape)

    @run.vjp
    def run_vjp(x: Array, cotangent: Array, output: Array) -> Array:
        p, d_p = _rows(output), _rows(cotangent)
        d_x = np.empty_like(p)

        def block_of(block: slice) -> None:
            dot = np.einsum("ij,ij->i", p[block], d_p[block])[:, None]
            np.subtract(d_p[block], dot, out=d_x[block])
            d_x[block] *= p[block]

        _by_blocks(p, block_of)
        return mx.array(d_x).reshape(x.shape)

    y: Array = run(x)
    return y


def cross_entropy(logits: Array, targets: Array) -> Array:
    """-ln softmax(logits)[target] in nats, [...] float32, of logits [..., V] and token ids [...]."""
    if not _in_numpy(logits):
        losses: Array = nn.losses.cross_entropy(logits, targets)
        return losses
    ids = np.array(targets).reshape(-1)
    tops, sums = (np.empty(len(ids), dtype=np.float32) for _ in range(2))

    @mx.custom_function
    def run(logits: Array) -> Array:
        rows = _rows(logits)

        def block_of(block: slice) -> None:
            part = rows[block]
            tops[block] = part.max(axis=-1)
            sums[block] = np.exp(part - tops[block, None]).sum(axis=-1)

        _by_blocks(rows, block_of)
        return mx.array(np.log(sums) + (tops - rows[np.arange(len(rows)), ids])).reshape(targets.shape)

    @run.vjp
    def run_vjp(logits: Array, cotangent: Array, output: Array) -> Array:
        rows, d_loss = _rows(logits), shared_memory(cotangent).reshape(-1)
        d_logits = np.empty_like(rows)

        def block_of(block: slice) -> None:
            part = d_logits[block]
            np.subtract(rows[block], tops[block, None], out=part)
            np.exp(part, out=part)
            part *= (d_loss[block] / sums[block])[:, None]
            part[np.arange(len(part)), ids[block]] -= d_loss[block]

        _by_blocks(rows, block_of)
        return mx.array(d_logits).reshape(logits.shape)

    y: Array = run(logits)
    return y


def _in_numpy(x: Array) -> bool:
    return has_cpu_path() and x.dtype == mx.float32 and x.size > 0 and not is_traced(x)


def _rows(x: Array) -> Floats:
    return shared_memory(x).reshape(-1, x.shape[-1])


def _softmax(x: Floats, p: Floats) -> None:
    np.subtract(x, x.max(axis=-1, keepdims=True), out=p)
    np.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)


def _by_blocks(rows: Floats, run: Callable[[slice], None]) -> None:
    """``run`` every few rows."""
    step = max(1, AT_A_TIME // rows.shape[-1])
    parts = [(0, start, min(start + step, len(rows))) for start in range(0, len(rows), step)]
    in_threads(lambda part: run(slice(part[1], part[2])), parts)
