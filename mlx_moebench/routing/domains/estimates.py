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
from ...options import Plan
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
    divergence: Jensen-Shannon divergence of each two domains, nats. test: that all domains route alike; ratios: the
    shares of each domain with their noise; both None without intervals, for the ``reason``.
    """

    n_experts: int
    top_k: int
    domains: tuple[Clusters, ...]
    shares: Floats
    used: Corrected
    information: Corrected
    divergence: dict[tuple[str, str], Corrected]
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
    return [
        _point(s, members, each, reason, plan.level) if reason else _estimates(s, members, each, halves, plan.level)
        for s, each, reason in zip(routers, counted, few, strict=True)
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

    pairs = {
        (domains[d].name, domains[e].name): plain(float(information_of(load[[d, e]])))
        for d, e in combinations(range(len(domains)), 2)
    }
    used = plain(math.exp(float(entropy(load.mean(axis=0)))) / sums.n_experts)
    shares, mi = load * sums.top_k, plain(float(information_of(load)))
    return DomainEstimates(sums.n_experts, sums.top_k, domains, shares, used, mi, pairs, None, None, level, reason)


def _estimates(
    sums: Sums,
    members: list[npt.NDArray[np.intp]],
    domains: tuple[Clusters, ...],
    halves: list[Halves],
    level: float,
) -> DomainEstimates:
    e, d = sums.n_experts, len(members)
    drawn = [_drawn(sums, rows, h) for rows, h in zip(members, halves, strict=True)]
    whole, half, quarter = (domain_load(np.stack(part, axis=-2)) for part in zip(*[x[:3] for x in drawn], strict=True))
    ratios = tuple(x[3] for x in drawn)
    tokens = [sums.n_tokens[rows].astype(np.float64) for rows in members]
    counts = [sums.counts[rows].astype(np.float64) for rows in members]
    left_out = [domain_load(c.sum(axis=0) - c) for c in counts]
    every = list(range(d))

    def mixed(function: Callable[[Floats], Floats], which: list[int], limits: tuple[float, float]) -> Corrected:
        """A function of the loads of some domains."""
        values = Drawn(float(function(whole[which])), function(half[:, which]), function(quarter[:, which]))
        parts = []
        for place, domain in enumerate(which):
            loads = np.repeat(whole[which][None], len(left_out[domain]), axis=0)
            loads[:, place] = left_out[domain]
            parts.append(error_parts(function(loads), [np.arange(len(loads))]))
        return corrected(values, _free(tokens, which), level, limits, parts=np.concatenate(parts))

    spread = mixed(_entropy_of_mixture, every, (math.log(sums.top_k), math.log(e)))
    used = transformed(spread, lambda h: math.exp(h - math.log(e)))
    test = independence(ratios, level)
    pairs = {
        (domains[a].name, domains[b].name): mixed(information_of, [a, b], (0.0, math.log(2)))
        for a, b in combinations(every, 2)
    }
    mi = as_tested(mixed(information_of, every, (0.0, math.log(d))), test)
    return DomainEstimates(e, sums.top_k, domains, whole * sums.top_k, used, mi, pairs, test, ratios, level, None)


def _entropy_of_mixture(load: Floats) -> Floats:
    return entropy(load.mean(axis=-2))


def _drawn(sums: Sums, rows: npt.NDArray[np.intp], halves: Halves) -> tuple[Floats, Floats, Floats, Ratios]:
    """Of one domain: counts [R] of the whole, [2 P, R] of halves, [4 Q, R] of quarters, and the shares with noise."""
    counts, tokens = sums.counts[rows].astype(np.float64), sums.n_tokens[rows].astype(np.float64)
    whole = counts.sum(axis=0)
    first = weighted_sums(halves.weights, np.column_stack([counts, tokens]))
    partitions, _, n = halves.quarters.shape
    three = weighted_sums(halves.quarters.reshape(-1, n), counts)
    rest = 4.0 * whole - three.reshape(partitions, 3, -1).sum(axis=1)
    both = np.concatenate([first[:, :-1], 2.0 * whole - first[:, :-1]])
    return whole, both, np.concatenate([three, rest]), ratios_of(counts, tokens, first[:, :-1], first[:, -1], halves)


def _free(tokens: list[Floats], which: list[int]) -> float:
    """Degrees of freedom of a mixture of domains, in which a sequence weighs its tokens over its domain's."""
    weights = np.concatenate([tokens[d] / max(float(tokens[d].sum()), 1.0) for d in which])
    return max(effective_clusters(weights) - len(which), 1.0)
