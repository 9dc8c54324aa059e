"""One update of the weights: micro-batches whose gradients are weighted by their tokens, over all ranks."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map
from numpy.typing import NDArray

from ..instrument.softmax import cross_entropy
from ..routing.sums import Floats
from ..train.losses import TokenSums, balanced_bias
from ..types import Json
from .decoder import Model, of_domains, sparse_layers
from .objective import OF_SEQUENCES, Measured, Objective


class Updated(NamedTuple):
    """What an update measured, on the host: ce in nats a token, without any loss on the routers; balance and z of each
    router [L]; counts, p [L, R] and entropy [L] summed over all tokens; the gradient's norm before clipping; tokens."""

    ce: float
    balance: Floats
    z: Floats
    counts: Floats
    p: Floats
    entropy: Floats
    norm: float
    tokens: int


class Updater:
    """Runs updates of a lab model. micro_batch_size: sequences of a forward, shared by all ranks of ``group``."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        optimizer: optim.Optimizer,
        clip: float,
        micro_batch_size: int,
        group: mx.distributed.Group,
    ) -> None:
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._clip, self._size, self._group = clip, micro_batch_size, group
        self._step = nn.value_and_grad(model, objective)

    def __call__(
        self, rows: NDArray[np.int32], learning_rate: float, domains: NDArray[np.int64] | None = None
    ) -> Updated:
        """One update on token ids [B, S + 1], the same on every rank. Micro-batches need not be of one size.

        domains: [B] of the rows, for a router that asks."""
        n_tokens = rows.shape[0] * (rows.shape[1] - 1)
        gradients: Json | None = None
        collected: list[tuple[float, float, Measured]] = []
        self._objective.begin_update()
        for start in range(0, len(rows), self._size):
            part = rows[start : start + self._size]
            mine = np.array_split(np.arange(len(part)), self._group.size())[self._group.rank()]
            weight = len(mine) * (part.shape[1] - 1) / n_tokens
            with of_domains(self._model, None if domains is None else domains[start : start + self._size][mine]):
                (_, measured), new = self._step(mx.array(part[mine]))
            self._objective.end_micro_batch(measured.sums)
            gradients = _weighted(gradients, new, weight)
            whole = part.shape[0] * (part.shape[1] - 1) / n_tokens
            collected.append((weight, whole, measured))
            mx.eval(gradients, measured[:3], [one.arrays() for one in measured.sums])
        assert gradients is not None
        gradients = self._summed(gradients)
        gradients, norm = optim.clip_grad_norm(gradients, self._clip)
        self._optimizer.learning_rate = learning_rate
        self._optimizer.update(self._model, gradients)
        sums = _total([measured.sums for *_, measured in collected])
        self._move_biases(sums)
        mx.eval(self._model.parameters(), self._optimizer.state, norm)
        return self._updated(collected, sums, float(norm), n_tokens)

    def _summed(self, gradients: Json) -> Json:
        """The sum over ranks of gradients that are weighted already."""
        ranks = self._group.size()
        if ranks == 1:
            return gradients
        scaled = tree_map(lambda g: g * ranks, gradients)
        averaged: Json = nn.utils.average_gradients(scaled, self._group)
        return averaged

    def _move_biases(self, sums: list[TokenSums]) -> None:
        """Once per update, by the choices of its whole batch."""
        rate = self._model.args.bias_update
        if self._model.args.selection_bias and rate:
            for layer, one in zip(sparse_layers(self._model), sums, strict=True):
                layer.mlp.selection_bias = balanced_bias(layer.mlp.selection_bias, one.counts[0], rate)

    def _updated(
        self, collected: list[tuple[float, float, Measured]], sums: list[TokenSums], norm: float, n: int
    ) -> Updated:
        ce = sum(weight * measured.ce for weight, _, measured in collected)
        z = sum(weight * measured.z for weight, _, measured in collected)
        own = self._model.args.balance in OF_SEQUENCES  # the ranks' own sequences; all else is of the whole micro-batch
        balance = sum((weight if own else whole) * measured.balance for weight, whole, measured in collected)
        if self._group.size() > 1:
            ce, z = (mx.distributed.all_sum(x, group=self._group) for x in (ce, z))
            balance = mx.distributed.all_sum(balance, group=self._group) if own else balance
        counts, p, entropy = (
            np.array(mx.stack([getattr(one, name)[0] for one in sums])) if sums else np.zeros((0, 0))
            for name in ("counts", "p", "entropy")
        )
        return Updated(float(ce), np.array(balance), np.array(z), counts, p, entropy, norm, n)


def _weighted(before: Json | None, new: Json, weight: float) -> Json:
    """``before`` + weight * new."""
    if before is None:
        return new if weight == 1 else tree_map(lambda g: g * weight, new)
    return tree_map(lambda a, g: a + g * weight, before, new)  # type: ignore[no-any-return]


def _total(every: list[list[TokenSums]]) -> list[TokenSums]:
    """Of each router the sums over all micro-batches."""
    first, *others = every
    for other in others:
        first = [a.map(lambda x, y: x + y, b) for a, b in zip(first, other, strict=True)]
    return first


def held_out_ce(
    model: Model, rows: NDArray[np.int32], micro_batch_size: int, domains: NDArray[np.int64] | None = None
) -> float:
    """Mean cross-entropy of token ids [B, S + 1], nats a token, in evaluation mode; domains: [B] of them."""
    model.eval()
    total = 0.0
    for start in range(0, len(rows), micro_batch_size):
        ids = mx.array(rows[start : start + micro_batch_size])
        with of_domains(model, None if domains is None else domains[start : start + micro_batch_size]):
            total += float(cross_entropy(model(ids[:, :-1]), ids[:, 1:]).sum())
    model.train()
    return total / int(rows.shape[0] * (rows.shape[1] - 1))
