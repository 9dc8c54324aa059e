"""Which token ids an expert takes, and whether the id has to do with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import MoebenchError
from .sums import Floats

MIN_COUNT = 10
"""Occurrences of an id below which its shares say little."""


@dataclass(frozen=True)
class VocabularySpecialisation:
    """How the ids of a text are spread over one router's experts.

    ids: [X] those that occur often enough. n_tokens: [X] their tokens, N_x. shares: [X, R] N_{x,i} / N_x.
    null_shares: [X, R] their means under the null. value: mean over ids of the largest share; NaN without ids.
    null_mean, null_low, null_high: mean and middle 95% of the value under the null. p_value: one-sided. neighbours: the
    value if the ids were those of the tokens beside, the mean of both sides.
    """

    ids: npt.NDArray[np.int64]
    n_tokens: npt.NDArray[np.int64]
    shares: Floats
    null_shares: Floats
    value: float
    null_mean: float
    null_low: float
    null_high: float
    p_value: float
    neighbours: float


def vocabulary_specialisation(
    ids: npt.ArrayLike,
    experts: npt.ArrayLike,
    sequence: npt.ArrayLike,
    n_experts: int,
    *,
    min_count: int = MIN_COUNT,
    permutations: int = 200,
    seed: int = 0,
) -> VocabularySpecialisation:
    """Share of each id's tokens that choose each expert, against rotations of every sequence.

    Formula: N_{x,i} / N_x, N_x the tokens of id x (``min_count`` or more), N_{x,i} those of them that chose expert i;
        summarised as the mean over x of max_i. ids: [T], negative for none; experts: [T, K]; sequence: [T] ascending.
    Unit: share of tokens.
    Range: [K/E, 1]. The largest of E shares of few tokens lies above K/E by chance, hence the null.
    Null: in every sequence by itself the ids stay and the experts move on round the sequence by a random number of
        tokens. What would be exchangeable if ids did not matter is the alignment of the two within a sequence. Moving
        ids from one sequence to another would also undo that texts on one subject share words and experts; shuffling
        the tokens of a sequence would also undo that both words and experts linger from token to token. Rotations keep
        both. They include standing still, so the p-value (1 + #{null >= value}) / (1 + permutations) is valid where ids
        and experts each vary alike all along a sequence. What exceeds them is due to the id, or to what moves along a
        text with it: its place, or a passage that has words and experts of its own. ``neighbours`` tells these apart:
        of passages nearly all of the excess is left when ids move by one token, of ids little.
        Tokens routed by the same text before them are one observation; give only one of them an id
        (`routing.repeats.repeated_openings`).
    Source: Muennighoff et al. 2024 (OLMoE), section 5.3, vocabulary specialisation; the null is ours.
    """
    if permutations < 1 or min_count < 1:
        raise MoebenchError(f"Permutations ({permutations}) and occurrences ({min_count}) must be 1 or more.")
    tokens, chosen = np.asarray(ids, dtype=np.int64), np.asarray(experts, dtype=np.int64)
    known = tokens >= 0
    frequent = _frequent(tokens[known], chosen[known], n_experts, min_count)
    observed = frequent.shares(frequent.tokens)
    if not len(frequent.ids):
        nan = float("nan")
        return VocabularySpecialisation(frequent.ids, frequent.counts, observed, observed, nan, nan, nan, nan, nan, nan)
    turns = _Rotations(np.asarray(sequence, dtype=np.int64)[known], frequent.tokens)
    rng = np.random.default_rng(seed)
    value = float(observed.max(axis=1).mean())
    null, null_shares = _null(frequent, turns, rng, permutations)
    low, high = np.quantile(null, [0.025, 0.975])
    # A rotation that only adds the same shares in another order must not fall below by rounding.
    p_value = (1 + int(np.sum(null >= value - 1e-12))) / (1 + permutations)
    return VocabularySpecialisation(
        frequent.ids,
        frequent.counts,
        observed,
        null_shares,
        value,
        float(null.mean()),
        float(low),
        float(high),
        p_value,
        float(np.mean([frequent.shares(turns.by(step)).max(axis=1).mean() for step in (-1, 1)])),
    )


@dataclass(frozen=True)
class _Frequent:
    """The X ids that occur often enough, how often, and their M tokens.

    tokens: [M] places in the text. number: [M] which of the ids each is. chosen: [T, K] of all tokens.
    """

    ids: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    n_experts: int

    def shares(self, where: npt.NDArray[np.int64]) -> Floats:
        """[X, R] the share of each id's tokens that choose each expert, if theirs are those of the tokens ``where``."""
        cells = self.number[:, None] * self.n_experts + self.chosen[where]
        shape = len(self.ids), self.n_experts
        counted = np.bincount(cells.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
        return np.asarray(counted / self.counts[:, None])


def _null(frequent: _Frequent, turns: _Rotations, rng: np.random.Generator, permutations: int) -> tuple[Floats, Floats]:
    """([B] the mean largest share of every rotation, [X, R] the mean shares)."""
    total = np.zeros((len(frequent.ids), frequent.n_experts))
    null = np.empty(permutations)
    for draw in range(permutations):
        turned = frequent.shares(turns.draw(rng))
        total += turned
        null[draw] = turned.max(axis=1).mean()
    return null, total / permutations


def _frequent(
    tokens: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], n_experts: int, min_count: int
) -> _Frequent:
    ids, place, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    often = counts >= min_count
    kept = np.flatnonzero(often[place])
    number = (np.cumsum(often) - 1)[place[kept]]
    return _Frequent(ids[often], counts[often], kept, number, chosen, n_experts)


class _Rotations:
    """Where the experts of tokens come from when every sequence is turned by a random number of tokens."""

    def __init__(self, sequence: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64]) -> None:
        _, first, which, lengths = np.unique(sequence, return_index=True, return_inverse=True, return_counts=True)
        self._lengths = lengths
        self._which = which[tokens]
        self._start, self._length = first[self._which], lengths[self._which]
        self._inside = tokens - self._start

    def draw(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """One draw, for each of the tokens."""
        return self.by(rng.integers(self._lengths)[self._which])

    def by(self, steps: npt.NDArray[np.int64] | int) -> npt.NDArray[np.int64]:
        """When each of the tokens, or all of them, move on by ``steps``."""
        where: npt.NDArray[np.int64] = self._start + (self._inside + steps) % self._length
        return where
