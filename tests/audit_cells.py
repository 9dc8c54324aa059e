"""The cells of benchmarks/audit.py: what is simulated, and what is counted."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from populations import (
    EFFECTS,
    PREFERENCES,
    Domain,
    draw,
    joined,
    population,
    route,
    sample,
)

from mlx_moebench.routing import METRICS, Plan, Sums, get_metric
from mlx_moebench.routing.comparison.lattice import count_difference
from mlx_moebench.routing.domains.estimates import DomainEstimates, domain_estimates, information_of
from mlx_moebench.routing.domains.findings import Findings, findings
from mlx_moebench.routing.intervals.bands import Estimates, maximum, share_bands
from mlx_moebench.routing.intervals.bootstrap import Interval
from mlx_moebench.routing.intervals.corrected import Drawn
from mlx_moebench.routing.intervals.effective import effective_clusters
from mlx_moebench.routing.intervals.halves import halved, quartered, random_halves, ratios
from mlx_moebench.routing.intervals.independence import independence
from mlx_moebench.routing.intervals.routers import RouterMetrics, crossing
from mlx_moebench.routing.sums import entropy

Measure = Callable[[int, int], dict[str, Any]]

SHAPES = ((8, 1), (8, 2), (64, 1), (64, 8), (128, 2), (128, 8))
LENGTHS = ("equal", "topic", "pareto")
SEQUENCES = (10, 20, 40, 200)
RESAMPLES = 400
SIMULATED = (
    *("mean_entropy", "load_entropy", "eae", "n_eff", "marginal_entropy", "token_information", "cv", "gini", "n90"),
    *("switch_balance", "switch_gap", "load_gap", "probability_gap"),
)


class Tally:
    """Of one quantity: how often intervals held the truth, missed it above or below, or left out the shown value."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.widths: list[float] = []
        self.inside = self.above = self.below = self.outside = 0

    def add(self, value: float, interval: Interval, truth: float) -> None:
        low, high = interval.low, interval.high
        assert low is not None
        assert high is not None
        slack = 1e-9 * max(1.0, abs(truth))
        self.values.append(value)
        self.widths.append(high - low)
        self.above += low > truth + slack
        self.below += high < truth - slack
        self.inside += low - slack <= truth <= high + slack
        self.outside += not low <= value <= high

    def facts(self, truth: float) -> dict[str, float | None]:
        """Shares; width: the median one, over 3.92 standard deviations of the value; bias in standard deviations."""
        n, spread = len(self.values), float(np.std(self.values))
        relative = float(np.median(self.widths)) / (3.92 * spread) if spread > 1e-12 else None
        bias = (float(np.mean(self.values)) - truth) / spread if spread > 1e-12 else None
        return {
            **{name: getattr(self, name) / n for name in ("inside", "above", "below", "outside")},
            "width": relative,
            "bias": bias,
            "truth": truth,
        }


# -- coverage of one router's metrics ------------------------------------------------------------------------------


@cache
def whole(experts: int, top_k: int, kind: str, effects: str, lengths: str, seed: int = 0, shift: float = 0.0) -> Sums:
    """One population, kept for the cells that sample it."""
    whole.cache_clear()
    return population(experts, top_k, kind, EFFECTS[effects], lengths, seed=seed, shift=shift)  # type: ignore[arg-type]


def coverage() -> Iterator[tuple[str, Measure]]:
    """Every plug-in metric and distance, mean_entropy, and the busiest share."""
    for experts, top_k in SHAPES:
        for kind in PREFERENCES:
            for effects in EFFECTS:
                for lengths in LENGTHS if effects == "all" else LENGTHS[:1]:
                    for n in SEQUENCES:
                        name = f"E {experts}, K {top_k}, {kind}, {effects}, {lengths}, S {n}"
                        yield name, _coverage(experts, top_k, kind, effects, lengths, n)


