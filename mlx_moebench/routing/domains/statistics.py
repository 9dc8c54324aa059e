"""How a router's load differs between domains, with intervals: whole sequences are resampled inside each domain.

Every domain counts the same, 1/D, whatever its number of tokens: nothing is thrown away, each domain's sums are
divided by its own tokens. Intervals follow `routing.intervals.bootstrap`:

shares of tokens (and what is read off them: the a and b of a verdict)
    One simultaneous band around all experts on all domains, share +- c, c the upper quantile over resamples of
    max over d, i of w_d |s*_d(i) - s_d(i)|. No largest or smallest of the shares moves by more than the largest
    deviation, so that their intervals are their values +- c, too. w_d is the widening of a domain's own clusters:
    a domain of few sequences, not the pool, limits how well its shares are known.
information, divergences and the n_eff of the mixture
    The basic interval, as for other entropies of shares: near 0 information is quadratic in the shares, as the square
    of a distance is, and its upward bias is subtracted rather than doubled. It is widened by the clusters of the
    mixture, in which a sequence weighs its tokens over those of its domain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...errors import MoebenchError
from ...options import Plan
from ..intervals.bootstrap import MIN_CLUSTERS, Interval, basic, blocks, clipped, widening
from ..sums import Floats, Sums, divergence, entropy, weighted_sums
from .information import PERMUTATIONS, DomainInformation, domain_information_point, domain_load, informations

BASIC = "basic bootstrap over sequences, every domain weighted 1/D"
BAND = "simultaneous band over experts and domains"


class Estimate(NamedTuple):
    """A value and its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class DomainStatistics:
    """One router on D domains.

    domains: D names, sorted; tokens, sequences: how many of each. shares [D, R]: share of each domain's tokens that
    use each expert; even is K/E. band: half-width c of the simultaneous band around all of them, NaN without
    intervals. mixture: n_eff / E of the domains mixed 1/D each. information: MI(domain; expert) with its null;
    mi: the same value with its interval. divergence: Jensen-Shannon divergence of each two domains, nats.
    reason: why there is no interval and no null, or None.
    """

    n_experts: int
    top_k: int
    domains: tuple[str, ...]
    tokens: tuple[int, ...]
    sequences: tuple[int, ...]
    shares: Floats
    band: float
    mixture: Estimate
    information: DomainInformation
    mi: Estimate
    divergence: dict[tuple[str, str], Estimate]
    reason: str | None

    @property
    def even(self) -> float:
        """K/E: every expert's share of tokens under even routing."""
        return self.top_k / self.n_experts

    @property
    def inescapable(self) -> Estimate:
        """a = max_i min_d s_d(i): the share of tokens of the expert that no domain escapes, +- c."""
        return self._banded(float(self.shares.min(axis=0).max()), 0.0)

    @property
    def busiest(self) -> Estimate:
        """b = max_d max_i s_d(i): the busiest expert of any domain, as a share of tokens, +- c."""
        return self._banded(float(self.shares.max()), self.even)

    def _banded(self, value: float, least: float) -> Estimate:
        if not math.isfinite(self.band):
            return Estimate(value, Interval(reason=self.reason or "a domain has no tokens"))
        return Estimate(value, Interval(max(value - self.band, least), min(value + self.band, 1.0), BAND))


def domain_statistics(
    routers: Sequence[Sums],
    domains: npt.ArrayLike,
    plan: Plan | None = None,
    permutations: int = PERMUTATIONS,
) -> list[DomainStatistics]:
    """`DomainStatistics` of each router, from sums over the same N sequences in the same order.

    domains: [N] names. All routers share the resamples and the permutations. A domain of fewer than 10 sequences
    leaves the values and takes the intervals and the null. Raises `MoebenchError` for fewer than two domains.
    """
    plan = plan or Plan()
    unique, labels = np.unique(np.asarray(domains), return_inverse=True)
    names = tuple(map(str, unique))
    if len(names) < 2:
        raise MoebenchError(f"Domains are compared with each other: two or more are needed, got {len(names)}.")
    members = [np.flatnonzero(labels == d) for d in range(len(names))]
    reason = _too_few(names, members)
    drawn: Sequence[_Drawn | None]
    if reason is None:
        information = informations([s.counts for s in routers], domains, permutations, plan.seed)
        drawn = _resampled(routers, members, plan)
    else:
        one_hot = np.eye(len(names))[labels].T
        information = [domain_information_point(one_hot @ s.counts) for s in routers]
        drawn = [None for _ in routers]
    every = zip(routers, information, drawn, strict=True)
    return [_statistics(s, names, members, info, boot, reason, plan) for s, info, boot in every]


def _too_few(names: Sequence[str], members: list[npt.NDArray[np.intp]]) -> str | None:
    name, n = min(zip(names, map(len, members), strict=True), key=lambda pair: pair[1])
    if n >= MIN_CLUSTERS:
        return None
    have = "1 sequence" if n == 1 else f"{n} sequences"
    return f"{have} of {name}: {MIN_CLUSTERS} or more of each domain are needed for an interval"


