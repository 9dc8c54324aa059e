"""Sufficient statistics on the host, and the arithmetic that resampling needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ..types import HostArray
from .record import Distribution
from .tally import SCALARS

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.float64 | np.int64]
"""Counts or sums: integers as they were counted, floats once they are resampled or read where some are unknown."""
FIELDS = ("n_tokens", "counts", "top1_counts", "p_sum", "scalars")
"""The arrays of a `Sums`, by the names they have in files."""

ROWS = 16  # resamples in one matrix product


@dataclass(frozen=True)
class Sums:
    """Sums of one router over tokens; leading axes ``...`` are clusters, resamples, or none.

    n_tokens [...]; counts, top1_counts, p_sum [..., R]; scalars [..., len(SCALARS)].
    A quantity that was not measured (counts imported without logits, say) is NaN, and so is every
    metric that needs it.
    """

    n_experts: int
    top_k: int
    distribution: Distribution | None
    n_tokens: Numbers
    counts: Numbers
    top1_counts: Numbers
    p_sum: Floats
    scalars: Floats

    @classmethod
    def from_counts(
        cls,
        counts: npt.ArrayLike,
        n_tokens: npt.ArrayLike,
        top_k: int,
        top1_counts: npt.ArrayLike | None = None,
        distribution: Distribution | None = "softmax",
    ) -> Sums:
        """Sums of which only the selections are known: counts and top1_counts [..., R], n_tokens [...].

        >>> Sums.from_counts([3, 1, 0, 0], 2, top_k=2).load
        array([0.75, 0.25, 0.  , 0.  ])
        """
        c = np.asarray(counts, dtype=np.float64)
        unknown = np.full_like(c, np.nan)
        top1 = unknown if top1_counts is None else np.asarray(top1_counts, dtype=np.float64)
        scalars = np.full((*c.shape[:-1], len(SCALARS)), np.nan)
        return cls(c.shape[-1], top_k, distribution, np.asarray(n_tokens, dtype=np.float64), c, top1, unknown, scalars)

    def scalar(self, name: str) -> Floats:
        """Sum over tokens of one of `SCALARS`, shape [...]."""
        return self.scalars[..., SCALARS.index(name)]

    @cached_property
    def load(self) -> Floats:
        """f [..., R]: selections per expert over all selections."""
        return self.counts / _positive(self.n_tokens * self.top_k)[..., None]

    @cached_property
    def mean_p(self) -> Floats:
        """p-bar [..., R]: the routing distribution averaged over tokens."""
        return self.p_sum / _positive(self.n_tokens)[..., None]

    @cached_property
    def load_entropy(self) -> Floats:
        """H(f) [...], nats."""
        return entropy(self.load)

    @cached_property
    def marginal_entropy(self) -> Floats:
        """H(p-bar) [...], nats."""
        return entropy(self.mean_p)

    @cached_property
    def sorted_load(self) -> Floats:
        """f in ascending order, [..., R]."""
        return np.sort(self.load, axis=-1)

    def take(self, rows: Sequence[int]) -> Sums:
        """The clusters of these numbers, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        return replace(self, **{name: getattr(self, name)[index] for name in FIELDS})

    def grouped(self, labels: HostArray) -> Sums:
        """[G, ...]: sums over the clusters of each label 0 ... G - 1, of labels [N]."""

        arrays: dict[str, HostArray] = {}
        for name in FIELDS:
            values = getattr(self, name)
            arrays[name] = np.zeros((int(labels.max()) + 1, *values.shape[1:]), values.dtype)
            np.add.at(arrays[name], labels, values)
        return Sums(self.n_experts, self.top_k, self.distribution, **arrays)

    def of_tokens(self) -> Sums:
        """Without what is known of single experts: enough for means over tokens, and few columns to draw again."""
        nothing = np.empty((*self.n_tokens.shape, 0))
        return replace(self, counts=nothing, top1_counts=nothing, p_sum=nothing)

    def total(self) -> Sums:
        """Sums over the first axis."""
        return self._with(self._packed.sum(axis=0))

    def leave_one_out(self) -> Sums:
        """[N, ...]: the total without each cluster in turn."""
        return self._with(self._packed.sum(axis=0) - self._packed)

    def weighted(self, weights: Floats) -> Sums:
        """[B, ...]: totals of B resamples, the matrix product of weights [B, N] with the sums [N, ...]."""
        return self._with(weighted_sums(weights, self._packed))

    @cached_property
    def _packed(self) -> Floats:
        columns = [self.n_tokens[..., None], self.scalars, self.counts, self.top1_counts, self.p_sum]
        return np.concatenate(columns, axis=-1, dtype=np.float64)

    def _with(self, packed: Floats) -> Sums:
        m = 1 + len(SCALARS)
        r = (packed.shape[-1] - m) // 3
        counts, top1, p_sum = (packed[..., m + i * r : m + (i + 1) * r] for i in range(3))
        return Sums(
            self.n_experts, self.top_k, self.distribution, packed[..., 0], counts, top1, p_sum, packed[..., 1:m]
        )


def weighted_sums(weights: Floats, values: Floats) -> Floats:
    """weights [B, N] @ values [N, columns], in small products.

    BLAS does those on the calling thread: its own threads gain nothing on so flat a product, and spin between
    products (48 routers, two cores, one of them busy: 1.9 s instead of 4 to 8).
    """
    count, columns = len(weights) // ROWS, values.shape[1]
    whole = count * ROWS
    result = np.empty((len(weights), columns))
    stacked = weights[:whole].reshape(count, ROWS, weights.shape[1])
    np.matmul(stacked, values, out=result[:whole].reshape(count, ROWS, columns))
    np.matmul(weights[whole:], values, out=result[whole:])
    return result


def numbered(labels: npt.ArrayLike) -> tuple[list[Any], npt.NDArray[np.intp]]:
    """(the distinct labels in order, the number in it of each): `np.unique`, which drops NULs at the end of a text.

    >>> numbered(["x", "x\\0", "x"])
    (['x', 'x\\x00'], array([0, 1, 0]))
    """
    rows = labels.tolist() if isinstance(labels, np.ndarray) else list(cast(Iterable[Any], labels))
    names = sorted(set(rows))
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers[row] for row in rows], dtype=np.intp)


def entropy(p: npt.ArrayLike) -> Floats:
    """-sum p ln p over the last axis, nats, with 0 ln 0 = 0.

    >>> float(entropy([0.5, 0.5, 0.0]))
    0.6931471805599453
    """
    p = np.asarray(p, dtype=np.float64)
    return np.asarray(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1))


def divergence(f: Floats, g: Floats, ends: Floats | None = None) -> Floats:
    """Jensen-Shannon divergence of distributions over the last axis, nats, not below 0 by rounding.

    Formula: H((f + g) / 2) - (H(f) + H(g)) / 2. ends: the second term, where it is known.

    >>> round(float(divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0]))), 4)
    0.6931
    """
    ends = (entropy(f) + entropy(g)) / 2 if ends is None else ends
    return np.asarray(np.maximum(entropy((f + g) / 2) - ends, 0.0))


def _positive(n: Numbers) -> Floats:
    """A divisor that is NaN where there is nothing to divide by."""
    return np.where(n > 0, n, np.nan)
