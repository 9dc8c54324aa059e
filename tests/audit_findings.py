"""Cells of the audit: findings on both sides of their thresholds, and thirds of one data set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from audit_domains import estimates_of
from audit_metrics import Measure, whole
from populations import Domain, joined, route, sample

from mlx_moebench.routing.domains.estimates import information_of
from mlx_moebench.routing.domains.findings import Findings, findings
from mlx_moebench.routing.sums import entropy

OWN = [Domain(40, 64, 60, 0.2)] * 3


@dataclass(frozen=True)
class Scenario:
    """A family of routers: shares of tokens [D, E] whose deciding number lies ``effect`` beyond its threshold.

    finding and part: which number of which finding that is.
    """

    finding: str
    part: int
    top_k: int
    shares: Callable[[float], np.ndarray]
    domains: tuple[Domain, ...] = tuple(OWN)


def _spread(experts: int, r: float) -> np.ndarray:
    """A load [E] with exp(H) / E = r: a geometric one, by bisection."""
    low, high = 0.0, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        p = np.exp(-middle * np.arange(experts) / experts)
        p /= p.sum()
        low, high = (middle, high) if math.exp(float(entropy(p))) / experts > r else (low, middle)
    return np.asarray(p)


def _own_parts(s: float, domains: int = 3, experts: int = 48, used: int = 16) -> np.ndarray:
    """Loads [D, E] on some of the experts, of which each domain prefers its own part, with MI / ln D = s."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        load = np.zeros((domains, experts))
        load[:, :used] = (1 - middle) / used
        for d in range(domains):
            part = np.arange(used) % domains == d
            load[d, :used][part] += middle / part.sum()
        low, high = (middle, high) if float(information_of(load)) / math.log(domains) < s else (low, middle)
    return load


def _own_thirds(s: float) -> np.ndarray:
    """The same on all of 18 experts, whose odds differ by less than a factor of 4 for small s."""
    return _own_parts(s, experts=18, used=18)


def _one_expert(share: float, experts: int = 16, top_k: int = 2, domains: int = 3) -> np.ndarray:
    shares = np.full((domains, experts), (top_k - share) / (experts - 1))
    shares[:, 0] = share
    return shares


def _idle(share: float, experts: int = 128, top_k: int = 8) -> np.ndarray:
    """The nearest number of experts with a thirtieth of the even load, the others even."""
    few = round(share * experts)
    load = np.full(experts, 1.0)
    load[:few] = 1 / 30
    return np.tile(top_k * load / load.sum(), (3, 1))


def _domain_expert(excess: float, experts: int = 16, top_k: int = 2) -> np.ndarray:
    """One domain uses expert 0 by ``excess`` more than with four times the odds that the others have."""
    rest = 0.06
    bound = 4 * rest / (1 + 3 * rest)
    shares = _one_expert(rest, experts, top_k)
    shares[0] = _one_expert(bound + excess, experts, top_k)[0]
    return shares


ODDS = 4 * (2 / 14)
SCENARIOS = {
    "collapsed by r": Scenario("collapsed", 0, 2, lambda x: np.tile(2 * _spread(32, 0.5 - x), (3, 1))),
    "collapsed by s": Scenario("collapsed", 1, 2, lambda x: 2 * _own_parts(0.5 - x)),
    "dominated": Scenario("dominated", 0, 2, lambda x: _one_expert(ODDS / (1 + ODDS) + x)),
    "idle": Scenario("idle", 0, 8, lambda x: _idle(0.1 + x), tuple([Domain(80, 64, 400, 0.2)] * 3)),
    "specialised by s": Scenario("specialised", 0, 2, lambda x: 2 * _own_thirds(0.05 + x)),
    "specialised by an expert": Scenario("specialised", 1, 2, _domain_expert),
}


def found(scenario: Scenario, effect: float, seed: int, times: float = 1.0) -> Findings:
    """The findings of one set of the scenario, with so many times its sequences."""
    rng = np.random.default_rng([seed, 17])
    domains = [replace(d, sequences=round(d.sequences * times)) for d in scenario.domains]
    sums, labels = route(domains, scenario.shares(effect), scenario.top_k, rng)
    return findings(estimates_of(sums, labels, seed))


