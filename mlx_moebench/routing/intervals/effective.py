"""How many sequences an interval rests on: unequal ones count for fewer (and repeated ones for one: `repeats`).

An estimate of a variance from sequences of x tokens each is a sum of squares in proportion to x^2. It is as sure as one
from (sum x^2)^2 / sum x^4 sequences of one length (Satterthwaite 1946), the effective number. One long document among a
hundred short ones makes it about 1, and no resampling of such a sample says how far the next document would move a
number: below `MIN_CLUSTERS` there is no interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ..sums import Floats, numbered
from .bootstrap import MIN_CLUSTERS

FEW_DOMAINS = 8
"""Up to so many, each two are compared."""

UNEQUAL = 4.0
"""Domains that differ by more than this factor in number or length of their sequences are pointed out."""


@dataclass(frozen=True)
class Clusters:
    """Sequences of one domain: how many, how many they count for, their tokens; why there is no interval, or None.

    Of texts that occur several times each is one.
    """

    name: str
    sequences: int
    effective: float
    tokens: int
    reason: str | None


def effective_clusters(n_tokens: npt.ArrayLike) -> float:
    """(sum x^2)^2 / sum x^4 over the numbers of tokens x [N]: at most N, and N when all are alike; 0 without tokens.

    >>> effective_clusters([5, 5, 5, 5])
    4.0
    >>> round(effective_clusters([1000] + [10] * 100), 2)
    1.02
    """
    x2 = np.asarray(n_tokens, dtype=np.float64) ** 2
    largest = float(x2.max(initial=0.0))
    if largest == 0:
        return 0.0
    x2 = x2 / largest
    return float(x2.sum() ** 2 / (x2**2).sum())


def clusters(n_tokens: npt.ArrayLike, strata: npt.ArrayLike, copies: npt.ArrayLike | None = None) -> list[Clusters]:
    """`Clusters` of each domain, by name. n_tokens [N]; strata [N] domains; copies [N]: sequences that each one is of.

    Texts that occur several times are summed to one each, and only what is said of them tells how many they were.
    """
    tokens, of = _counted(n_tokens, copies)
    names, labels = numbered(strata)
    return [_clusters(str(name), tokens[labels == number], of[labels == number]) for number, name in enumerate(names)]


def pooled(
    n_tokens: npt.ArrayLike, strata: npt.ArrayLike | None = None, copies: npt.ArrayLike | None = None
) -> Clusters:
    """`Clusters` of all sequences together, which are drawn inside their strata [N].

    Each stratum takes one of the degrees of freedom, and a stratum of one sequence says nothing of its spread.
    """
    tokens, of = _counted(n_tokens, copies)
    whole = _clusters("", tokens, of)
    if strata is None or whole.reason is not None:
        return whole
    names, labels = numbered(strata)
    sizes = np.bincount(labels, weights=tokens > 0, minlength=len(names))
    least = MIN_CLUSTERS - 1 + len(names)
    reason = None
    if len(names) > 1 and sizes.min() < 2:
        small = int(sizes.argmin())
        reason = (
            f"{_held(str(names[small]), of[(labels == small) & (tokens > 0)])}: 2 or more of each data set are needed"
        )
    elif whole.effective < least - 1e-9:
        what = _texts(f" of {len(names)} data sets", of[tokens > 0])
        reason = f"{what} count for {_rounded_down(whole.effective)}: {least:,} or more are needed"
    return replace(whole, reason=reason)


def _counted(n_tokens: npt.ArrayLike, copies: npt.ArrayLike | None) -> tuple[Floats, npt.NDArray[np.intp]]:
    tokens = np.asarray(n_tokens, dtype=np.float64)
    return tokens, np.ones(len(tokens), dtype=np.intp) if copies is None else np.asarray(copies, dtype=np.intp)


def _clusters(name: str, tokens: Floats, copies: npt.NDArray[np.intp]) -> Clusters:
    """Of one domain, or with "" for a name of all."""
    of, copies = f" of {name}" if name else "", copies[tokens > 0]
    n, n_sequences = len(copies), int(copies.sum())
    effective = effective_clusters(tokens)
    reason = None
    if effective < MIN_CLUSTERS - 1e-9:
        if n < MIN_CLUSTERS and n_sequences > n:
            reason = f"{count(n_sequences, 'sequence')}{of} hold {count(n, 'text')}"
        elif n < MIN_CLUSTERS:
            reason = f"{count(n, 'sequence')}{of} {'is' if n == 1 else 'are'} too few for an interval"
        elif n_sequences > n:
            reason = f"{_texts(of, copies)} count for {_rounded_down(effective)}"
        else:
            reason = f"{_texts(of, copies)} are so unequal in length that they count for {_rounded_down(effective)}"
        reason += f": {MIN_CLUSTERS} or more are needed"
    return Clusters(name, n, effective, int(tokens.sum()), reason)


def count(n: int, what: str) -> str:
    """
    >>> count(1, "text"), count(2000, "text")
    ('1 text', '2,000 texts')
    """
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _texts(of: str, copies: npt.NDArray[np.intp]) -> str:
    """The sequences with tokens, each of so many copies."""
    if copies.sum() == len(copies):
        return f"{count(len(copies), 'sequence')}{of}"
    return f"{count(len(copies), 'text')}{of}, some of them repeated,"


def _held(name: str, copies: npt.NDArray[np.intp]) -> str:
    """How few sequences a data set has."""
    if copies.sum() == len(copies):
        return f"{name} has {count(len(copies), 'sequence')}"
    return f"{count(int(copies.sum()), 'sequence')} of {name} hold {count(len(copies), 'text')}"


def _rounded_down(effective: float) -> str:
    """9.98 is not 10.0, which would be enough."""
    return f"{math.floor(10 * effective + 1e-6) / 10:,.1f}"


def unequal(n_tokens: npt.ArrayLike, strata: npt.ArrayLike) -> list[str]:
    """A sentence for each two domains whose numbers of sequences, or lengths of them, differ by more than `UNEQUAL`.

    n_tokens [N], strata [N] of the sequences as they are, each copy of a text by itself. Of more than `FEW_DOMAINS` the
    two furthest apart stand for all.
    """
    sentences = []
    every = clusters(n_tokens, strata)
    sizes = {
        ("sequence", ""): [(c.name, float(c.sequences)) for c in every if c.tokens],
        ("token", " a sequence"): [(c.name, c.tokens / c.sequences) for c in every if c.tokens],
    }
    for (what, suffix), of in sizes.items():
        by_size = sorted(of, key=lambda one: one[1])
        pairs = combinations(of, 2) if len(of) <= FEW_DOMAINS else [(by_size[0], by_size[-1])]
        for (a, x), (b, y) in pairs:
            if max(x, y) > UNEQUAL * min(x, y):
                sentences.append(f"{a} has {count(round(x), what)}{suffix}, {b} {round(y):,}.")
    return sentences
