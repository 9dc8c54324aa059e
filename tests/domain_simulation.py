"""Routing on several domains with known shares: how often the verdict is right, and what the null rejects.

Sequences of a domain have preferences of their own around the domain's shares (Dirichlet), and tokens choose K experts
by systematic sampling, so that an expert's share of tokens is exactly its preference. Effects are multiples of the
half-width of the interval that decides, which pilot sets measure beforehand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from mlx_moebench.routing import Plan, Sums
from mlx_moebench.routing.domains.information import domain_information_null
from mlx_moebench.routing.domains.statistics import DomainStatistics, domain_statistics
from mlx_moebench.routing.domains.verdict import verdict
from mlx_moebench.routing.sums import entropy

EXPERTS, TOP_K, DOMAINS, TAU = 16, 2, 3, 0.40
CONCENTRATION = 40.0  # of the sequences' preferences: a share of 0.5 varies by 0.14 between sequences

CASES = {
    "collapsed (a)": "collapsed",
    "collapsed (r)": "collapsed",
    "specialised": "specialised",
    "balanced": "balanced",
}
"""Scenarios by what decides, and the right word."""


def shares_of(case: str, effect: float) -> np.ndarray:
    """Shares of tokens [D, E], each row summing to K, with what decides ``effect`` away from its threshold."""
    rng = np.random.default_rng(7)
    shares = np.exp(0.2 * rng.standard_normal((DOMAINS, EXPERTS)))
    if case == "collapsed (r)":
        return np.tile(spread_to(0.5 - effect), (DOMAINS, 1))
    peak = {"collapsed (a)": TAU + effect, "specialised": TAU + effect, "balanced": TAU - effect}[case]
    for d, row in enumerate(shares):
        # No domain escapes expert 0, which one domain uses least; or every domain has a busy one of its own, and one
        # domain the busiest: what decides is the share of one expert on one domain, the hard case.
        busy, share = (0, peak + 0.08 * d) if case == "collapsed (a)" else (d, peak - 0.08 * d)
        row[busy] = 0.0
        row *= (TOP_K - share) / row.sum()
        row[busy] = share
    return shares


def spread_to(r: float) -> np.ndarray:
    """Shares [E] with n_eff / E = r < 0.5: half of the experts dead, the others tilted, by bisection."""
    low, high = 0.0, 20.0
    for _ in range(60):
        tilt = (low + high) / 2
        p = np.exp(-tilt * np.arange(EXPERTS // 2) / EXPERTS)
        low, high = (tilt, high) if np.exp(entropy(p / p.sum())) / EXPERTS > r else (low, tilt)
    shares = np.zeros(EXPERTS)
    shares[: len(p)] = TOP_K * p / p.sum()
    return shares


def truth(shares: np.ndarray) -> dict[str, float]:
    """a, b, r and MI of the shares themselves."""
    load = shares / TOP_K
    mixed = float(entropy(load.mean(axis=0)))
    return {
        "a": float(shares.min(axis=0).max()),
        "b": float(shares.max()),
        "r": float(np.exp(mixed)) / EXPERTS,
        "mi": mixed - float(entropy(load).mean()),
    }


def simulate(
    shares: np.ndarray, sequences: int, rng: np.random.Generator, tokens: tuple[float, ...] = (48.0,) * DOMAINS
) -> tuple[Sums, np.ndarray]:
    """(sums of D x ``sequences`` sequences, their domains); log-normal lengths with the medians ``tokens``."""
    labels = np.repeat(np.arange(len(shares)), sequences)
    lengths = np.clip(rng.lognormal(np.log(np.array(tokens)[labels]), 0.6).astype(int), 8, 256)
    gamma = rng.standard_gamma(np.maximum(CONCENTRATION * shares[labels] / TOP_K, 1e-9))
    own = np.minimum(TOP_K * gamma / gamma.sum(axis=1, keepdims=True), 1.0)
    edges = np.cumsum(np.repeat(own, lengths, axis=0), axis=1)
    edges *= TOP_K / edges[:, -1:]  # what was cut at 1 goes to the others
    steps = np.floor(edges + rng.random((len(edges), 1)) - 1e-12)
    chosen = np.diff(steps, axis=1, prepend=0.0)
    counts = np.add.reduceat(chosen, np.cumsum(lengths) - lengths, axis=0)
    return Sums.from_counts(counts, counts.sum(axis=1) / TOP_K, TOP_K), labels


def found(sums: Sums, labels: np.ndarray, seed: int) -> DomainStatistics:
    (one,) = domain_statistics([sums], labels, Plan(resamples=600, seed=seed), permutations=199)
    return one


def effect_of(case: str, multiple: float, sequences: int, pilots: int = 12) -> float:
    """``multiple`` half-widths of what decides, as sets of their own measure it near that effect."""
    effect = 0.1 if case != "collapsed (r)" else 0.01
    for _ in range(3):
        widths = []
        for pilot in range(pilots):
            rng = np.random.default_rng([9, pilot])
            one = found(*simulate(shares_of(case, effect), sequences, rng), seed=pilot)
            r = one.mixture
            assert r.interval.high is not None
            widths.append(r.interval.high - r.value if case == "collapsed (r)" else one.band)
        effect = multiple * float(np.mean(widths))
    return effect


def words(case: str, multiple: float, samples: int = 100, sequences: int = 40, seed: int = 1) -> Counter[str]:
    """How often each verdict is given in ``samples`` sets of 3 x ``sequences`` sequences."""
    shares = shares_of(case, effect_of(case, multiple, sequences))
    given: Counter[str] = Counter()
    for sample in range(samples):
        rng = np.random.default_rng([seed, sample])
        given[str(verdict(found(*simulate(shares, sequences, rng), seed=sample), TAU).word)] += 1
    return given


NULLS = {"same lengths": (48.0, 48.0, 48.0), "lengths 24, 48, 96": (24.0, 48.0, 96.0)}
"""Median tokens of the sequences of each domain, whose routing is the same."""


def rejections(lengths: str, sets: int = 2000, sequences: int = 20, seed: int = 2) -> int:
    """How many of ``sets`` sets of domains with the same routing the permutation test rejects at 5%."""
    return sum(p <= 0.05 for p in null_p_values(lengths, sets, sequences, seed))


def null_p_values(lengths: str, sets: int, sequences: int, seed: int) -> Iterator[float]:
    shares = np.tile(shares_of("specialised", 0.1)[0], (DOMAINS, 1))
    for number in range(sets):
        sums, labels = simulate(shares, sequences, np.random.default_rng([seed, number]), NULLS[lengths])
        yield domain_information_null(sums.counts, labels, permutations=199, seed=number).p_value


def coverage(case: str, effect: float, sequences: int, samples: int, seed: int = 3) -> dict[str, float]:
    """Share of the intervals of a, b, r and MI that hold the truth."""
    shares = shares_of(case, effect)
    real = truth(shares)
    held = dict.fromkeys(real, 0)
    for sample in range(samples):
        one = found(*simulate(shares, sequences, np.random.default_rng([seed, sample])), seed=sample)
        intervals = {"a": one.inescapable, "b": one.busiest, "r": one.mixture, "mi": one.mi}
        for name, estimate in intervals.items():
            low, high = estimate.interval.low, estimate.interval.high
            assert low is not None
            assert high is not None
            held[name] += low <= real[name] <= high
    return {name: count / samples for name, count in held.items()}
