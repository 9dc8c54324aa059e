"""The experts of a layer on a CPU: tokens sorted by expert, one matrix product for each expert and projection.

On a CPU `mx.gather_mm` multiplies one row at a time, and MLX's exp takes 15 ns an element. NumPy has a SIMD exp, works
on MLX's own memory without a copy, and lets go of the interpreter's lock, so that threads take an expert each; a block
of rows stays in the cache from its first product to its last. benchmarks/cpu_path.py measures what that gives.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..blas import NumpyThreads, numpy_threads
from ..routing.record import Array
from ..types import HostArray
from .capture import is_traced

Floats = npt.NDArray[np.float32]

BLOCK = 256
"""Rows that are taken through an expert together; its gate and up outputs then fit into a second-level cache."""


@dataclass(frozen=True)
class Grouping:
    """Which rows go to which expert.

    order: [N K] the selections sorted by expert, a selection being token x K + slot. rows: [N K] the token of each.
    parts: (expert, start, stop) of each expert with a selection, as a range of ``order``.
    """

    order: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    parts: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, indices: Array, n_experts: int) -> Grouping:
        """indices: [..., K] of experts, those of n_experts or more in no part; evaluated here, so no placeholder."""
        chosen = np.minimum(np.array(indices), n_experts).astype(np.min_scalar_type(n_experts)).reshape(-1)
        order = np.argsort(chosen, kind="stable")  # small integers sort by radix
        ends = np.cumsum(np.bincount(chosen, minlength=n_experts)[:n_experts]).tolist()
        starts = [0, *ends[:-1]]
        parts = ((expert, start, stop) for expert, (start, stop) in enumerate(zip(starts, ends, strict=True)))
        return cls(order, order // indices.shape[-1], tuple(part for part in parts if part[1] < part[2]))

    def outputs(self, width: int) -> Floats:
        """[N K, width] to be filled part by part, 0 where no part is."""
        whole = sum(stop - start for _, start, stop in self.parts) == self.order.size
        return (np.empty if whole else np.zeros)((self.order.size, width), dtype=np.float32)

    @property
    def inverse(self) -> npt.NDArray[np.int64]:
        """Where each selection went."""
        inverse = np.empty_like(self.order)
        inverse[self.order] = np.arange(len(self.order))
        return inverse


class Network(NamedTuple):
    """What an expert does with its rows, and the gradient of that.

    forward: (rows [n, D], the expert's weights) -> [n, D]. backward: (rows, gradient in the output [n, D], weights) ->
    (gradient in rows [n, D], for each weight the two matrices whose product [.., n] [n, ..] is its gradient).
    """

    forward: Callable[[Floats, Sequence[Floats]], HostArray]
    backward: Callable[[Floats, Floats, Sequence[Floats]], tuple[HostArray, tuple[tuple[HostArray, HostArray], ...]]]


def grouped_experts(x: Array, indices: Array, gate: Array, up: Array, down: Array, *, frozen: bool = False) -> Array:
    """What the chosen experts make of each token: y[n, k] = down_e (silu(gate_e x_n) * (up_e x_n)), e = indices[n, k].

    x: [N, D]. indices: [N, K] integers in [0, E). gate and up: [E, H, D]; down: [E, D, H]. All float32, on the CPU.
    frozen: the weights need no gradient. Returns [N, K, D], as mlx-lm's ``SwitchGLU`` does up to rounding, computed at
    once and not when it is evaluated.

    It has a gradient in x and the weights, also inside `mx.checkpoint`: the inner products are computed again instead
    of being kept. There is no forward derivative, as stock mlx-lm has none, and no second one. Inside `mx.compile`,
    where nothing can be computed yet, it is `gathered_experts`.
    """
    if is_traced(x, indices, gate, up, down):
        return gathered_experts(x, indices, gate, up, down)
    return run_grouped(_GLU, x, indices, (gate, up, down), frozen=frozen)


def run_grouped(network: Network, x: Array, indices: Array, weights: Sequence[Array], *, frozen: bool = False) -> Array:
    """What ``network`` makes of each token with the weights [E, .., ..] of the experts that it chose, as in
    `grouped_experts`; 0, with no gradient, for an index of E or more. Nothing may be a placeholder of `mx.compile`."""
    grouping, shape = Grouping.of(indices, weights[0].shape[0]), tuple(indices.shape)
    shared = [shared_memory(weight) for weight in weights]

    @mx.custom_function
    def run(x: Array, *_: Array) -> Array:
        return mx.array(_forward(network, grouping, shared_memory(x), shared)).reshape(*shape, -1)

    @run.vjp
    def run_vjp(primals: Array | Sequence[Array], cotangent: Array, output: Array) -> Array | tuple[Array, ...]:
        x = primals if isinstance(primals, mx.array) else primals[0]
        dy = shared_memory(cotangent).reshape(grouping.order.size, -1)
        dx, d_weights = _backward(network, grouping, dy, shared_memory(x), shared, frozen=frozen)
        d_x = mx.array(dx).reshape(*shape, -1).sum(axis=1)
        return d_x if frozen else (d_x, *map(mx.array, d_weights))

    @run.jvp
    def run_jvp(primals: Sequence[Array], tangents: Sequence[Array]) -> Array:
        raise NotImplementedError("grouped experts have no forward derivative; take mx.vjp or mx.grad.")

    y: Array = run(x) if frozen else run(x, *weights)
    return y


def gathered_experts(x: Array, indices: Array, gate: Array, up: Array, down: Array) -> Array:
    """`grouped_experts` on any device, in MLX alone and when it is evaluated."""
    chosen = mx.stop_gradient(indices).flatten()
    order = mx.argsort(chosen)  # the gradient of gather_mm then needs no copy of a weight per row
    rows, chosen = x[order // indices.shape[-1]][:, None], chosen[order]

    def project(rows: Array, weight: Array) -> Array:
        return mx.gather_mm(rows, weight.swapaxes(-1, -2), rhs_indices=chosen, sorted_indices=True)

    y = project(nn.silu(project(rows, gate)) * project(rows, up), down)
    return y[mx.argsort(order)].reshape(*indices.shape, -1)


def shared_memory(array: Array) -> Floats:
    """The memory of an MLX array, which is evaluated for it."""
    return np.asarray(memoryview(array))


def _forward(network: Network, grouping: Grouping, x: Floats, weights: Sequence[Floats]) -> Floats:
    """[N K, D]"""
    y = grouping.outputs(x.shape[1])

    def run(part: tuple[int, int, int]) -> None:
        expert, start, stop = part
        rows = x[grouping.rows[start:stop]]
        y[grouping.order[start:stop]] = network.forward(rows, [weight[expert] for weight in weights])

    in_threads(run, [block for part in grouping.parts for block in _blocks(part)])
    return y


def _backward(
    network: Network, grouping: Grouping, dy: Floats, x: Floats, weights: Sequence[Floats], *, frozen: bool
) -> tuple[Floats, tuple[Floats, ...]]:
    """The gradient in each selection's input, [N K, D], and unless they are frozen in the weights; dy: [N K, D]."""
    dx = grouping.outputs(x.shape[1])
    d_weights = () if frozen else tuple(np.zeros(weight.shape, dtype=np.float32) for weight in weights)

    def run(part: tuple[int, int, int]) -> None:
        expert = part[0]
        own = [weight[expert] for weight in weights]
        for _, start, stop in _blocks(part):
            places = grouping.order[start:stop]
            dx[places], pairs = network.backward(x[grouping.rows[start:stop]], dy[places], own)
            for whole, (to, of) in zip(d_weights, pairs, strict=False):
                whole[expert] += to.T @ of

    in_threads(run, list(grouping.parts))
    return dx, d_weights


def _glu(rows: Floats, weights: Sequence[Floats]) -> HostArray:
    gate, up, down = weights
    g, u = rows @ gate.T, rows @ up.T
    u *= g
    np.negative(g, out=g)
    u /= _one_plus_exp(g)
    return u @ down.T


def _glu_backward(
    rows: Floats, d_out: Floats, weights: Sequence[Floats]
) -> tuple[HostArray, tuple[tuple[HostArray, HostArray], ...]]:
    gate, up, down = weights
    g, u = rows @ gate.T, rows @ up.T
    sigmoid = 1 / _one_plus_exp(-g)
    silu = g * sigmoid
    d_hidden = d_out @ down
    d_u = d_hidden * silu
    d_g = d_hidden * u * (sigmoid + silu * (1 - sigmoid))
    return d_g @ gate + d_u @ up, ((d_g, rows), (d_u, rows), (d_out, silu * u))


def _relu(rows: Floats, weights: Sequence[Floats]) -> HostArray:
    first, second = weights
    h: HostArray = rows @ first.T
    np.maximum(h, 0, out=h)
    return h @ second.T


def _relu_backward(
    rows: Floats, d_out: Floats, weights: Sequence[Floats]
) -> tuple[HostArray, tuple[tuple[HostArray, HostArray], ...]]:
    first, second = weights
    h = rows @ first.T
    np.maximum(h, 0, out=h)
    d_hidden = d_out @ second
    d_hidden *= h > 0
    return d_hidden @ first, ((d_hidden, rows), (d_out, h))


_GLU = Network(_glu, _glu_backward)
RELU = Network(_relu, _relu_backward)
"""W2 relu(W1 x), the weights being W1 [E, H, D] and W2 [E, D, H]."""


def _one_plus_exp(z: Floats) -> Floats:
    """In place; infinite where exp is too large for float32, and a sigmoid then rightly 0."""
    with np.errstate(over="ignore"):
        np.exp(z, out=z)
    z += 1
    return z


def _blocks(part: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    expert, start, stop = part
    return ((expert, first, min(first + BLOCK, stop)) for first in range(start, stop, BLOCK))


_turn = threading.Lock()  # the number of BLAS threads is one for the process, and so are the cores


def in_threads(run: Callable[[tuple[int, int, int]], None], parts: list[tuple[int, int, int]]) -> None:
    """``run`` every part, the largest first, in as many threads as a product may use, with one thread for each product.

    Many small products in a thread each are faster than one after the other in several, whose threads wait for one
    another at every product; on a busy machine many times.
    """
    threads = numpy_threads()
    count = min(threads.count, len(parts)) if threads else 1
    if threads is None or count == 1:
        for part in parts:
            run(part)
        return
    waiting = iter(sorted(parts, key=lambda part: part[1] - part[2]))

    def work() -> None:
        for part in waiting:  # a list's iterator gives each part to one thread
            run(part)

    with _turn, _one_thread_each(threads):
        others = [_pool(os.getpid()).submit(work) for _ in range(count - 1)]
        try:
            work()
        finally:
            for other in others:
                other.result()


@contextmanager
def _one_thread_each(threads: NumpyThreads) -> Iterator[None]:
    count = threads.count
    threads.limit(1)
    try:
        yield
    finally:
        threads.limit(count)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The other threads; a fork has none of them, hence the process's number."""
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="experts")