def half_width(scenario: Scenario, effect: float, pilots: int = 15) -> float:
    """Of the deciding number's interval, towards its threshold, near that effect."""
    widths = []
    for pilot in range(pilots):
        part = found(scenario, effect, 10_000 + pilot)[scenario.finding].parts[scenario.part]
        low, high = part.interval.low, part.interval.high
        assert low is not None
        assert high is not None
        widths.append(part.value - low if part.value > part.threshold else high - part.value)
    return float(np.mean(widths))


def effect_of(scenario: Scenario, multiple: float) -> float:
    """``multiple`` half-widths beyond the threshold (before it, if negative), as pilot sets measure them there."""
    effect = math.copysign(0.05, multiple)
    for _ in range(4):
        effect = multiple * half_width(scenario, effect)
    return effect


def decisions() -> Iterator[tuple[str, Measure]]:
    """Answers near the threshold, and at 1.25 and 2 half-widths on both sides of it."""
    for name, scenario in SCENARIOS.items():
        for multiple in (0.25, 1.25, 2.0, -0.25, -1.25, -2.0):
            yield f"{name}, {multiple:+g}", _decisions(scenario, multiple)


def _decisions(scenario: Scenario, multiple: float) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        effect = effect_of(scenario, multiple)
        right = "yes" if multiple > 0 else "no"
        answers = Counter(
            found(scenario, effect, 1000 * seed + number)[scenario.finding].answer for number in range(sets)
        )
        wrong = answers["no" if right == "yes" else "yes"]
        return {"effect": effect, "right": answers[right] / sets, "wrong": wrong / sets, "open": answers["open"] / sets}

    return measure


def needed() -> Iterator[tuple[str, Measure]]:
    """Open findings: how often a range of sequences is given, and how often its ends decide."""
    for name, scenario in SCENARIOS.items():
        for multiple in (0.7, -0.7):
            yield f"{name}, {multiple:+g}", _needed(scenario, multiple)


def _needed(scenario: Scenario, multiple: float) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        effect = effect_of(scenario, multiple)
        now = sum(d.sequences for d in scenario.domains)
        opened, ranges = 0, []
        for number in range(sets):
            finding = found(scenario, effect, 1000 * seed + number)[scenario.finding]
            opened += finding.answer == "open"
            if finding.sequences:
                ranges.append(finding.sequences)
        ends = np.array(ranges, dtype=float).reshape(-1, 2)
        decided: list[float | None] = []
        for end in (0, 1):
            times = ends[:: max(1, len(ends) // 50), end] / now
            answers = [found(scenario, effect, 50_000 + i, t)[scenario.finding].answer for i, t in enumerate(times)]
            decided.append(float(np.mean([a != "open" for a in answers])) if answers else None)
        return {
            "open": opened / sets,
            "given": len(ranges) / max(opened, 1),
            "low": float(np.median(ends[:, 0])) if ranges else None,
            "high": float(np.median(ends[:, 1])) if ranges else None,
            "decided_low": decided[0],
            "decided_high": decided[1],
        }

    return measure


# -- thirds of one data set ----------------------------------------------------------------------------------------


def thirds() -> Iterator[tuple[str, Measure]]:
    """Words of random thirds of one data set, of which nothing is specialised."""
    for kind in ("mild", "steep"):
        for n in (1, 3, 5, 9, 10, 12, 20, 40):
            yield f"E 16, K 2, {kind}, {n} a third", _thirds(kind, n)


def _thirds(kind: str, n: int) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        of = whole(16, 2, kind, "all", "equal")
        words: Counter[str] = Counter()
        for number in range(sets):
            rng = np.random.default_rng([seed, number, n])
            words[str(findings(estimates_of(*joined([sample(of, n, rng) for _ in range(3)]), number)).word)] += 1
        return {"words": {word: count / sets for word, count in words.most_common()}}

    return measure
