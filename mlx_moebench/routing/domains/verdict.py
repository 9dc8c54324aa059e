"""What the load over two or more domains says of a router: collapsed, specialised, balanced, or not known yet.

A router that sends 98% of one domain's tokens to one expert may be collapsed, or may have given that domain an expert
of its own. One domain cannot tell. With s_d(i) the share of domain d's tokens that use expert i, every domain weighted
1/D, three numbers can:

a = max_i min_d s_d(i)    the expert that no domain escapes
b = max_d max_i s_d(i)    the busiest expert of any domain
r = n_eff / E             how many experts the mixture of the domains really uses

A model gets the number of its routers per verdict, never one word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from .statistics import DomainStatistics, Estimate

Word = Literal["collapsed", "specialised", "balanced", "undetermined"]
Basis = Literal["cluster", "point"]

WORDS: tuple[Word, ...] = get_args(Word)

LEAST_SPREAD = 0.5
"""The r below which a router is collapsed: half of its experts would do."""

SPREAD_ROUNDING = 1e-9  # exp(ln(E / 2)) / E may be a hair under one half

MAX_P = 0.05
"""The p-value of the permutation null up to which MI(domain; expert) counts as above it."""


@dataclass(frozen=True)
class Verdict:
    """A word and the numbers that led to it.

    word: None where the rule cannot be applied; ``reason`` then says why. a, b: shares of tokens; r: ratio; mi: nats.
    basis: ``cluster`` when intervals over sequences decided, ``point`` when only values were there.
    band: the half-width c of a's and b's intervals. undecided: which of a, b, r, mi keep the router undetermined.
    sequences_needed: about how many sequences, in all and in these proportions, would decide; None when that cannot be
    said or nothing is open.
    """

    word: Word | None
    basis: Basis
    domains: tuple[str, ...]
    tau: float
    a: Estimate
    b: Estimate
    r: Estimate
    mi: Estimate
    band: float
    null_mean: float
    null_high: float
    p_value: float
    informative: bool
    undecided: tuple[str, ...] = ()
    sequences_needed: int | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, object]:
        """For JSON: numbers under their names, their intervals under ``ci``; undefined is null."""
        numbers = {"a": self.a, "b": self.b, "r": self.r, "mi": self.mi}
        facts: dict[str, object] = {
            "word": self.word,
            **{name: _json(estimate.value) for name, estimate in numbers.items()},
            "basis": self.basis,
            "tau": self.tau,
            "domains": list(self.domains),
            "c": _json(self.band),
            "null_mean": _json(self.null_mean),
            "null_high": _json(self.null_high),
            "p_value": _json(self.p_value),
            "informative": self.informative,
            "undecided": list(self.undecided),
            "sequences_needed": self.sequences_needed,
            "ci": {name: estimate.interval.to_dict() for name, estimate in numbers.items()},
        }
        return facts | ({"reason": self.reason} if self.reason else {})


def verdict(statistics: DomainStatistics, tau: float, share: str = "top_share_token") -> Verdict:
    """The verdict on one router.

    *collapsed*: low(a) > tau or high(r) < 0.5. *specialised*: not collapsed, high(a) <= tau, low(r) >= 0.5,
    low(b) > tau, and MI(domain; expert) above its null (p <= 0.05). *balanced*: high(a), high(b) <= tau and
    low(r) >= 0.5. *undetermined*: the rest. Without intervals every low and high is the value itself, and MI has to
    exceed what independent selections would give (`domain_information_bias`): weaker evidence, hence ``basis``.

    tau is compared with shares of tokens; ``share`` says what it was chosen for, and another one gets no verdict.
    """
    a, b, r = statistics.inescapable, statistics.busiest, statistics.mixture
    information = statistics.information
    has_intervals = all(x.interval.low is not None for x in (a, b, r))
    informative = (
        information.p_value <= MAX_P if math.isfinite(information.p_value) else information.mi > information.bias
    )
    word: Word | None = None
    undecided: tuple[str, ...] = ()
    needed = None
    reason = _no_verdict(statistics, tau, share)
    if reason is None:
        word = decide(_ends(a), _ends(b), _ends(r), tau, informative)
        if word == "undetermined":
            undecided, needed = _open(statistics, a.value, b.value, r, tau, informative)
    return Verdict(
        word,
        "cluster" if has_intervals else "point",
        statistics.domains,
        tau,
        a,
        b,
        r,
        statistics.mi,
        statistics.band,
        information.null_mean,
        information.null_high,
        information.p_value,
        informative,
        undecided,
        needed,
        reason,
    )


Ends = tuple[float, float]


def decide(a: Ends, b: Ends, r: Ends, tau: float, informative: bool) -> Word:
    """The rule itself, on (low, high) of a, b and r."""
    if a[0] > tau or r[1] < LEAST_SPREAD - SPREAD_ROUNDING:
        return "collapsed"
    if a[1] <= tau and r[0] >= LEAST_SPREAD - SPREAD_ROUNDING:
        if b[0] > tau and informative:
            return "specialised"
        if b[1] <= tau:
            return "balanced"
    return "undetermined"


def count_words(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Number of routers per verdict, and ``null`` for those without one."""
    words = [v.word for v in verdicts]
    return {**{word: words.count(word) for word in WORDS}, "null": words.count(None)}


def _no_verdict(statistics: DomainStatistics, tau: float, share: str) -> str | None:
    if share != "top_share_token":
        return f"tau was chosen for {share}, and a verdict compares shares of tokens"
    if statistics.even >= tau:
        return f"even routing already gives {statistics.even:.3g} >= tau = {tau:g}"
    empty = [name for name, tokens in zip(statistics.domains, statistics.tokens, strict=True) if not tokens]
    return f"no tokens of {', '.join(empty)}" if empty else None


def _ends(estimate: Estimate) -> Ends:
    interval = estimate.interval
    if interval.low is None or interval.high is None:
        return estimate.value, estimate.value
    return interval.low, interval.high


def _open(
    statistics: DomainStatistics, a: float, b: float, r: Estimate, tau: float, informative: bool
) -> tuple[tuple[str, ...], int | None]:
    """Which conditions of the verdict that the values suggest are open, and about how many sequences would close them.

    Half-widths shrink with the square root of the number of sequences n: about n (c / |estimate - threshold|)^2.
    """
    c, ends = statistics.band if math.isfinite(statistics.band) else 0.0, _ends(r)
    toward_half = ends[1] - r.value if r.value < LEAST_SPREAD else r.value - ends[0]
    ratio = {"a": _ratio(c, a, tau), "b": _ratio(c, b, tau), "r": _ratio(toward_half, r.value, LEAST_SPREAD)}
    suggested = {"a": a > tau, "r": r.value < LEAST_SPREAD}
    if any(suggested.values()):  # collapsed by its values: either condition would do
        undecided = tuple(name for name, holds in suggested.items() if holds)
        worst = min(ratio[name] for name in undecided)
    else:
        undecided = tuple(name for name in ratio if not ratio[name] <= 1)
        worst = max((ratio[name] for name in undecided), default=math.nan)
        if b > tau and not informative:  # more sequences may or may not show an effect
            return (*undecided, "mi"), None
    return undecided, _needed(sum(statistics.sequences), worst)


def _needed(sequences: int, ratio: float) -> int | None:
    return math.ceil(sequences * ratio**2) if math.isfinite(ratio) else None


def _ratio(half: float, value: float, threshold: float) -> float:
    distance = abs(value - threshold)
    return 0.0 if half == 0 else half / distance if distance > 0 else math.inf


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
