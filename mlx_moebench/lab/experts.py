"""The experts of a mixture: small ReLU networks, run by sorted grouped matrix products, and those without weights."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchLinear

from ..routing.record import Array, Kind
from .routers import Axes
from .routers.base import drawn


def run_sorted(rows: Array, ids: Array, first: nn.Module, second: nn.Module) -> Array:
    """W2 relu(W1 x) of every row by the expert that it belongs to: the one place that knows how.

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
        y = self._run_networks(x, self._expert_ids(mx.stop_gradient(indices)))
        return y if set(self._kinds) <= {"ffn", "neg"} else self._with_special(x, indices, y)

    def _make_networks(self, axes: Axes, hidden_size: int, width: int) -> None:
        n = axes.num_experts
        self.input_linear = SwitchLinear(hidden_size, width, n, bias=False)
        self.output_linear = SwitchLinear(width, hidden_size, n, bias=False)

    def _run_networks(self, x: Array, experts: Array) -> Array:
        """[B, S, K, D] of x [B, S, D] and the numbers [B, S, K] of experts with weights."""
        ids = experts.flatten()
        order = mx.argsort(ids)
        rows = x.reshape(-1, x.shape[-1])[order // experts.shape[-1]]
        made = run_sorted(rows, ids[order], self.input_linear, self.output_linear)
        return made[mx.argsort(order)].reshape(*experts.shape, -1)

    def _expert_ids(self, chosen: Array) -> Array:
        """The expert whose weights each chosen column needs; 0 for one that needs none, whose product is not used."""
        if len(self._kinds) == self._n:
            return chosen
        neg = self._kinds.count("neg")
        ids = mx.where(chosen < self._n, chosen, mx.where(chosen < self._n + neg, chosen - self._n, 0))
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