def _coverage(experts: int, top_k: int, kind: str, effects: str, lengths: str, n: int) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        of = whole(experts, top_k, kind, effects, lengths)
        truths = _truths(of)
        shares = of.counts.sum(axis=0) / of.n_tokens.sum()
        tallies: defaultdict[str, Tally] = defaultdict(Tally)
        held = 0
        for number in range(sets):
            drawn = sample(of, n, np.random.default_rng([seed, number, n]))
            if effective_clusters(drawn.n_tokens) < 10:
                continue
            halves = random_halves(np.zeros(n), RESAMPLES, number)
            for name, c in RouterMetrics(drawn, halves, names=SIMULATED).metrics().items():
                tallies[name].add(c.value, c.interval, truths[name])
            every = Estimates.of(ratios(drawn.counts, drawn.n_tokens, halves))
            busiest = maximum(every)
            tallies["top_share_token"].add(busiest.value, busiest.interval, truths["top_share_token"])
            low, high = share_bands(every)
            held += bool(((low <= shares + 1e-12) & (high >= shares - 1e-12)).all())
        given = len(tallies["mean_entropy"].values)
        facts = {name: t.facts(truths[name]) for name, t in tallies.items()} if given >= 30 else {}
        share = held / given if given else None
        return {"given": given / sets, "lead": lead(of, n), "bands": share, "metrics": facts}

    return measure


def _truths(of: Sums) -> dict[str, float]:
    total = of.total()
    return {name: float(m.values(total)) for name, m in METRICS.items() if m.interval != "none"}


def lead(of: Sums, n: int) -> float:
    """By how many standard errors of n sequences the busiest expert leads the next."""
    share = of.counts.sum(axis=0) / of.n_tokens.sum()
    first, second = np.argsort(-share)[:2]
    error = (of.counts[:, first] - of.counts[:, second]) - of.n_tokens * (share[first] - share[second])
    spread = math.sqrt(float((error**2).mean()) / n) / float(of.n_tokens.mean())
    return float(share[first] - share[second]) / spread if spread > 0 else math.inf


# -- what lies between domains -------------------------------------------------------------------------------------


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


# -- differences of counts -----------------------------------------------------------------------------------------


def counts() -> Iterator[tuple[str, Measure]]:
    """How often two samples of one population differ in n90, by p and by interval."""
    for experts, top_k in SHAPES:
        for kind in PREFERENCES:
            for effects in ("all", "texts differ"):
                for n in (20, 40, 200):
                    yield f"E {experts}, K {top_k}, {kind}, {effects}, S {n}", _counts(experts, top_k, kind, effects, n)


def _counts(experts: int, top_k: int, kind: str, effects: str, n: int) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        of = whole(experts, top_k, kind, effects, "equal")
        rejected = left_out = 0
        plan = Plan(resamples=RESAMPLES)
        for number in range(sets):
            rng = np.random.default_rng([seed, number, n])
            sides = [sample(of, n, rng) for _ in range(2)]
            halves = [random_halves(np.zeros(n), RESAMPLES, (number, side)) for side in (0, 1)]
            totals = [s.total() for s in sides]
            drawn = [
                [crossing(x.load) for x in (whole_of, halved(s, h), quartered(s, h))]
                for whole_of, s, h in zip(totals, sides, halves, strict=True)
            ]
            apart = Drawn(*(b - a for a, b in zip(*drawn, strict=True)))  # type: ignore[arg-type]
            effect = float(get_metric("n90").values(totals[1]) - get_metric("n90").values(totals[0]))
            interval, p = count_difference(effect, apart, n - 1.0, plan)
            assert interval.low is not None
            assert interval.high is not None
            rejected += p <= 0.05
            left_out += not interval.low <= 0 <= interval.high
        return {"rejected": rejected / sets, "left_out": left_out / sets}

    return measure


# -- findings ------------------------------------------------------------------------------------------------------

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


PARTS: dict[str, Callable[[], Iterator[tuple[str, Measure]]]] = {
    "coverage": coverage,
    "domains": domains,
    "independence": tests_of_independence,
    "counts": counts,
    "findings": decisions,
    "needed": needed,
    "thirds": thirds,
}
