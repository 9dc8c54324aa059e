"""Simulated routing whose truth is known exactly: what the audit and the tests of intervals and findings draw from.

Two kinds. `population`: sequences whose logits have a topic's, a sequence's, a block's and a token's part; the truth is
the whole of so many sequences, from which samples are drawn with replacement. `route`: sequences of domains with given
shares; a sequence's own shares are scattered around them (Dirichlet), tokens choose by systematic sampling, so that an
expert's share of tokens is its preference, or independently (`draw`), where every domain has exactly the same mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mlx_moebench.routing import Sums
from mlx_moebench.routing.sums import FIELDS
from mlx_moebench.routing.tally import SCALARS

Lengths = Literal["equal", "topic", "pareto"]
TOPICS = 4
BLOCK = 8  # tokens that share a part of their logits


@dataclass(frozen=True)
class Effects:
    """Standard deviations of the parts of the logits."""

    topic: float = 0.5
    sequence: float = 0.6
    block: float = 0.5
    token: float = 1.0


EFFECTS = {"tokens alone": Effects(0, 0, 0), "all": Effects(), "texts differ": Effects(0, 1.0), "topics": Effects(1, 1)}

PREFERENCES = ("even", "mild", "steep", "leader")
"""Mean logits: none preferred; some a little; some much; one by far."""


def preferences(kind: str, experts: int, rng: np.random.Generator) -> np.ndarray:
    """Mean logits [E]."""
    if kind == "leader":
        logits = 0.2 * rng.standard_normal(experts)
        logits[0] += 3
        return logits
    return {"even": 0.0, "mild": 0.4, "steep": 1.2}[kind] * rng.standard_normal(experts)


def lengths_of(kind: Lengths, topic: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tokens of sequences with these topics [N]."""
    n = len(topic)
    if kind == "equal":
        return np.full(n, 64)
    if kind == "topic":
        return np.array([32, 48, 64, 96])[topic % TOPICS] * rng.lognormal(0, 0.1, n) // 1
    return np.clip(24 * (1 + rng.pareto(2.5, n)), 8, 1000) // 1


def population(
    experts: int,
    top_k: int,
    kind: str,
    effects: Effects,
    lengths: Lengths = "equal",
    sequences: int = 3000,
    seed: int = 0,
    shift: float = 0.0,
) -> Sums:
    """Sums of so many sequences. shift: standard deviation of what a seed's preferences differ from another's by."""
    common = np.random.default_rng([experts, top_k])
    rng = np.random.default_rng([seed, experts, top_k])
    mean = preferences(kind, experts, common) + shift * rng.standard_normal(experts)
    topics = effects.topic * (rng if shift else common).standard_normal((TOPICS, experts))
    topic = rng.integers(TOPICS, size=sequences)
    tokens = lengths_of(lengths, topic, rng).astype(np.int64)
    step = max(1, int(4e6 / (experts * tokens.mean())))
    blocks = []
    for start in range(0, sequences, step):
        part = tokens[start : start + step]
        own = mean + topics[topic[start : start + step]]
        own = own + effects.sequence * rng.standard_normal((len(part), experts))
        blocks.append(sums_of_logits(_logits(own, part, effects, rng), part, top_k))
    counts, top1, p_sum, entropy = (np.concatenate(x) for x in zip(*blocks, strict=True))
    scalars = np.full((sequences, len(SCALARS)), np.nan)
    scalars[:, SCALARS.index("entropy")] = entropy[:, 0]
    return Sums(experts, top_k, "softmax", tokens, counts, top1, p_sum, scalars)


def _logits(own: np.ndarray, tokens: np.ndarray, effects: Effects, rng: np.random.Generator) -> np.ndarray:
    """[tokens, E] of sequences whose mean logits are ``own``."""
    z = np.repeat(own.astype(np.float32), tokens, axis=0)
    z += np.float32(effects.token) * rng.standard_normal(z.shape, dtype=np.float32)
    if effects.block:
        place = np.arange(len(z)) - np.repeat(np.cumsum(tokens) - tokens, tokens)
        number = np.cumsum(place % BLOCK == 0) - 1
        shape = (int(number[-1]) + 1, own.shape[1])
        z += (np.float32(effects.block) * rng.standard_normal(shape, dtype=np.float32))[number]
    return z


def sums_of_logits(z: np.ndarray, lengths: np.ndarray, top_k: int) -> list[np.ndarray]:
    """Counts, top-1 counts, sums of p and of H(p) of the sequences that the logits [tokens, experts] are cut into."""
    z = z - z.max(axis=1, keepdims=True)
    power = np.exp(z)
    total = power.sum(axis=1, keepdims=True)
    p = power / total
    chosen, first = np.zeros_like(p), np.zeros_like(p)
    np.put_along_axis(chosen, np.argpartition(-z, top_k - 1, axis=1)[:, :top_k], 1, axis=1)
    np.put_along_axis(first, z.argmax(axis=1, keepdims=True), 1, axis=1)
    entropy = np.log(total) - (p * z).sum(axis=1, keepdims=True)
    starts = np.cumsum(lengths) - lengths
    return [np.add.reduceat(x, starts, axis=0, dtype=np.float64) for x in (chosen, first, p, entropy)]


def sample(whole: Sums, n: int, rng: np.random.Generator) -> Sums:
    """n sequences, drawn with replacement."""
    return whole.take(rng.integers(len(whole.n_tokens), size=n))  # type: ignore[arg-type]


