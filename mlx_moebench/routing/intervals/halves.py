"""Random halves of the sequences: what other texts would have said, and how much of a number is only noise.

Cut the sequences in two at random. Each half differs from the whole as the whole differs from the truth: both
differences have the variance of a mean of N, exactly so where the sequences are of one length. Two things follow.

Noise. The differences of many random halves from the whole are draws of the whole's own error. Their spread is right
even where there are more experts than sequences: a bootstrap counts sequences 0, 1, 2, ... times, and what is quadratic
in the shares (information, distances) then varies 2 to 4 times too much, because its diagonal varies, too; the
diagonal of halves is constant.

Bias. Let F(n) be what a number is on average with n sequences: F + a/n + b/n^2 + ... The whole has F(N), halves have
F(N/2), so 2 F(N) - F(N/2) is free of a (the jackknife of halves), and quarters also free it of b (Strong et al. 1998).
What the second step still changes measures what the first one may have left.

Halves come in pairs, whose linear parts cancel in the mean, so that a bias needs few draws. With several strata each is
cut apart. Of an odd number one sequence is in both halves, with half its weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from ..sums import FIELDS, Floats, Sums, numbered, weighted_sums
from .effective import effective_clusters


@dataclass(frozen=True)
class Halves:
    """weights [P, N]: 2 for the sequences of a random half, 0 for the others, 1 for one that both halves have.

    quarters [Q, 3, N]: 4, 0, or 1 alike, for three of the four quarters of a partition; the fourth is the rest.
    members: numbers of the sequences of each stratum.
    """

    weights: Floats
    quarters: Floats
    members: list[npt.NDArray[np.intp]]


def random_halves(strata: npt.ArrayLike, resamples: int, seed: int | Sequence[int]) -> Halves:
    """``resamples`` halves, in pairs, and a quarter as many quarters, of the sequences [N] of each stratum."""
    names, labels = numbered(strata)
    pairs, partitions = max(resamples // 2, 1), max(resamples // 16, 1)
    weights, quarters = np.ones((pairs, len(labels))), np.ones((partitions, 3, len(labels)))
    members = [np.flatnonzero(labels == number) for number in range(len(names))]
    base = [seed] if isinstance(seed, int) else list(seed)
    for number, rows in enumerate(members):
        n = len(rows)
        rng = np.random.default_rng([*base, number])
        half = np.where(np.arange(n) < n // 2, 2.0, 0.0)
        half[-1] = half[-1] if n % 2 == 0 else 1.0
        weights[:, rows] = rng.permuted(np.tile(half, (pairs, 1)), axis=1)
        if n >= 4:
            group = rng.permuted(np.tile(np.arange(n) % 4, (partitions, 1)), axis=1)
            quarters[:, :, rows] = 4.0 * (group[:, None, :] == np.arange(3)[:, None])
    return Halves(weights, quarters, members)


def halved(sums: Sums, halves: Halves) -> Sums:
    """[2 P] sums of the random halves, the second of each pair P places after the first; scaled to the whole's size."""
    first, whole = sums.weighted(halves.weights), sums.total()
    return _joined(first, {name: 2.0 * getattr(whole, name) - getattr(first, name) for name in FIELDS})


def quartered(sums: Sums, halves: Halves) -> Sums:
    """[4 Q] sums of the quarters, scaled alike."""
    partitions, _, n = halves.quarters.shape
    three, whole = sums.weighted(halves.quarters.reshape(-1, n)), sums.total()
    rest = {}
    for name in FIELDS:
        values = getattr(three, name)
        drawn = values.reshape(partitions, 3, *values.shape[1:]).sum(axis=1)
        rest[name] = 4.0 * getattr(whole, name) - drawn
    return _joined(three, rest)


def _joined(first: Sums, second: dict[str, Floats]) -> Sums:
    fields: dict[str, Any] = {name: np.concatenate([getattr(first, name), second[name]]) for name in FIELDS}
    return replace(first, **fields)


@dataclass(frozen=True)
class Ratios:
    """R ratios of sums, sum_n counts / sum_n tokens, such as the shares of tokens of R experts, and their noise.

    value [R]. residuals [N, R]: each sequence's part in the error, scaled so that the sum of their squares is the
    variance, unbiased. noise [P, R]: errors that random halves draw, of that variance; 0 where there is none.
    leverage: the share of its own variance that fitting the ratio took out of the residuals. free: degrees of freedom.
    """

    value: Floats
    residuals: Floats
    noise: Floats
    leverage: float
    free: float

    @property
    def variance(self) -> Floats:
        """[R], 0 where no sequence differs from the whole."""
        return np.asarray((self.residuals**2).sum(axis=0))

    @property
    def skewness(self) -> Floats:
        """[R] of the error, 0 where there is none."""
        spread = self.variance**1.5
        return np.asarray((self.residuals**3).sum(axis=0) / np.where(spread > 0, spread, 1.0))


def ratios(counts: npt.NDArray[np.generic], n_tokens: npt.NDArray[np.generic], halves: Halves) -> Ratios:
    """`Ratios` of counts [N, R] and tokens [N] of the sequences that ``halves`` cut."""
    c, x = np.asarray(counts, dtype=np.float64), np.asarray(n_tokens, dtype=np.float64)
    drawn = weighted_sums(halves.weights, np.column_stack([c, x]))
    return ratios_of(c, x, drawn[:, :-1], drawn[:, -1], halves)


