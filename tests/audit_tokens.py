"""Cells of the audit: a token's numbers against its loss, two routings of the same tokens, ids against experts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from audit_metrics import RESAMPLES, Measure, Tally

from mlx_moebench.options import Plan
from mlx_moebench.routing.intervals.ranks import calibration, rank_correlations, spearman
from mlx_moebench.routing.intervals.ratios import rate_intervals
from mlx_moebench.routing.repeats import repeated_openings
from mlx_moebench.routing.vocabulary import vocabulary_specialisation
from mlx_moebench.types import HostArray

WHOLE = 3000
SLOPES = {"unrelated": 0.0, "weak": 0.2, "strong": 1.2}
"""How much of the score enters the loss."""

LENGTHS = ("equal", "lognormal", "pareto")


def lengths_of(kind: str, n: int, rng: np.random.Generator) -> HostArray:
    """[n] tokens of each sequence, 40 in the median."""
    if kind == "equal":
        return np.full(n, 40)
    if kind == "lognormal":
        return np.clip(rng.lognormal(np.log(40), 0.6, n), 8, 256).astype(np.int64)
    return np.clip(24 * (1 + rng.pareto(2.5, n)), 8, 1000).astype(np.int64)


def drawn(starts: HostArray, rows: HostArray) -> tuple[HostArray, HostArray]:
    """(tokens [T], sequence [T]) of these sequences, where sequence i holds the tokens from starts[i] to starts[i + 1].

    >>> drawn(np.array([0, 2, 3]), np.array([1, 0]))[0]
    array([2, 0, 1])
    """
    sizes = starts[rows + 1] - starts[rows]
    sequence = np.repeat(np.arange(len(rows)), sizes)
    within = np.arange(len(sequence)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return starts[rows][sequence] + within, sequence


# -- loss ----------------------------------------------------------------------------------------------------------


def loss() -> Iterator[tuple[str, Measure]]:
    """Rank correlation, and mean loss by tenths of the score."""
    for slope in SLOPES:
        for lengths in LENGTHS:
            for ties in ("distinct", "tied"):
                for n in (10, 20, 40):
                    yield f"{slope}, {lengths}, {ties}, S {n}", _loss(slope, lengths, ties, n)


@cache
def scored(slope: str, lengths: str, ties: str) -> tuple[HostArray, HostArray, HostArray]:
    """(score, loss, start of each sequence): both have a part of the sequence; long texts have a lower loss."""
    rng = np.random.default_rng(7)
    sizes = lengths_of(lengths, WHOLE, rng)
    sequence = np.repeat(np.arange(WHOLE), sizes)
    score = 0.7 * rng.standard_normal(WHOLE)[sequence] + rng.standard_normal(len(sequence))
    shared = 0.7 * rng.standard_normal(WHOLE) - 0.3 * np.log(sizes / 40)
    outcome = SLOPES[slope] * score + shared[sequence] + rng.gumbel(size=len(sequence))
    if ties == "tied":  # seven values, of which the lowest has a quarter of the tokens
        score = np.maximum(np.round(2 * score) / 2, -1.0).clip(max=2.0)
    return score, outcome, np.concatenate([[0], np.cumsum(sizes)])


def _loss(slope: str, lengths: str, ties: str, n: int) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        x, y, starts = scored(slope, lengths, ties)
        rho, edges = spearman(x, y)[0], [b.low for b in calibration(x, y, np.zeros(len(x), int), [""])[1:]]
        part = np.searchsorted(edges, x, side="right")
        means = np.array([y[part == b].mean() for b in range(len(edges) + 1)])
        tallies: defaultdict[str, Tally] = defaultdict(Tally)
        given = excluded = bins_given = bins_missed = 0
        for number in range(sets):
            rng = np.random.default_rng([seed, number, n])
            tokens, sequence = drawn(starts, rng.integers(WHOLE, size=n))
            plan = Plan(resamples=RESAMPLES, seed=number)
            (found,), _ = rank_correlations(x[tokens][:, None], y[tokens], sequence, np.zeros(n), plan)
            if found.interval.low is None or found.interval.high is None:
                continue
            given += 1
            excluded += not found.interval.low <= 0 <= found.interval.high
            tallies["rho"].add(found.rho, found.interval, rho)
            bins = calibration(x[tokens], y[tokens], sequence, np.zeros(n), plan)
            for b in bins:
                place = np.searchsorted(edges, b.mean, side="right")
                if b.interval.low is None:
                    bins_missed += 1
                    continue
                bins_given += 1
                tallies["tenth"].add(b.outcome, b.interval, means[place])
                tallies["lowest" if place == 0 else "highest" if place == len(edges) else "between"].add(
                    b.outcome, b.interval, means[place]
                )
        facts: dict[str, Any] = {name: t.facts(rho) for name, t in tallies.items() if len(t.values) >= 30}
        for name in facts.keys() - {"rho"}:  # of ten truths together
            facts[name] = {key: facts[name][key] for key in ("inside", "above", "below", "outside")}
        return {
            "given": given / sets,
            "excludes_0": excluded / max(given, 1),
            "rho": rho,
            "bins_given": bins_given / max(bins_given + bins_missed, 1),
            "metrics": facts,
        }

    return measure


# -- overlap -------------------------------------------------------------------------------------------------------


def overlap() -> Iterator[tuple[str, Measure]]:
    """The share of tokens whose routing differs between two runs, from rare to common."""
    for rate in (0.001, 0.003, 0.01, 0.1, 0.5):
        for lengths in LENGTHS:
            for n in (10, 20, 40, 100):
                yield f"{rate:g}, {lengths}, S {n}", _overlap(rate, lengths, n)


@cache
def changed(rate: float, lengths: str) -> tuple[HostArray, HostArray]:
    """(tokens that differ, tokens) of each sequence; sequences differ in how many of theirs do."""
    rng = np.random.default_rng(11)
    sizes = lengths_of(lengths, WHOLE, rng)
    liable = np.clip(rate * rng.gamma(2.0, 0.5, WHOLE), 0, 1)
    return rng.binomial(sizes, liable).astype(np.float64), sizes.astype(np.float64)


def _overlap(rate: float, lengths: str, n: int) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        differing, sizes = changed(rate, lengths)
        truth = float(differing.sum() / sizes.sum())
        tally, given = Tally(), 0
        for number in range(sets):
            rows = np.random.default_rng([seed, number, n]).integers(WHOLE, size=n)
            over, under = differing[rows], sizes[rows]
            plan = Plan(resamples=RESAMPLES, seed=number)
            (interval,) = rate_intervals(over[:, None], under[:, None], np.zeros(n), plan)
            if interval.low is None:
                continue
            given += 1
            tally.add(float(over.sum() / under.sum()), interval, truth)
        return {"given": given / sets, "metrics": {"differ": tally.facts(truth)} if given >= 30 else {}}

    return measure


# -- vocabulary ----------------------------------------------------------------------------------------------------

WORDS = 40
EXPERTS = 8


def vocabulary() -> Iterator[tuple[str, Measure]]:
    """How often ids and experts that have nothing to do with each other, or little, are told apart from chance."""
    for design in ("topics", "lingering", "passages", "openings", "repeats", "ids matter"):
        for n in (10, 20, 40):
            yield f"{design}, S {n}", _vocabulary(design, n)


def texts(design: str, n: int, rng: np.random.Generator, length: int = 64) -> tuple[HostArray, HostArray, HostArray]:
    """(ids, experts [T, 2], sequence) of n texts of four topics, which have words and experts of their own.

    topics: nothing else. lingering: word and expert last for some tokens. passages: the topic changes every 16 tokens.
    openings: all texts begin with the same 8 tokens, routed alike. repeats: every text occurs twice. ids matter: three
    in ten tokens go to the expert of their id.
    """
    world = np.random.default_rng(3)
    words = world.dirichlet(np.full(WORDS, 0.3), size=4)
    liked = 1.5 * world.standard_normal((4, EXPERTS))
    span = 16 if design == "passages" else length
    topic = np.repeat(rng.integers(4, size=(n, -(-length // span))), span, axis=1)[:, :length]
    uniform = rng.random((n, length))
    ids = (uniform[..., None] > words.cumsum(axis=1)[topic]).sum(axis=-1).clip(max=WORDS - 1)
    logits = liked[topic] + 0.5 * rng.standard_normal((n, 1, EXPERTS)) + rng.gumbel(size=(n, length, EXPERTS))
    if design == "ids matter":
        follows = rng.random((n, length)) < 0.3
        logits[follows, ids[follows] % EXPERTS] += 20
    if design == "lingering":
        for series, stay in ((ids, rng.random((n, length)) < 0.6), (logits, rng.random((n, length)) < 0.6)):
            for t in range(1, length):
                series[stay[:, t], t] = series[stay[:, t], t - 1]
    if design == "openings":
        ids[:, :8] = np.arange(8)
        logits[:, :8] = logits[:1, :8]
    if design == "repeats":
        ids, logits = (np.concatenate([part[: n // 2], part[: n // 2]]) for part in (ids, logits))
    experts = np.argsort(-logits, axis=-1)[..., :2]
    return ids.ravel(), experts.reshape(-1, 2), np.repeat(np.arange(len(ids)), length)


def _vocabulary(design: str, n: int) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        p, kept = np.full(sets, np.nan), np.full(sets, np.nan)
        for number in range(sets):
            ids, experts, sequence = texts(design, n, np.random.default_rng([seed, number, n]))
            parts = np.split(ids, np.flatnonzero(np.diff(sequence)) + 1)
            for part, shared in zip(parts, repeated_openings(parts), strict=True):
                part[:shared] = -1  # a view of ids
            result = vocabulary_specialisation(ids, experts, sequence, EXPERTS, permutations=99, seed=number)
            p[number] = result.p_value
            kept[number] = (result.neighbours - result.null_mean) / (result.value - result.null_mean)
        known = np.isfinite(p)
        return {
            "given": float(known.mean()),
            "rejected": float(np.mean(p[known] <= 0.05)),
            "neighbours": float(np.median(kept[known])),
        }

    return measure
