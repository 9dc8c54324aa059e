"""What a lab model is trained on: cross-entropy, and beside it the losses on its routers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import NamedTuple

import mlx.core as mx

from ..errors import RoutingError
from ..instrument import capture
from ..instrument.softmax import cross_entropy
from ..routing.record import Array
from ..train.losses import (
    TokenSums,
    balance_loss,
    entropy_deficit,
    entropy_floor,
    hetero_balance_loss,
    router_z_loss,
    ternary_balance_loss,
    token_sums,
)
from .decoder import Model, ModelArgs

_FIELDS = tuple(field.name for field in fields(TokenSums))


class Measured(NamedTuple):
    """What a micro-batch says beside its loss, all without gradient.

    ce: scalar, nats a token; balance, z: [L], of each router before its coefficient; sums: of each router, over the
    tokens of all ranks, one group.
    """

    ce: Array
    balance: Array
    z: Array
    sums: list[TokenSums]


class Objective:
    """``loss(ids [B, S + 1]) -> (scalar, Measured)`` of a lab model, whose routers are tapped until ``close``.

    The scalar is the mean cross-entropy of the batch plus, summed over the routers, balance_weight times the balance
    loss of ``args``, z_weight times the z-loss, less reward times the mean score of null experts. group: the ranks that
    share the micro-batch, over all of which a balance that is not of single sequences is taken; every rank's gradient
    is then to be weighted by its share of the tokens.
    """

    def __init__(self, model: Model, z_weight: float = 0.0, group: mx.distributed.Group | None = None) -> None:
        self._model, self._args, self._z_weight = model, model.args, z_weight
        self._group = group if group is not None and group.size() > 1 else None
        self._seen: dict[int, tuple[Array, Array]] = {}
        self._capture = capture(model, self._note) if model.args.num_experts else None
        self._past: list[list[TokenSums]] = []

    def __call__(self, ids: Array) -> tuple[Array, Measured]:
        self._seen = {}
        logits = self._model(ids[:, :-1])
        ce = cross_entropy(logits, ids[:, 1:]).mean()
        seen, self._seen = self._seen, {}
        if self._capture is None:
            return ce, Measured(mx.stop_gradient(ce), mx.zeros(0), mx.zeros(0), [])
        if len(seen) != len(self._capture.specs):
            raise RoutingError(f"Only {len(seen)} of the model's {len(self._capture.specs)} routers ran in a step.")
        mask = mx.ones((ids.shape[0], ids.shape[1] - 1), dtype=mx.bool_)
        records = [self._capture.routing(n, *seen[n], mask) for n in range(len(seen))]
        rows = [token_sums(record, "sequence") for record in records]
        local = [sums.map(lambda x: x.sum(0, keepdims=True)) for sums in rows]
        whole = [self._everywhere(sums) for sums in local]
        balance = mx.stack([self._balance(n, rows[n], local[n], whole[n]) for n in range(len(rows))])
        z = mx.stack([router_z_loss(sums) for sums in local])
        loss = ce + self._args.balance_weight * balance.sum() + self._z_weight * z.sum()
        if self._args.reward:
            loss = loss - self._args.reward * sum(self._null_share(sums) for sums in local)
        ce, balance, z = (mx.stop_gradient(x) for x in (ce, balance, z))
        return loss, Measured(ce, balance, z, [sums.map(mx.stop_gradient) for sums in whole])

    def begin_update(self) -> None:
        """Forget the micro-batches of the update before, where the window of a balance is one update."""
        if not self._args.window:
            self._past = []

    def end_micro_batch(self, sums: list[TokenSums]) -> None:
        """Remember what routers said of a micro-batch, for a balance over more than one."""
        if self._args.balance in GLOBAL:
            self._past.append(sums)
            if self._args.window:
                del self._past[: max(len(self._past) - self._args.window + 1, 0)]

    def state(self) -> dict[str, Array]:
        """What is remembered, by name: a checkpoint keeps it."""
        return {
            f"{place}.{number}.{field}": value
            for place, sums in enumerate(self._past)
            for number, one in enumerate(sums)
            for field, value in zip(_FIELDS, one.arrays(), strict=True)
        }

    def restore(self, state: Mapping[str, Array]) -> None:
        """Remember what `state` gave."""
        places = 1 + max((int(name.split(".")[0]) for name in state), default=-1)
        routers = 1 + max((int(name.split(".")[1]) for name in state), default=-1)
        self._past = [
            [TokenSums(*(state[f"{place}.{number}.{field}"] for field in _FIELDS)) for number in range(routers)]
            for place in range(places)
        ]

    def close(self) -> None:
        """Take the taps off the model."""
        if self._capture is not None:
            self._capture.close()

    def _note(self, number: int, logits: Array, indices: Array, shape: tuple[int, ...]) -> None:
        self._seen[number] = (logits, indices)

    def _everywhere(self, sums: TokenSums) -> TokenSums:
        """The sums over all ranks."""
        group = self._group
        return sums if group is None else sums.map(lambda x: mx.distributed.all_sum(x, group=group))

    def _balance(self, number: int, rows: TokenSums, local: TokenSums, whole: TokenSums) -> Array:
        """The balance loss of one router: 1, or of ``entropy`` 0, at balance."""
        kind = self._args.balance
        if kind in OF_SEQUENCES:
            return BALANCES[kind](rows, rows, self._args)
        together = whole
        if kind in GLOBAL:
            for sums in self._past:
                together = together.map(lambda x, before: x + mx.stop_gradient(before), sums[number])
        loss = BALANCES[kind](whole, together, self._args)
        # The ranks' gradients are weighted by their tokens, and each adds its own part of one sum.
        factor = mx.stop_gradient(whole.n / mx.maximum(local.n, 1))[0]
        return loss if self._group is None else loss * factor + mx.stop_gradient(loss - loss * factor)

    def _null_share(self, sums: TokenSums) -> Array:
        """The mean score of null experts, in [0, 1]."""
        null = mx.array([kind == "null" for kind in self._args.kinds])
        return (mx.where(null, sums.p, 0).sum() / mx.maximum(sums.n, 1)).squeeze()


def _eta(args: ModelArgs) -> Array:
    """What each column weighs in ``hetero``."""
    return mx.array([1.0 if kind == "ffn" else args.eta for kind in args.kinds])


def _floor(now: TokenSums, together: TokenSums, args: ModelArgs) -> Array:
    """The entropy floor on H(p-bar) of ``together``, with the gradient that tokens of one scope would give.

    What came before is fixed, so that the tokens of ``now`` move p-bar by their share of all tokens only; times the
    inverse of it they are pulled as hard as under a floor on themselves.
    """
    loss = entropy_floor(together, args.floor * math.log(together.p.shape[-1]))
    factor = mx.stop_gradient(together.n.sum() / mx.maximum(now.n.sum(), 1))
    return loss * factor + mx.stop_gradient(loss - loss * factor)


def _switch(now: TokenSums, together: TokenSums, args: ModelArgs) -> Array:
    return balance_loss(now, together.counts / mx.maximum(together.counts.sum(-1, keepdims=True), 1))


BALANCES: dict[str, Callable[[TokenSums, TokenSums, ModelArgs], Array]] = {
    "none": lambda now, together, args: mx.array(0.0),
    "switch": _switch,
    "sequence": _switch,
    "global": _switch,
    "hetero": lambda now, together, args: hetero_balance_loss(now, _eta(args)),
    "ternary": lambda now, together, args: ternary_balance_loss(now, args.num_experts),
    "entropy": lambda now, together, args: entropy_deficit(now),
    "floor": _floor,
    "floor_sequence": _floor,
    "floor_global": _floor,
}
"""The balance losses by name, of the sums of a micro-batch and of those together with what the window has before."""

OF_SEQUENCES = ("sequence", "floor_sequence")
"""Those that are a mean over single sequences."""

GLOBAL = ("global", "floor_global")
"""Those over a window of micro-batches."""