def joined(parts: list[Sums]) -> tuple[Sums, np.ndarray]:
    """Several domains' sums as one, and the domain of each sequence."""
    fields = {name: np.concatenate([getattr(p, name) for p in parts]) for name in FIELDS}
    labels = np.repeat([f"d{d}" for d in range(len(parts))], [len(p.n_tokens) for p in parts])
    return replace(parts[0], **fields), labels


# -- domains with given shares -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Domain:
    """Of one domain: how many sequences, of how many tokens (log-normal with ``spread``), how alike they are.

    alike: concentration of the sequences' own shares around the domain's; infinite where all are the same. block: so
    many tokens in a row choose alike.
    """

    sequences: int
    tokens: float = 64.0
    alike: float = np.inf
    spread: float = 0.0
    block: int = 1


def draw(domains: list[Domain], load: np.ndarray, top_k: int, rng: np.random.Generator) -> tuple[Sums, np.ndarray]:
    """Sequences of domains that all have this mean load [E] (or each its own, [D, E]): independent selections."""
    parts = []
    for one, mean in zip(domains, np.broadcast_to(load, (len(domains), load.shape[-1])), strict=True):
        own = np.tile(mean, (one.sequences, 1))
        if np.isfinite(one.alike):
            own = rng.standard_gamma(np.maximum(one.alike * own, 1e-9))
            own /= np.maximum(own.sum(axis=1, keepdims=True), 1e-300)
        tokens = np.maximum(one.tokens * rng.lognormal(0, one.spread, one.sequences), 4)
        blocks = np.maximum(np.round(tokens * top_k / one.block), 1).astype(int)
        counts = rng.multinomial(blocks, own / own.sum(axis=1, keepdims=True)) * one.block
        parts.append(Sums.from_counts(counts, counts.sum(axis=1) / top_k, top_k))
    return joined(parts)


def route(domains: list[Domain], shares: np.ndarray, top_k: int, rng: np.random.Generator) -> tuple[Sums, np.ndarray]:
    """Sequences of domains with these shares of tokens [D, E], rows summing to K: systematic sampling of each token."""
    parts = []
    for one, mean in zip(domains, shares, strict=True):
        own = np.tile(mean / top_k, (one.sequences, 1))
        if np.isfinite(one.alike):
            own = rng.standard_gamma(np.maximum(one.alike * own, 1e-9))
            own /= own.sum(axis=1, keepdims=True)
        own = capped(top_k * own)
        tokens = np.maximum(one.tokens * rng.lognormal(0, one.spread, one.sequences), 4).astype(int)
        edges = np.cumsum(np.repeat(own, tokens, axis=0), axis=1)
        edges *= top_k / edges[:, -1:]
        steps = np.floor(edges + rng.random((len(edges), 1)) - 1e-12)
        chosen = np.diff(steps, axis=1, prepend=0.0)
        counts = np.add.reduceat(chosen, np.cumsum(tokens) - tokens, axis=0)
        parts.append(Sums.from_counts(counts, counts.sum(axis=1) / top_k, top_k))
    return joined(parts)


def capped(shares: np.ndarray) -> np.ndarray:
    """Shares of tokens [N, E] of which none is above 1: what is cut off goes to the others, in proportion."""
    total = shares.sum(axis=1, keepdims=True)
    for _ in range(50):
        full = shares >= 1
        rest = np.where(full, 0.0, shares)
        left = total - full.sum(axis=1, keepdims=True)
        shares = np.where(full, 1.0, rest * left / np.maximum(rest.sum(axis=1, keepdims=True), 1e-300))
    return np.minimum(shares, 1.0)


# -- routers that a rule may get wrong -----------------------------------------------------------------------------


def own_experts(domains: int = 2, experts: int = 64, top_k: int = 8) -> tuple[np.ndarray, int]:
    """(shares, K): each domain has K experts of its own and uses no other."""
    shares = np.zeros((domains, experts))
    for d in range(domains):
        shares[d, d * top_k : (d + 1) * top_k] = 1.0
    return shares, top_k


def dead(alive: int = 132, experts: int = 256, top_k: int = 8, domains: int = 3) -> tuple[np.ndarray, int]:
    """All domains use the same experts evenly, and the others not at all."""
    shares = np.zeros((domains, experts))
    shares[:, :alive] = top_k / alive
    return shares, top_k


def always_on(experts: int = 64, top_k: int = 8, domains: int = 3) -> tuple[np.ndarray, int]:
    """One expert in every token beside even ones."""
    shares = np.full((domains, experts), (top_k - 1) / (experts - 1))
    shares[:, 0] = 1.0
    return shares, top_k


def one_busier(share: float = 0.42, experts: int = 8, top_k: int = 3, domains: int = 3) -> tuple[np.ndarray, int]:
    """One expert with this share of tokens, the others even."""
    shares = np.full((domains, experts), (top_k - share) / (experts - 1))
    shares[:, 0] = share
    return shares, top_k


def all_but_one(domains: int = 10, experts: int = 64) -> tuple[np.ndarray, int]:
    """One expert takes every token of all domains but the last, which uses the others evenly."""
    shares = np.zeros((domains, experts))
    shares[:-1, 0] = 1.0
    shares[-1, 1:] = 1.0 / (experts - 1)
    return shares, 1


def hardly_different(experts: int = 16, top_k: int = 2, by: float = 0.02) -> tuple[np.ndarray, int]:
    """Two domains that differ by a little, in every expert."""
    sign = np.where(np.arange(experts) % 2 == 0, 1.0, -1.0)
    return np.stack([(1 + by * sign) * top_k / experts, (1 - by * sign) * top_k / experts]), top_k
