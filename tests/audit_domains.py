"""Cells of the audit: what lies between domains, and the test that they route alike."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from audit_metrics import RESAMPLES, SHAPES, Measure, Tally
from populations import EFFECTS, Domain, draw, joined, population, sample

from mlx_moebench.routing import Plan, Sums
from mlx_moebench.routing.domains.estimates import DomainEstimates, domain_estimates, information_of
from mlx_moebench.routing.intervals.effective import effective_clusters
from mlx_moebench.routing.intervals.halves import random_halves, ratios
from mlx_moebench.routing.intervals.independence import independence
from mlx_moebench.routing.sums import entropy


def domains() -> Iterator[tuple[str, Measure]]:
    """r, s and the divergence of three domains whose preferences differ by so much."""
    for experts, top_k in SHAPES:
        for kind in ("even", "steep"):
            for effects, lengths in (("all", "equal"), ("all", "topic"), ("texts differ", "equal")):
                for shift in (0.0, 0.1, 0.3, 1.0):
                    for n in (20, 40, 200):
                        name = f"E {experts}, K {top_k}, {kind}, {effects}, {lengths}, shift {shift}, S {n}"
                        yield name, _domains(experts, top_k, kind, effects, lengths, shift, n)


@cache
def _wholes(*cell: Any) -> list[Sums]:
    _wholes.cache_clear()
    experts, top_k, kind, effects, lengths, shift = cell
    seeds = range(1, 4) if shift else (0,) * 3
    made = {seed: population(experts, top_k, kind, EFFECTS[effects], lengths, 1500, seed, shift) for seed in set(seeds)}
    return [made[seed] for seed in seeds]


def _domains(experts: int, top_k: int, kind: str, effects: str, lengths: str, shift: float, n: int) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        wholes = _wholes(experts, top_k, kind, effects, lengths, shift)
        load = np.stack([w.counts.sum(axis=0) / w.counts.sum() for w in wholes])
        truths = {
            "used": math.exp(float(entropy(load.mean(axis=0)))) / experts,
            "information": float(information_of(load)),
            "divergence": float(information_of(load[:2])),
        }
        tallies: defaultdict[str, Tally] = defaultdict(Tally)
        rejected = differ = 0
        for number in range(sets):
            rng = np.random.default_rng([seed, number, n])
            one = estimates_of(*joined([sample(w, n, rng) for w in wholes]), number)
            if one.test is None:
                continue
            shown = {"used": one.used, "information": one.information, "divergence": one.divergence["d0", "d1"]}
            for name, c in shown.items():
                tallies[name].add(c.value, c.interval, truths[name])
            low = one.information.interval.low
            assert low is not None
            rejected += one.test.p_value <= 0.05
            differ += (low > 0) != (one.test.p_value <= 0.05)
        given = len(tallies["used"].values)
        facts = {name: t.facts(truths[name]) for name, t in tallies.items()} if given >= 30 else {}
        return {"given": given / sets, "rejected": rejected / max(given, 1), "disagree": differ, "metrics": facts}

    return measure


def estimates_of(sums: Sums, labels: np.ndarray, seed: int, resamples: int = RESAMPLES) -> DomainEstimates:
    (one,) = domain_estimates([sums], labels, Plan(resamples=resamples, seed=seed))
    return one


# -- the test of independence --------------------------------------------------------------------------------------

NULLS = {
    "20, 20": [Domain(20)] * 2,
    "40, 40, 40": [Domain(40, spread=0.3)] * 3,
    "40 x 5": [Domain(40, alike=40)] * 5,
    "12 of 15, 100 of 200 tokens": [Domain(12, 15, 50), Domain(100, 200, 50)],
    "12 of 15, 100 of 200, texts alike": [Domain(12, 15), Domain(100, 200)],
    "12 clustered, 100": [Domain(12, 100, 8, block=4), Domain(100, 100, 100)],
    "12, 100 clustered": [Domain(12, 100, 100), Domain(100, 100, 8, block=4)],
    "20 clustered, 100": [Domain(20, 60, 8, 0.2, 4), Domain(100, 100, 100)],
    "20, 100 clustered": [Domain(20, 60, 100), Domain(100, 100, 8, 0.2, 4)],
    "20 of 15, 100 of 200 tokens": [Domain(20, 15, 50), Domain(100, 200, 50)],
    "20 very clustered, twice": [Domain(20, 60, 2, 0.2, 4)] * 2,
    "100 unequal, 40": [Domain(100, 60, 20, 0.6), Domain(40, 60, 20)],
    "15, 40, 200": [Domain(15, 100, 20), Domain(40, 50, 20), Domain(200, 25, 20)],
}
"""Domains of the same mean load; sequences of tokens, more or less alike."""


def loads(kind: str, experts: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    if kind == "leader":
        p = np.exp(0.3 * rng.standard_normal(experts))
        p[0] = p[1:].sum()
    else:
        p = np.exp({"even": 0.0, "mild": 0.6, "steep": 1.5}[kind] * rng.standard_normal(experts))
    return np.asarray(p / p.sum())


def tests_of_independence() -> Iterator[tuple[str, Measure]]:
    for experts, top_k in ((8, 1), (8, 2), (64, 1), (64, 8), (128, 1), (128, 8)):
        for kind in ("even", "steep", "leader"):
            for name, design in NULLS.items():
                yield f"E {experts}, K {top_k}, {kind}, {name}", _independence(experts, top_k, kind, design)


def _independence(experts: int, top_k: int, kind: str, design: list[Domain]) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        base = loads(kind, experts)
        apart = shifted(base, len(design), 0.1)
        found = {}
        for what, load in (("null", base), ("power", apart)):
            given = rejected = 0
            for number in range(sets if what == "null" else max(sets // 4, 1)):
                sums, labels = draw(design, load, top_k, np.random.default_rng([seed, number, 3]))
                members = [np.flatnonzero(labels == name) for name in np.unique(labels)]
                if min(effective_clusters(sums.n_tokens[m]) for m in members) < 10:
                    continue
                given += 1
                halves = [random_halves(np.zeros(len(m)), 800, (number, d)) for d, m in enumerate(members)]
                groups = [ratios(sums.counts[m], sums.n_tokens[m], h) for m, h in zip(members, halves, strict=True)]
                rejected += independence(groups).p_value <= 0.05
            found[what] = rejected / given if given else None
            found[f"{what}_given"] = given
        return found

    return measure


def shifted(base: np.ndarray, d: int, s: float) -> np.ndarray:
    """Loads [D, E] around ``base`` with MI / ln D = s: each domain prefers other experts, by bisection."""
    rng = np.random.default_rng(11)
    away = rng.standard_normal((d, len(base)))
    low, high = 0.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        f = base * np.exp(middle * away)
        f /= f.sum(axis=1, keepdims=True)
        low, high = (middle, high) if float(information_of(f)) / math.log(d) < s else (low, middle)
    return np.asarray(f)
