"""Findings of many routers, held against what the rules say of their true shares: never the opposite answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from audit_domains import estimates_of
from populations import (
    Domain,
    all_but_one,
    always_on,
    dead,
    hardly_different,
    one_busier,
    own_experts,
    route,
)

from mlx_moebench.routing.domains.findings import Findings, findings
from mlx_moebench.routing.sums import entropy

Router = tuple[np.ndarray, int]
"""Shares of tokens [D, E], and K."""


def true_answers(shares: np.ndarray, top_k: int) -> tuple[dict[str, bool], str]:
    """What the rules say of true shares [D, E], each finding and the word, by a second implementation."""
    d, e = shares.shape
    load, even = shares / top_k, top_k / e
    used = math.exp(float(entropy(load.mean(axis=0)))) / e
    information = float(entropy(load.mean(axis=0)) - entropy(load).mean())
    s = information / math.log(d)
    led = np.sort(shares, axis=0)[-math.ceil((d + 1) / 2)].max()
    rest = (shares.sum(axis=0) - shares) / (d - 1)
    counts = (shares >= 0.1 * even) & (rest <= 1 - 0.1 * (1 - even))
    own = counts & (shares * (1 - rest) > 4 * rest * (1 - shares))
    answers = {
        "collapsed": used < 0.5 and s < 0.5,
        "dominated": bool(led * (1 - even) > 4 * even * (1 - led)),
        "idle": bool((load.mean(axis=0) < 0.1 / e).mean() > 0.1),
        "specialised": information > 1e-12 and (s >= 0.05 or bool(own.any())),
    }
    words = [name for name, yes in answers.items() if yes and not (name == "idle" and s >= 0.5)]
    return answers, words[0] if words else "balanced"


def measured(router: Router, n: int, tokens: float, alike: float, seed: int = 0) -> Findings:
    shares, top_k = router
    drawn = route([Domain(n, tokens, alike, 0.05)] * len(shares), shares, top_k, np.random.default_rng(seed))
    return findings(estimates_of(*drawn, seed))


def shared_and_own(domains: int, experts: int, top_k: int) -> Router:
    """One expert in every token of all domains, beside each domain's own ones."""
    shares = own_experts(domains, experts - 1, top_k - 1)[0]
    return np.concatenate([shares, np.ones((domains, 1))], axis=1), top_k


def several_lead(leaders: int, share: float, experts: int, top_k: int, domains: int) -> Router:
    """Several experts have the same share of tokens, and the others the rest evenly."""
    shares = np.full((domains, experts), (top_k - leaders * share) / (experts - leaders))
    shares[:, :leaders] = share
    return shares, top_k


def zipf(power: float, experts: int, top_k: int, domains: int) -> Router:
    """Loads that fall with a power of the expert's rank."""
    load = 1.0 / np.arange(1, experts + 1) ** power
    return np.tile(top_k * load / load.sum(), (domains, 1)), top_k


CLEAR: dict[str, tuple[Router, str]] = {
    "three domains with 4 of 32 experts each": (own_experts(3, 32, 4), "specialised"),
    "two domains with 2 of 128 experts each": (own_experts(2, 128, 2), "specialised"),
    "ten domains with 6 of 60 experts each": (own_experts(10, 60, 6), "specialised"),
    "own experts beside a shared one": (shared_and_own(3, 64, 8), "dominated"),
    "60 of 128 experts dead": (dead(68, 128, 8, 2), "idle"),
    "3 of 8 experts dead": (dead(5, 8, 2, 4), "idle"),
    "20 of 32 experts dead": (dead(12, 32, 4, 2), "collapsed"),
    "6 of 160 experts dead": (dead(154, 160, 6, 2), "balanced"),
    "one expert of 128 in every token": (always_on(128, 8, 2), "dominated"),
    "one expert of 16 in every token, top-4": (always_on(16, 4, 5), "dominated"),
    "two experts in every token": (several_lead(2, 1.0, 64, 8, 3), "dominated"),
    "two experts tie for the lead": (several_lead(2, 0.7, 32, 4, 3), "dominated"),
    "four experts tie below the mark": (several_lead(4, 0.25, 64, 8, 3), "balanced"),
    "1.2 times the even share, 3 of 8": (one_busier(0.45, 8, 3, 5), "balanced"),
    "twice the even share, 1 of 64": (one_busier(2 / 64, 64, 1, 2), "balanced"),
    "6 times the even share, 2 of 32": (one_busier(12 / 32, 32, 2, 3), "dominated"),
    "one expert takes 4 of 5 domains": (all_but_one(5, 32), "collapsed"),
    "one expert takes one of two domains": (all_but_one(2, 16), "specialised"),
    "domains that hardly differ, 4 of 64": (hardly_different(64, 4, 0.03), "balanced"),
    "even, 8 of 64": (one_busier(1 / 8, 64, 8, 2), "balanced"),
    "a mild slope": (zipf(0.3, 64, 8, 3), "balanced"),
}


@pytest.mark.parametrize("name", CLEAR)
def test_clear_routers_have_the_word_of_the_rules(name: str) -> None:
    router, word = CLEAR[name]
    assert true_answers(*router)[1] == word
    for seed in range(2):
        one = measured(router, 40, 128, math.inf, seed)
        assert one.word == word, seed


def random_router(rng: np.random.Generator) -> Router:
    experts = int(rng.choice([8, 16, 32, 60, 64, 128, 160]))
    top_k = int(rng.choice([k for k in (1, 2, 4, 6, 8) if k < experts / 2]))
    domains = int(rng.choice([2, 3, 4, 5, 8]))
    makers: list[Callable[[], Router]] = [
        lambda: own_experts(domains, max(experts, domains * top_k), top_k),
        lambda: dead(int(rng.integers(max(2 * top_k, 3), experts)), experts, top_k, domains),
        lambda: always_on(experts, max(top_k, 2), domains),
        lambda: one_busier(min(0.98, top_k / experts * rng.uniform(1, 8)), experts, top_k, domains),
        lambda: all_but_one(domains, experts),
        lambda: hardly_different(experts, top_k, rng.uniform(0.005, 0.05)),
        lambda: zipf(rng.uniform(0.1, 0.5), experts, 1, domains),
        lambda: several_lead(2, min(0.95, top_k / experts * rng.uniform(1, 6)), experts, top_k, domains),
    ]
    return makers[rng.integers(len(makers))]()


@pytest.mark.parametrize("seed", range(40))
def test_no_answer_is_the_opposite_of_the_rules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares, top_k = random_router(rng)
    # Texts that differ are scattered around shares which that does not move: not around those near 1, which are capped.
    alike = math.inf if shares.max() > 0.5 else float(rng.choice([math.inf, 300.0]))
    one = measured((shares, top_k), int(rng.choice([12, 20, 40])), float(rng.choice([32, 64, 128])), alike, seed)
    answers, word = true_answers(shares, top_k)
    for name, yes in answers.items():
        assert one[name].answer in ("yes" if yes else "no", "open"), name
    assert one.word in (word, "open")
