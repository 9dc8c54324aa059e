"""What routers can be made to choose: other ranks, other experts, fewer or more of them, with noise or a temperature.

Each is a `Change`: it takes what a router said, and gives what runs. Weights follow the router's own rule for the
experts that run, so that a router which normalises goes on to do so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx
import numpy as np

from ..errors import MoebenchError
from ..families.rules import NEVER
from ..routing.record import Array, Mask
from ..types import HostArray
from .interventions import Change, Choice, Said

How = Literal["route-around", "zero"]
"""What happens to an expert that is taken away: its logit is minus infinity before the scores, as in a checkpoint
without its row, so that others take its place; or it is chosen as before, and counts nothing."""


@dataclass(frozen=True)
class Ranks:
    """The experts of some ranks by the score that the router chooses by; its first choice has rank 0.

    first: the first of them. more: how many more than K, negative for fewer. LibMoE's DropTop1 is first 1, DropTop1&2
    first 2, and without a replacement first 1 and -1 more.
    """

    first: int = 0
    more: int = 0

    def __call__(self, said: Said) -> Choice:
        spec = said.spec
        end = self.first + spec.top_k + self.more
        if end <= self.first or end > spec.n_experts:
            raise MoebenchError(
                f"{spec.name} chooses {spec.top_k} of {spec.n_experts} experts, so there are no ranks {self.first + 1} "
                f"to {end} to run in their place."
            )
        order = _order(said.ranking())
        indices, logits = order[..., self.first : end], said.logits
        if said.in_turn and self.first:  # each weight is among those that are left
            logits = mx.put_along_axis(logits, order[..., : self.first], mx.array(NEVER), axis=-1)
        return Choice(indices, said.routing(logits, indices).weights, said.logits)


@dataclass(frozen=True)
class Count:
    """So many experts in place of K, the first by rank."""

    k: int

    def __call__(self, said: Said) -> Choice:
        return Ranks(0, self.k - said.spec.top_k)(said)


@dataclass
class RandomExperts:
    """Experts drawn evenly, without repeats: in place of the first choice alone, or of all.

    Draws follow the seed, the router and the number of its calls: the same batches give the same draws.
    """

    seed: int
    all: bool = False
    _calls: dict[int, int] = field(default_factory=dict)

    def __call__(self, said: Said) -> Choice:
        spec = said.spec
        if not self.all and spec.top_k == spec.n_experts:
            raise MoebenchError(f"{spec.name} chooses all of its {spec.n_experts} experts: none is left to draw.")
        noise = mx.random.uniform(shape=said.logits.shape, key=_key(self.seed, said, self._calls))
        if self.all:
            indices = _order(noise)[..., : spec.top_k]
        else:
            drawn = _order(mx.put_along_axis(noise, said.indices, mx.array(-1.0), axis=-1))[..., :1]
            ranks = mx.take_along_axis(said.ranking(), said.indices, axis=-1)
            best = mx.argmax(ranks, axis=-1, keepdims=True)
            indices = mx.where(mx.arange(spec.top_k) == best, drawn, said.indices)
        return Choice(indices, said.routing(None, indices).weights, said.logits)


@dataclass(frozen=True)
class Temperature:
    """Logits divided by ``tau``: above 1 the weights are more alike, below 1 less."""

    tau: float

    def __call__(self, said: Said) -> Choice:
        logits = said.logits / self.tau
        indices = _chosen(said, said.ranking(logits))
        return Choice(indices, said.routing(logits, indices).weights, logits)


@dataclass
class InputNoise:
    """Gaussian noise on what the gate gets, ``size`` times the root mean square of each token's hidden state; the
    experts get what they got. Draws as in `RandomExperts`."""

    size: float
    seed: int
    _calls: dict[int, int] = field(default_factory=dict)

    def __call__(self, said: Said) -> Choice:
        x = said.x.astype(mx.float32)
        scale = mx.sqrt(mx.mean(x * x, axis=-1, keepdims=True))
        noise = mx.random.normal(x.shape, key=_key(self.seed, said, self._calls))
        logits = said.score((x + self.size * scale * noise).astype(said.x.dtype))
        indices = _chosen(said, said.ranking(logits))
        return Choice(indices, said.routing(logits, indices).weights, logits)


@dataclass(frozen=True)
class Without:
    """Some experts are taken away: experts[number] [R] is True for those of router ``number``."""

    experts: Mapping[int, Mask]
    how: How = "route-around"

    def __call__(self, said: Said) -> Choice | None:
        gone = self.experts.get(said.number)
        if gone is None or not gone.any():
            return None
        left = int((~gone).sum())
        if left < said.spec.top_k and self.how == "route-around":
            raise MoebenchError(f"{said.spec.name} has {left} experts left, and chooses {said.spec.top_k} of them.")
        without = mx.array(gone)
        if self.how == "zero":
            weights = said.routing().weights
            return Choice(said.indices, mx.where(without[said.indices], 0, weights), said.logits)
        indices = _chosen(said, said.ranking(without=without))
        weights = said.routing(None, indices, without).weights
        return Choice(indices, weights, mx.where(without, NEVER, said.logits))


@dataclass(frozen=True)
class Reweighted:
    """Gate weights times factors[number] [R] of each expert, scaled so that a token's weights sum to what they did."""

    factors: Mapping[int, HostArray]

    def __call__(self, said: Said) -> Choice | None:
        factors = self.factors.get(said.number)
        if factors is None:
            return None
        weights = said.routing().weights
        changed = weights * mx.array(factors.astype(np.float32))[said.indices]
        total = changed.sum(axis=-1, keepdims=True)
        changed = changed * (weights.sum(axis=-1, keepdims=True) / mx.where(total == 0, 1, total))
        return Choice(said.indices, changed, said.logits)


@dataclass(frozen=True)
class Only:
    """A change of some routers alone."""

    change: Change
    numbers: Collection[int]

    def __call__(self, said: Said) -> Choice | None:
        return self.change(said) if said.number in self.numbers else None


def _order(scores: Array) -> Array:
    """[..., R] experts from the largest score to the smallest."""
    return mx.argsort(-scores, axis=-1)


def _chosen(said: Said, ranking: Array) -> Array:
    """[B, S, K] the K best of ``ranking``; where those are the ones chosen before, in the order in which they were."""
    best = _order(ranking)[..., : said.spec.top_k]
    same = (mx.sort(best, axis=-1) == mx.sort(said.indices, axis=-1)).all(axis=-1, keepdims=True)
    return mx.where(same, said.indices, best)


def _key(seed: int, said: Said, calls: dict[int, int]) -> Array:
    call = calls[said.number] = calls.get(said.number, 0) + 1
    return mx.random.key(int(np.random.SeedSequence((seed, said.number, call)).generate_state(1)[0]))
