"""The experts of a mixture: small ReLU networks, run by sorted grouped matrix products, and those without weights."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchLinear

from ..instrument.capture import is_traced
from ..instrument.cpu_path import WORTH_IT, has_cpu_path, is_for_routing_alone
from ..instrument.grouped import RELU, run_grouped
from ..routing.record import Array, Kind
from .routers import Axes
from .routers.base import drawn


def run_sorted(rows: Array, ids: Array, first: nn.Module, second: nn.Module) -> Array:
    """W2 relu(W1 x) of every row by the expert that it belongs to, in MLX alone.

    rows: [N, D]; ids: [N], sorted, each below the number of experts. Sorted, because the gradient of an unsorted
    ``gather_mm`` holds a copy of a weight for every row.
    """
    h = first(rows[:, None], ids, sorted_indices=True)
    return second(mx.maximum(h, 0), ids, sorted_indices=True)[:, 0]


class Experts(nn.Module):
    """E_i(x) = W2_i relu(W1_i x) of N experts, and what the columns behind them give.

    ``neg`` columns give what the expert of the same place gives, not yet negated; ``copy`` gives x, ``zero`` and
    ``null`` 0, ``constant`` a_1 x + a_2 v with a = softmax(W_c x), v and W_c [2, D] its own (MoE++, eq. 6).
    """

    def __init__(self, axes: Axes, hidden_size: int, width: int) -> None:
        super().__init__()
        self._make_networks(axes, hidden_size, width)
        self._kinds, self._n, constants = axes.kinds, axes.num_experts, axes.kinds.count("constant")
        if constants:
            self.constant = drawn(constants, hidden_size)
            self.mix = drawn(2 * constants, hidden_size)

    def __call__(self, x: Array, indices: Array) -> Array:
        """The output of each chosen column: x [B, S, D], indices [B, S, K] of the R columns -> [B, S, K, D]."""
        rows, chosen = x.reshape(-1, x.shape[-1]), mx.stop_gradient(indices)
        y = self._run_networks(rows, chosen.reshape(-1, indices.shape[-1])).reshape(*indices.shape, -1)
        return y if set(self._kinds) <= {"ffn", "neg"} else self._with_special(x, indices, y)

    def _make_networks(self, axes: Axes, hidden_size: int, width: int) -> None:
        n = axes.num_experts
        self.input_linear = SwitchLinear(hidden_size, width, n, bias=False)
        self.output_linear = SwitchLinear(width, hidden_size, n, bias=False)

    def _run_networks(self, rows: Array, chosen: Array) -> Array:
        """N K rows in order, of what the networks make of rows [N, D] for the chosen columns [N, K]; anything for
        columns without one."""
        if self._can_group(rows, chosen):
            # A column without an expert gets an index that none has, and costs nothing.
            ids = self._expert_ids(chosen, self._n)
            return run_grouped(RELU, rows, ids, (self.input_linear.weight, self.output_linear.weight))
        ids = self._expert_ids(chosen, 0).flatten()
        order = mx.argsort(ids)
        rows = rows[order // chosen.shape[-1]]
        return run_sorted(rows, ids[order], self.input_linear, self.output_linear)[mx.argsort(order)]

    def _can_group(self, rows: Array, chosen: Array) -> bool:
        """Whether each expert's rows go through it together: on a CPU, where they are many, with plain weights."""
        linear = (self.input_linear, self.output_linear)
        if not has_cpu_path() or is_for_routing_alone() or rows.dtype != mx.float32:
            return False
        if not all(type(one) is SwitchLinear and one.weight.dtype == mx.float32 for one in linear):
            return False
        work = chosen.size * 2 * self.input_linear.input_dims * self.input_linear.output_dims
        return work >= WORTH_IT * min(chosen.size, self._n) > 0 and not is_traced(rows, chosen)

    def _expert_ids(self, chosen: Array, none: int) -> Array:
        """The expert whose weights each chosen column needs, ``none`` for one that needs no expert's."""
        if len(self._kinds) == self._n:
            return chosen
        neg = self._kinds.count("neg")
        ids = mx.where(chosen < self._n, chosen, mx.where(chosen < self._n + neg, chosen - self._n, none))
        return ids.astype(chosen.dtype)

    def _with_special(self, x: Array, indices: Array, y: Array) -> Array:
        """``y`` with the output of the columns that have no expert in its place."""
        kinds: tuple[Kind, ...] = self._kinds
        first = next(n for n, kind in enumerate(kinds) if kind not in ("ffn", "neg"))
        y = mx.where((indices < first)[..., None], y, 0.0)
        if "constant" in kinds:
            a = mx.softmax((x @ self.mix.T).reshape(*x.shape[:-1], -1, 2), axis=-1)
            place = kinds.index("constant")
            picked = (indices[..., None] == mx.arange(place, place + a.shape[-2])).astype(x.dtype)
            y = y + (picked @ a[..., :1]) * x[..., None, :] + (picked * a[..., None, :, 1]) @ self.constant
        if "copy" in kinds:
            y = mx.where((indices == kinds.index("copy"))[..., None], x[..., None, :], y)
        return y
