"""What one router does on several domains, with intervals: random halves are drawn inside each domain.

Every domain counts the same, 1/D, whatever its number of tokens: nothing is thrown away, each domain's sums are divided
by its own tokens. Entropies, information and divergences are corrected for their bias as `routing.intervals.corrected`
says. The interval of the information MI(domain; expert) reaches 0 if and only if the test of independence
(`routing.intervals.independence`) does not reject: both come from the same halves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ...errors import MoebenchError
from ...options import Plan, stepping
from ..intervals.bootstrap import Interval
from ..intervals.corrected import Corrected, Drawn, corrected, error_parts, transformed
from ..intervals.effective import Clusters, clusters, effective_clusters
from ..intervals.halves import Halves, Ratios, random_halves, ratios_of
from ..intervals.independence import Independence, as_tested, independence
from ..sums import Floats, Sums, entropy, numbered, weighted_sums
from .information import domain_load


@dataclass(frozen=True)
class DomainEstimates:
    """One router on D domains.

    domains: how many sequences each has and what they count for. shares [D, R]: share of each domain's tokens that use
    each expert. used: r = exp(H(f)) / E of the domains mixed 1/D each. information: MI(domain; expert), nats.
    pairs: what makes `divergence`. test: that all domains route alike; ratios: the
    shares of each domain with their noise; both None without intervals, for the ``reason``.
    """

    n_experts: int
    top_k: int
    domains: tuple[Clusters, ...]
    shares: Floats
    used: Corrected
    information: Corrected
    pairs: Callable[[], dict[tuple[str, str], Corrected]]
    test: Independence | None
    ratios: tuple[Ratios, ...] | None
    level: float
    reason: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the domains, sorted."""
        return tuple(d.name for d in self.domains)

    @property
    def even(self) -> float:
        """K/E: every expert's share of tokens under even routing."""
        return self.top_k / self.n_experts

    @property
    def specialisation(self) -> Corrected:
        """s = MI / ln D, in [0, 1]."""
        return transformed(self.information, lambda nats: nats / math.log(len(self.domains)))

    @cached_property
    def divergence(self) -> dict[tuple[str, str], Corrected]:
        """Jensen-Shannon divergence of each two domains, nats; computed where it is asked for."""
        return self.pairs()

    @cached_property
    def mixture(self) -> Floats:
        """f [R]: the load of the domains mixed 1/D each."""
        return np.asarray(self.shares.mean(axis=0) / self.top_k)


def domain_estimates(
    routers: Sequence[Sums], domains: npt.ArrayLike, plan: Plan | None = None, copies: npt.ArrayLike | None = None
) -> list[DomainEstimates]:
    """`DomainEstimates` of each router, from sums over the same N sequences in the same order; domains: [N] names.

    copies: [N] how many sequences each is the sum of, for the reason why there are no intervals.
    All routers share the halves. A domain whose sequences count for fewer than 10 leaves the values and takes the
    intervals and the test. Raises `MoebenchError` for fewer than two domains.
    """
    plan = plan or Plan()
    names, labels = numbered(domains)
    if len(names) < 2:
        raise MoebenchError(f"Domains are compared with each other: two or more are needed, got {len(names)}.")
    members = [np.flatnonzero(labels == number) for number in range(len(names))]
    counted = [tuple(clusters(s.n_tokens, domains, copies)) for s in routers]
    few = [next((c.reason for c in each if c.reason), None) for each in counted]
    halves: list[Halves] = []
    if not all(few):
        halves = [random_halves(np.zeros(len(m)), plan.resamples, (plan.seed, d)) for d, m in enumerate(members)]
    each_router = stepping("between the domains, router by router", zip(routers, counted, few, strict=True))
    return [
        _point(s, members, each, reason, plan.level) if reason else _estimates(s, members, each, halves, plan.level)
        for s, each, reason in each_router
    ]


