"""Cells of the audit: the metrics of one router, and what all cells share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from populations import EFFECTS, PREFERENCES, population, sample

from mlx_moebench.routing import METRICS, Plan, Sums
from mlx_moebench.routing.intervals.bands import Estimates, maximum, share_bands
from mlx_moebench.routing.intervals.bootstrap import Interval, mean_intervals
from mlx_moebench.routing.intervals.effective import effective_clusters
from mlx_moebench.routing.intervals.halves import random_halves, ratios
from mlx_moebench.routing.intervals.routers import RouterMetrics

MEAN = METRICS["mean_entropy"]

Measure = Callable[[int, int], dict[str, Any]]
"""Of so many samples and a seed: what was counted."""

SHAPES = ((8, 1), (8, 2), (64, 1), (64, 8), (128, 2), (128, 8))
LENGTHS = ("equal", "topic", "pareto")
SEQUENCES = (10, 20, 40, 200)
RESAMPLES = 400
SIMULATED = (
    *("load_entropy", "eae", "n_eff", "marginal_entropy", "token_information", "cv", "gini", "n90"),
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


@lru_cache(maxsize=8)
def whole(experts: int, top_k: int, kind: str, effects: str, lengths: str, seed: int = 0, shift: float = 0.0) -> Sums:
    """One population, kept with the last few for the cells that sample it."""
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
            mean = mean_intervals([drawn], np.zeros(n), Plan(resamples=RESAMPLES, seed=number), [MEAN]).rows[0]
            tallies[MEAN.name].add(float(MEAN.values(drawn.total())), mean[MEAN.name], truths[MEAN.name])
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
