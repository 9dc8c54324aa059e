"""Which token ids an expert takes more often than their place in the texts explains, each expert by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.special import bdtrc

from .sums import Floats

LEAST = 5
"""Occurrences of an id below which no expert's favourite is looked for."""

NULL = (
    "inside every text by itself the experts of its tokens are dealt out anew, whatever the tokens are; p is an upper "
    "bound (Hoeffding 1956), q is Benjamini and Hochberg's over all experts and tokens"
)


@dataclass(frozen=True)
class Favourites:
    """The X ids that occur often enough, at one router of R experts.

    ids, n_tokens: [X] the ids, and their tokens N_x. chosen: [X, R] those of them that chose the expert. expected: [X,
    R] how many would under the null. p: [X, R] one-sided, 1 where no more chose it than are expected.
    """

    ids: npt.NDArray[np.int64]
    n_tokens: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    expected: Floats
    p: Floats


def favourite_ids(
    ids: npt.ArrayLike, experts: npt.ArrayLike, sequence: npt.ArrayLike, n_experts: int, *, least: int = LEAST
) -> Favourites:
    """How many tokens of every id choose every expert, against a null that keeps each text's experts.

    Formula: N_{x,i} tokens of id x chose expert i; expected are sum_s N_{s,x} N_{s,i} / N_s over the texts s.
    ids: [T], negative for a token that does not count; experts: [T, K], distinct in a row; sequence: [T].
    Unit: tokens.
    Range: [0, N_x].
    Null: inside every text the experts are dealt out anew over its tokens. N_{x,i} is then a sum of independent
        hypergeometric numbers, each a sum of independent trials of unequal chances (its generating function has real
        roots only), and Hoeffding's theorem bounds its upper tail beyond mean + 1 by that of a binomial of N_x trials
        with the same mean: p is never too small, and 1 up to there. The null keeps which words and which experts a text
        has; it does not keep that experts linger from token to token, which the rotations of
        `vocabulary_specialisation` do for all experts of a router at once.
    Source: Hoeffding 1956, On the distribution of the number of successes in independent trials.
    """
    tokens, chosen = np.asarray(ids, dtype=np.int64), np.asarray(experts, dtype=np.int64)
    known = tokens >= 0
    tokens, chosen, texts = tokens[known], chosen[known], np.asarray(sequence, dtype=np.int64)[known]
    every, place, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    often = counts >= least
    _, text = np.unique(texts, return_inverse=True)
    n_texts, one = int(text.max(initial=-1)) + 1, np.ones(len(tokens))
    by_text = csr_matrix((one, (place, text)), shape=(len(every), n_texts))[often]  # [X, S]
    flat = chosen.ravel()
    repeat = np.repeat(np.arange(len(tokens)), chosen.shape[1] if chosen.ndim > 1 else 1)
    of_text = csr_matrix((np.ones(len(flat)), (text[repeat], flat)), shape=(n_texts, n_experts))
    of_id = csr_matrix((np.ones(len(flat)), (place[repeat], flat)), shape=(len(every), n_experts))[often]
    lengths = np.bincount(text, minlength=n_texts)
    rates = of_text.toarray() / np.maximum(1, lengths)[:, None]
    expected = np.asarray(by_text @ rates)
    observed = np.rint(of_id.toarray()).astype(np.int64)
    return Favourites(every[often], counts[often], observed, expected, _bound(observed, counts[often], expected))


def _bound(observed: npt.NDArray[np.int64], n_tokens: npt.NDArray[np.int64], expected: Floats) -> Floats:
    """[X, R] P(binomial >= observed) of N_x trials with mean ``expected``; 1 where Hoeffding's theorem says nothing."""
    p = np.ones_like(expected)
    far = observed >= expected + 1
    trials = np.broadcast_to(n_tokens[:, None], observed.shape)[far]
    chance = np.minimum(1.0, expected[far] / trials)
    p[far] = bdtrc(observed[far] - 1, trials, chance)
    return p
