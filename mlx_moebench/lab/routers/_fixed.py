"""Routers that look at no hidden state: bounds of what a router can be, and the hash router.

Their gates are called with a key for every token in the place of carried logits, and say 0 for the K experts that a
token goes to and `OUT` for the others: weights 1/K each. Their weight is one by its shape
alone, from which readers of a checkpoint know R: it is never multiplied, and not trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ...errors import RoutingError
from ...routing.record import Array
from .base import Axes, Gate, Router, Sizes, Spec

OUT = -20.0
"""The logit of an expert that a token does not go to: p = 2e-9 beside one that it goes to."""

_SPREAD = 0x9E3779B9
"""2^32 over the golden ratio, odd: neighbours end far apart (Knuth, The Art of Computer Programming 3, 6.4)."""


Keys = Callable[[Any, Array, int, Array | None], Array]
"""(axes, ids [B, S], position of the first, domains [B] or None) -> [B, S] uint32."""


@dataclass(frozen=True)
class FixedRouter(Router):
    """keys: what its gates are called with, see `Keys`."""

    keys: Keys | None = None


def scramble(x: Array) -> Array:
    """uint32 -> uint32, one to one: every bit of the result depends on all bits of x (the finaliser of MurmurHash3)."""
    x = x ^ (x >> 16)
    x = x * mx.array(0x85EBCA6B, mx.uint32)
    x = x ^ (x >> 13)
    x = x * mx.array(0xC2B2AE35, mx.uint32)
    return x ^ (x >> 16)


class DrawnGate(Gate):
    """K of R experts that follow from a token's key and the layer, every K of them equally likely."""

    carries = True

    def __init__(self, axes: Axes, hidden_size: int, moe_layer: int) -> None:
        super().__init__(axes, hidden_size, moe_layer)
        self.freeze()
        self._k, self._n, self._layer = axes.num_experts_per_tok, axes.num_experts, moe_layer

    def __call__(self, x: Array, before: Array) -> Array:
        """[B, S, D] and keys [B, S] -> logits [B, S, R]."""
        columns = scramble(mx.arange(1, self._n + 1, dtype=mx.uint32) + mx.array(self._layer * self._n, mx.uint32))
        drawn = scramble(before[..., None] ^ columns)
        # The 24 upper bits, which float32 holds exactly.
        ranked = (drawn >> 8).astype(mx.float32)
        least = mx.topk(ranked, self._k, axis=-1).min(axis=-1, keepdims=True)
        return mx.stop_gradient(mx.where(ranked >= least, 0.0, OUT))


class BlockGate(Gate):
    """The experts of a token's domain: R / D neighbours, of which K take a position and the next K the next one."""

    carries = True

    def __init__(self, axes: Any, hidden_size: int, moe_layer: int) -> None:
        super().__init__(axes, hidden_size, moe_layer)
        self.freeze()
        self._k, self._n, self._own = axes.num_experts_per_tok, axes.num_experts, axes.num_experts // axes.num_domains

    def __call__(self, x: Array, before: Array) -> Array:
        """[B, S, D] and first experts [B, S] -> logits [B, S, R]."""
        columns, first = mx.arange(self._n, dtype=mx.uint32), before[..., None]
        inside = mx.logical_and(columns >= first, columns < first + self._k)
        return mx.stop_gradient(mx.where(inside, 0.0, OUT))


def of_ids(axes: Any, ids: Array, start: int, domains: Array | None) -> Array:
    """The token's id: a token goes to the same experts wherever it stands."""
    return scramble(ids.astype(mx.uint32) + mx.array(_SPREAD, mx.uint32))


def of_places(axes: Any, ids: Array, start: int, domains: Array | None) -> Array:
    """A number of all tokens up to it, which no two places of a text share. Raises RoutingError after a cache."""
    if start:
        raise RoutingError(
            "A router that routes at random knows a text by its beginning, which a generation does not repeat: measure "
            "it on whole texts."
        )
    places = mx.arange(1, ids.shape[1] + 1, dtype=mx.uint32) * mx.array(_SPREAD, mx.uint32)
    return scramble(mx.cumsum(scramble(ids.astype(mx.uint32) ^ scramble(places)), axis=1) + places)


def of_domains(axes: Any, ids: Array, start: int, domains: Array | None) -> Array:
    """The first of the K experts that a position goes to, in the block of its text's domain."""
    if domains is None:
        raise RoutingError(
            "The reference router sends a text to the experts of its domain, and was not told the domain: measure it "
            "with lab testbed, or inside mlx_moebench.lab.decoder.of_domains."
        )
    own, k = axes.num_experts // axes.num_domains, axes.num_experts_per_tok
    turn = (mx.arange(start, start + ids.shape[1]) % (own // k)) * k
    return (domains[:, None] * own + turn).astype(mx.uint32)


def _axes(sizes: Sizes, spec: Spec) -> Axes:
    """As `smoe`, without a balance loss: there is nothing to balance."""
    return Axes(num_experts=sizes.n_experts, num_experts_per_tok=sizes.top_k, balance="none", balance_weight=0.0)


HASH = FixedRouter("hash", "by token id (Roller et al. 2021)", _axes, DrawnGate, of_ids)
RANDOM = FixedRouter("random", "at random by text and position: the lower bound", _axes, DrawnGate, of_places)
REFERENCE = FixedRouter(
    "reference", "by domain, evenly inside its block: the upper bound", _axes, BlockGate, of_domains
)
FIXED = {router.name: router for router in (HASH, RANDOM, REFERENCE)}