def domain_point(counts: npt.ArrayLike, top_k: int, names: Sequence[str], reason: str) -> DomainEstimates:
    """Of counts [D, R] without sequences: values without intervals, for the ``reason``."""
    c = np.asarray(counts, dtype=np.float64)
    domains = tuple(Clusters(name, 0, 0.0, int(row.sum()) // top_k, reason) for name, row in zip(names, c, strict=True))
    sums = Sums.from_counts(c, c.sum(axis=1) / top_k, top_k)
    return _point(sums, [np.array([d]) for d in range(len(c))], domains, reason, 0.95)


def information_of(load: Floats) -> Floats:
    """MI(domain; expert) [...] of loads [..., D, R]."""
    return np.asarray(np.maximum(entropy(load.mean(axis=-2)) - entropy(load).mean(axis=-1), 0.0))


def _point(
    sums: Sums, members: list[npt.NDArray[np.intp]], domains: tuple[Clusters, ...], reason: str, level: float
) -> DomainEstimates:
    load = domain_load(np.stack([sums.counts[m].sum(axis=0) for m in members]))

    def plain(value: float) -> Corrected:
        return Corrected(value, Interval(reason=reason), value)

    def pairs() -> dict[tuple[str, str], Corrected]:
        each = combinations(range(len(domains)), 2)
        return {(domains[d].name, domains[e].name): plain(float(information_of(load[[d, e]]))) for d, e in each}

    used = plain(math.exp(float(entropy(load.mean(axis=0)))) / sums.n_experts)
    shares, mi = load * sums.top_k, plain(float(information_of(load)))
    return DomainEstimates(sums.n_experts, sums.top_k, domains, shares, used, mi, pairs, None, None, level, reason)


@dataclass(frozen=True)
class _Loads:
    """The loads of one domain: whole [R], of halves [2 P, R], of quarters [4 Q, R], without each sequence [n, R].

    ratios: its shares with their noise. tokens [n].
    """

    whole: Floats
    half: Floats
    quarter: Floats
    left_out: Floats
    ratios: Ratios
    tokens: Floats


class _Mixture:
    """Domains mixed 1/D each: the mean of their loads, and the mean of the entropies of these.

    Grows by a domain at a time, so that the draws of only one are held at once.
    """

    def __init__(self) -> None:
        self._sums: list[tuple[Floats, Floats]] = []
        self._left_out: list[tuple[Floats, Floats]] = []
        self._tokens: list[Floats] = []

    def add(self, loads: _Loads) -> None:
        """One more domain."""
        draws = [(x, entropy(x)) for x in (loads.whole, loads.half, loads.quarter)]
        before = self._sums or [(np.zeros(()), np.zeros(()))] * 3
        self._sums = [(x + mix, h + inner) for (x, h), (mix, inner) in zip(draws, before, strict=True)]
        # What a sequence changes in the sums, by being left out.
        self._left_out.append((loads.left_out - loads.whole, entropy(loads.left_out) - draws[0][1]))
        self._tokens.append(loads.tokens)

    def corrected(
        self, function: Callable[[Floats, Floats], Floats], level: float, limits: tuple[float, float]
    ) -> Corrected:
        """``function`` of the mean load [..., R] and the mean entropy [...], with its interval."""
        d = len(self._tokens)
        whole, half, quarter = (function(mix / d, inner / d) for mix, inner in self._sums)
        (mix, inner), parts = self._sums[0], []
        for changed, by in self._left_out:
            values = function((mix + changed) / d, (inner + by) / d)
            parts.append(error_parts(values, [np.arange(len(values))]))
        drawn = Drawn(float(whole), half, quarter)
        return corrected(drawn, _free(self._tokens), level, limits, parts=np.concatenate(parts))


def _estimates(
    sums: Sums,
    members: list[npt.NDArray[np.intp]],
    domains: tuple[Clusters, ...],
    halves: list[Halves],
    level: float,
) -> DomainEstimates:
    e, d = sums.n_experts, len(members)
    mixture, shares, ratios = _Mixture(), [], []
    for rows, half in zip(members, halves, strict=True):
        loads = _drawn(sums, rows, half)
        mixture.add(loads)
        shares.append(loads.whole * sums.top_k)
        ratios.append(loads.ratios)

    def pairs() -> dict[tuple[str, str], Corrected]:
        every = [_drawn(sums, rows, half) for rows, half in zip(members, halves, strict=True)]
        found = {}
        for a, b in combinations(range(d), 2):
            two = _Mixture()
            two.add(every[a])
            two.add(every[b])
            found[domains[a].name, domains[b].name] = two.corrected(_information, level, (0.0, math.log(2)))
        return found

    spread = mixture.corrected(lambda mix, _: entropy(mix), level, (math.log(sums.top_k), math.log(e)))
    used = transformed(spread, lambda h: math.exp(h - math.log(e)))
    test = independence(ratios, level)
    mi = as_tested(mixture.corrected(_information, level, (0.0, math.log(d))), test)
    return DomainEstimates(e, sums.top_k, domains, np.stack(shares), used, mi, pairs, test, tuple(ratios), level, None)


def _information(mixture: Floats, inner: Floats) -> Floats:
    """MI(domain; expert) of a mean load and of the mean entropy of the loads; not below 0 by rounding."""
    return np.asarray(np.maximum(entropy(mixture) - inner, 0.0))


def _drawn(sums: Sums, rows: npt.NDArray[np.intp], halves: Halves) -> _Loads:
    counts, tokens = sums.counts[rows].astype(np.float64), sums.n_tokens[rows].astype(np.float64)
    whole = counts.sum(axis=0)
    first = weighted_sums(halves.weights, np.column_stack([counts, tokens]))
    partitions, _, n = halves.quarters.shape
    three = weighted_sums(halves.quarters.reshape(-1, n), counts)
    rest = 4.0 * whole - three.reshape(partitions, 3, -1).sum(axis=1)
    both, four = np.concatenate([first[:, :-1], 2.0 * whole - first[:, :-1]]), np.concatenate([three, rest])
    shares = ratios_of(counts, tokens, first[:, :-1], first[:, -1], halves)
    load, half, quarter, left_out = (domain_load(c) for c in (whole, both, four, whole - counts))
    return _Loads(load, half, quarter, left_out, shares, tokens)


def _free(tokens: Sequence[Floats]) -> float:
    """Degrees of freedom of a mixture of domains, in which a sequence weighs its tokens over its domain's."""
    weights = np.concatenate([of_domain / max(float(of_domain.sum()), 1.0) for of_domain in tokens])
    return max(effective_clusters(weights) - len(tokens), 1.0)