class _Drawn:
    """Resampled values of one router, [B] each: largest widened deviation, mixture's n_eff / E, MI, divergences."""

    def __init__(self, sums: Sums, members: list[npt.NDArray[np.intp]], plan: Plan) -> None:
        self._sums, self._members = sums, members
        self._counts = [np.ascontiguousarray(sums.counts[m], dtype=np.float64) for m in members]
        self._load = domain_load(np.stack([c.sum(axis=0) for c in self._counts]))
        # One domain is one stratum: its share rests on its own clusters only.
        self._widen = np.array([widening(sums.n_tokens[m], 1, plan.level) for m in members])
        pairs = len(members) * (len(members) - 1) // 2
        self.deviation, self.mixture, self.mi = (np.empty(plan.resamples) for _ in range(3))
        self.divergence = np.empty((pairs, plan.resamples))

    def add(self, rows: slice, weights: list[Floats]) -> None:
        """The resamples ``rows``, drawn by ``weights``, [b, N_d] for each domain."""
        load = domain_load(np.stack([weighted_sums(w, c) for w, c in zip(weights, self._counts, strict=True)], axis=1))
        moved = np.abs(load - self._load).max(axis=-1) * self._sums.top_k
        self.deviation[rows] = (moved * self._widen).max(axis=-1)
        mixed, each = entropy(load.mean(axis=1)), entropy(load)
        self.mixture[rows] = np.exp(mixed) / self._sums.n_experts
        self.mi[rows] = mixed - each.mean(axis=-1)
        for number, (d, e) in enumerate(combinations(range(load.shape[1]), 2)):
            self.divergence[number, rows] = divergence(load[:, d], load[:, e], (each[:, d] + each[:, e]) / 2)

    def intervals(self, mixture: float, mi: float, apart: Sequence[float], plan: Plan) -> list[Interval]:
        """Of n_eff / E of the mixture, of MI, and of the divergence of each two domains, whose values are given."""
        d = len(self._members)
        widen = self._mixture_widening(range(d), plan.level)
        least = self._sums.top_k / self._sums.n_experts
        of_pairs = [
            _interval(value, boot, self._mixture_widening(pair, plan.level), plan, (0.0, math.log(2)))
            for pair, value, boot in zip(combinations(range(d), 2), apart, self.divergence, strict=True)
        ]
        return [
            _interval(mixture, self.mixture, widen, plan, (least, 1.0)),
            _interval(mi, self.mi, widen, plan, (0.0, math.log(d))),
            *of_pairs,
        ]

    def _mixture_widening(self, chosen: Sequence[int], level: float) -> float:
        """Widening for the mixture of the domains ``chosen``: a sequence weighs its tokens over its domain's."""
        tokens = [self._sums.n_tokens[self._members[d]].astype(np.float64) for d in chosen]
        total = sum(float(t.sum()) for t in tokens)
        return widening(np.concatenate([t * (total / max(t.sum(), 1.0)) for t in tokens]), len(chosen), level)


def _resampled(routers: Sequence[Sums], members: list[npt.NDArray[np.intp]], plan: Plan) -> list[_Drawn]:
    drawn = [_Drawn(s, members, plan) for s in routers]
    # A generator for each domain, so that the block does not decide which numbers a resample gets.
    rngs = [np.random.default_rng([plan.seed, d]) for d in range(len(members))]
    for rows in blocks(plan.resamples, len(members) * max(s.n_experts for s in routers)):
        weights = [_draw(rng, len(m), rows.stop - rows.start) for rng, m in zip(rngs, members, strict=True)]
        for router in drawn:
            router.add(rows, weights)
    return drawn


def _draw(rng: np.random.Generator, n: int, count: int) -> Floats:
    """How often each of n sequences is drawn, [count, n]."""
    return rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)


def _statistics(
    sums: Sums,
    names: tuple[str, ...],
    members: list[npt.NDArray[np.intp]],
    information: DomainInformation,
    drawn: _Drawn | None,
    reason: str | None,
    plan: Plan,
) -> DomainStatistics:
    load = domain_load(np.stack([sums.counts[m].sum(axis=0) for m in members]))
    mixture = math.exp(float(entropy(load.mean(axis=0)))) / sums.n_experts
    pairs = list(combinations(range(len(names)), 2))
    apart = [float(divergence(load[d], load[e])) for d, e in pairs]
    if drawn is None:
        intervals = [Interval(reason=reason)] * (2 + len(pairs))
        band = math.nan
    else:
        intervals = drawn.intervals(mixture, information.mi, apart, plan)
        band = float(np.quantile(drawn.deviation, (1 + plan.level) / 2))
        if not math.isfinite(band):
            reason = "a domain has no tokens in some of the resamples"
    of_mixture, of_mi, *of_pairs = intervals
    return DomainStatistics(
        sums.n_experts,
        sums.top_k,
        names,
        tuple(int(sums.n_tokens[m].sum()) for m in members),
        tuple(len(m) for m in members),
        load * sums.top_k,
        band,
        Estimate(mixture, of_mixture),
        information,
        Estimate(information.mi, of_mi),
        {
            (names[d], names[e]): Estimate(value, interval)
            for (d, e), value, interval in zip(pairs, apart, of_pairs, strict=True)
        },
        reason,
    )


def _interval(value: float, boot: Floats, widen: float, plan: Plan, limits: tuple[float, float]) -> Interval:
    """Basic interval inside the limits of what it measures."""
    if not (math.isfinite(value) and np.isfinite(boot).all()):
        return Interval(reason="a domain has no tokens, or none in some of the resamples")
    low, high = basic(value, boot, widen, plan.level)
    return clipped(Interval(low, high, BASIC, bias=float(boot.mean()) - value), limits)
