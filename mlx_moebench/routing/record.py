"""The one record of what a router said, shared by every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..types import Array as Array

Integers = npt.NDArray[np.integer]
Reals = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
"""True where a position, or an expert, counts."""

Distribution = Literal["softmax", "softmax_then_topk_derived", "sigmoid_normalised", "sqrt_softplus_normalised"]
"""Which rule turns logits into the routing distribution p.

``softmax``: softmax over all R columns, as the model itself does before it chooses.
``softmax_then_topk_derived``: the model applies softmax to the chosen logits only; p over all R is derived.
``sigmoid_normalised``: sigmoid(z) / sum sigmoid(z).
``sqrt_softplus_normalised``: the same of sqrt(ln(1 + e^z)).
"""

RouterName = Literal["mlp", "attention", "text", "vision"]
"""What a router chooses experts of; where the tokens of images and of text have experts of their own, whose."""

Kind = Literal["ffn", "neg", "zero", "copy", "constant", "null"]
Phase = Literal["prefill", "decode", "unsplit"]

LIVE = "live"
"""The data set name of rows that came without a name: they are numbered, but nobody said what they were."""

PRECISE_ROUTER_BITS = 8
"""Fewest bits per weight at which a router still chooses nearly as its unquantised self does."""


@dataclass(frozen=True)
class Routing:
    """What one router said about one batch of B sequences of S positions, R routable columns, K chosen.

    logits: [B, S, R] float32, cast from what the gate returned, after the router's own soft cap or temperature.
    indices: [B, S, K] integers as the experts received them; never re-derived from the logits.
    weights: [B, S, K] float32, the gate weights g by the family's declared rule.
    mask: [B, S] bool, True where a position counts; padding is False.
    distribution: the rule that makes p from the logits.
    selection: [B, S, R] float32, the scores that were ranked, where a bias or a group limit makes them
        differ from p; None means p.
    kinds, signs: [R] what each column is (routed experts first) and the sign its output enters with;
        None means every column is an ordinary expert.
    """

    logits: Array
    indices: Array
    weights: Array
    mask: Array
    distribution: Distribution = "softmax"
    selection: Array | None = None
    kinds: tuple[Kind, ...] | None = None
    signs: tuple[int, ...] | None = None


class Dropped(NamedTuple):
    """Forward passes that are not recorded, and their rows x positions."""

    forwards: int
    positions: int


@dataclass(frozen=True)
class RouterSpec:
    """The fixed facts about one router.

    layer: absolute block index; moe_layer: ordinal among the blocks that have a router.
    router: a `RouterName`. n_experts: R routable columns; top_k: K.
    distribution: the rule that makes p, or None where p was not measured and nobody said.
    router_bits: bits per router weight as it computes (16 or 32 unless quantised), or None when unknown.
    """

    layer: int
    moe_layer: int
    router: str
    n_experts: int
    top_k: int
    distribution: Distribution | None = "softmax"
    router_bits: int | None = None
    kinds: tuple[Kind, ...] | None = None
    signs: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """``layer.3.mlp``: the key of this router in files and messages."""
        return f"layer.{self.layer}.{self.router}"


def router_warnings(specs: Sequence[RouterSpec]) -> list[str]:
    """What a reader must know of the precision of these routers, one sentence each; none for precise ones."""
    low = [s.router_bits for s in specs if s.router_bits is not None and s.router_bits < PRECISE_ROUTER_BITS]
    if not low:
        return []
    return [
        f"{len(low)} of {len(specs)} routers have weights of {min(low)} bit, which changes what they choose (a random "
        "top-8-of-64 router kept 96% of its sets at 8 bit and 48% at 4 bit): these numbers are not those of the "
        f"unquantised model, which --bits would load with routers at {PRECISE_ROUTER_BITS} bit."
    ]
