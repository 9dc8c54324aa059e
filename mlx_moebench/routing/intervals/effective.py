"""How many sequences an interval rests on: unequal ones count for fewer (and repeated ones for one: `repeats`).

An estimate of a variance from sequences of x tokens each is a sum of squares in proportion to x^2. It is as sure as one
from (sum x^2)^2 / sum x^4 sequences of one length (Satterthwaite 1946), the effective number. One long document among a
hundred short ones makes it about 1, and no resampling of such a sample says how far the next document would move a
number: below `MIN_CLUSTERS` there is no interval.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ..sums import Floats
from .bootstrap import MIN_CLUSTERS

UNEQUAL = 4.0
"""Domains that differ by more than this factor in number or length of their sequences are pointed out."""


@dataclass(frozen=True)
class Clusters:
    """Sequences of one domain: how many, how many they count for, their tokens; why there is no interval, or None."""

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


def clusters(n_tokens: npt.ArrayLike, strata: npt.ArrayLike) -> list[Clusters]:
    """`Clusters` of each domain, by name. n_tokens [N]; strata [N] domains."""
    tokens, labels = np.asarray(n_tokens, dtype=np.float64), np.asarray(strata)
    return [_clusters(str(name), tokens[labels == name], several=True) for name in np.unique(labels)]


def pooled(n_tokens: npt.ArrayLike, strata: npt.ArrayLike | None = None) -> Clusters:
    """`Clusters` of all sequences together, which are drawn inside their strata [N].

    Each stratum takes one of the degrees of freedom, and a stratum of one sequence says nothing of its spread.
    """
    tokens = np.asarray(n_tokens, dtype=np.float64)
    whole = _clusters("", tokens, several=False)
    if strata is None or whole.reason is not None:
        return whole
    names, labels = np.unique(np.asarray(strata), return_inverse=True)
    sizes = np.bincount(labels, weights=tokens > 0)
    reason = None
    if len(names) > 1 and sizes.min() < 2:
        reason = f"{names[sizes.argmin()]} has {int(sizes.min())} sequence: 2 or more of each data set are needed"
    elif whole.effective - len(names) < MIN_CLUSTERS - 1 - 1e-9:
        reason = f"{whole.sequences} sequences of {len(names)} data sets are too few for an interval"
    return replace(whole, reason=reason)


def _clusters(name: str, tokens: Floats, *, several: bool) -> Clusters:
    n = int((tokens > 0).sum())
    effective = effective_clusters(tokens)
    reason = None
    if effective < MIN_CLUSTERS - 1e-9:
        of = f" of {name}" if several else ""
        one = n == 1
        if n < MIN_CLUSTERS:
            reason = f"{n} sequence{'' if one else 's'}{of} {'is' if one else 'are'} too few for an interval: "
        else:
            reason = f"{n} sequences{of} are so unequal in length that they count for {effective:.1f}: "
        reason += f"{MIN_CLUSTERS} or more are needed"
    return Clusters(name, n, effective, int(tokens.sum()), reason)


def unequal(n_tokens: npt.ArrayLike, strata: npt.ArrayLike) -> list[str]:
    """A sentence for each two domains whose numbers of sequences, or lengths of them, differ by more than `UNEQUAL`."""
    sentences = []
    for a, b in combinations(clusters(n_tokens, strata), 2):
        for what, x, y in (
            ("sequences", float(a.sequences), float(b.sequences)),
            ("tokens a sequence", a.tokens / max(a.sequences, 1), b.tokens / max(b.sequences, 1)),
        ):
            if min(x, y) > 0 and max(x, y) > UNEQUAL * min(x, y):
                sentences.append(f"{a.name} has {x:.4g} {what}, {b.name} {y:.4g}.")
    return sentences