def ratios_of(counts: Floats, n_tokens: Floats, drawn: Floats, drawn_tokens: Floats, halves: Halves) -> Ratios:
    """The same where the sums of the first halves, drawn [P, R] and drawn_tokens [P], are there already."""
    total = float(n_tokens.sum())
    if total <= 0:
        nothing = np.full(counts.shape[1], np.nan)
        return Ratios(nothing, counts * np.nan, drawn * np.nan, np.nan, 0.0)
    value = counts.sum(axis=0) / total
    residuals = (counts - n_tokens[:, None] * value) / total
    size = (counts**2).sum(axis=0) / total**2
    noise = (drawn - drawn_tokens[:, None] * value) / total
    return _scaled(value, residuals, noise, size, n_tokens, halves)


def ratios_of_function(function: Callable[[Sums], Floats], sums: Sums, halves: Halves) -> Ratios:
    """`Ratios` of R numbers [..., R] that ``function`` makes of sums.

    Each must be a ratio to the tokens but for a factor and an offset, such as a share or a multiple of one. What a
    sequence has in the error is read off the total without it.
    """
    total, left_out, drawn = sums.total(), sums.leave_one_out(), sums.weighted(halves.weights)
    value, n_tokens = function(total), np.asarray(sums.n_tokens, dtype=np.float64)
    whole = float(total.n_tokens)
    if whole <= 0 or not np.isfinite(value).all():
        nothing = np.full((len(n_tokens), len(value)), np.nan)
        return Ratios(nothing[0], nothing, nothing[:1], math.nan, 0.0)
    residuals = (value - function(left_out)) * ((whole - n_tokens) / whole)[:, None]
    drawn_tokens = np.asarray(drawn.n_tokens, dtype=np.float64)
    noise = (function(drawn) - value) * (drawn_tokens / whole)[:, None]
    size = np.asarray(value**2 * float(((n_tokens / whole) ** 2).sum()), dtype=np.float64)
    return _scaled(value, residuals, noise, size, n_tokens, halves)


def paired_ratios(
    counts: Sequence[npt.NDArray[np.generic]], n_tokens: Sequence[npt.NDArray[np.generic]], halves: Halves
) -> Ratios:
    """`Ratios` of side B less those of side A, of the same sequences: what both share cancels.

    counts: [N, R] of A, and of B; n_tokens: [N] of each.
    """
    n, r = counts[0].shape
    value, residuals, size, tokens = np.zeros(r), np.zeros((n, r)), np.zeros(r), np.zeros(n)
    for sign, side, side_tokens in zip((-1.0, 1.0), counts, n_tokens, strict=True):
        c, x = np.asarray(side, dtype=np.float64), np.asarray(side_tokens, dtype=np.float64)
        total = x.sum() if x.any() else np.nan
        share = c.sum(axis=0) / total
        value += sign * share
        residuals += sign * (c - x[:, None] * share) / total
        size += (c**2).sum(axis=0) / total**2
        tokens += x / total
    return _scaled(value, residuals, halves.weights @ residuals, size, tokens, halves)


def _scaled(value: Floats, residuals: Floats, noise: Floats, size: Floats, n_tokens: Floats, halves: Halves) -> Ratios:
    """Of raw residuals and noise: without the bias of their variance, and both of one variance.

    size [R]: what is no more than rounding is in proportion to.
    """
    leverage, free, spread = 0.0, -float(len(halves.members)), 0.0
    for rows in halves.members:
        part, x = residuals[rows] - residuals[rows].mean(axis=0), n_tokens[rows]
        energy = (part**2).sum(axis=1)
        taken = _leverage(energy, x)
        residuals[rows] = part / np.sqrt(1.0 - taken)
        leverage += taken * float(energy.sum())
        spread += float(energy.sum())
    leverage = leverage / spread if spread > 0 else 0.0
    free += effective_clusters(n_tokens)
    # What rounding leaves of a ratio that is the same in every sequence is no variance.
    fixed = (residuals**2).sum(axis=0) <= 1e-12 * size
    residuals[:, fixed] = 0.0
    deviation = np.sqrt((noise**2).mean(axis=0))
    error = np.sqrt((residuals**2).sum(axis=0))
    noise *= np.where(fixed | (deviation == 0), 0.0, error / np.where(deviation > 0, deviation, 1.0))
    return Ratios(value, residuals, noise, leverage, max(free, 1.0))


def _leverage(energy: Floats, x: Floats) -> float:
    """By which share residuals' squares fall short: 2 sum x v / (X V) - sum x^2 / X^2, 1/n for n sequences alike."""
    whole, spread = float(x.sum()), float(energy.sum())
    if spread <= 0 or whole <= 0:
        return 0.0
    taken = 2.0 * float((x * energy).sum()) / (whole * spread) - float((x**2).sum()) / whole**2
    return float(min(max(taken, 0.0), 0.9))


def student(free: npt.ArrayLike, normal: npt.ArrayLike) -> Floats:
    """The quantile of Student's t at which as much is left as at a normal quantile.

    >>> float(student(9.0, 1.959964).round(3))
    2.262
    """
    return np.asarray(-stdtrit(np.asarray(free, dtype=np.float64), ndtr(-np.asarray(normal, dtype=np.float64))))
