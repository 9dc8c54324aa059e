"""What the load over two or more domains says of a router: four findings, each yes, no or open, and a word.

What is uneven inside a domain splits exactly into what all domains share and what the domain tells, every domain
weighted 1/D, f_d its load and f the mean of them:

    ln E - mean_d H(f_d) = (ln E - H(f)) + MI(domain; expert)

so r = exp(H(f)) / E, the share of experts in effective use, and s = MI / ln D, both in [0, 1].

collapsed    r < 0.5 and s < 0.5: most capacity unused, and not because each domain has experts of its own.
dominated    one expert's odds are over 4 times the even odds in more than half of the domains.
idle         more than a tenth of the experts have less than a tenth of the even load.
specialised  the domains do not route alike, and s >= 0.05, or an expert's odds in one domain are over 4 times its odds
             in the rest. An expert counts in a domain where it has a tenth of its even share, and where the rest
             leave as much to other experts: the odds of one that is hardly used, or nearly always, say nothing.

Yes and no need the whole interval on one side. An interval that is refused leaves its finding open, with the reason:
less data never gives a firmer answer. The word is the gravest yes, else balanced, and open while a graver finding is.
Idle experts make no word where s >= 0.5: with few domains they may be those of domains that nobody measured.

Where selection scores tie, the order of the experts decides and not the router. A tied token may owe all K of its
choices to it: yes stands only if the number that it rests on would be on the same side whichever experts the tied
tokens of each domain had gone to. Where most tokens of any domain tie, every finding is open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from scipy.special import ndtri

from ...options import Thresholds
from ..intervals.bootstrap import Interval
from ..intervals.corrected import Corrected
from ..sums import Floats, entropy
from .estimates import DomainEstimates
from .shares import contrast, dominance, idleness

Answer = Literal["yes", "no", "open"]
Name = Literal["collapsed", "dominated", "idle", "specialised"]
Word = Literal["collapsed", "dominated", "idle", "specialised", "balanced", "open"]

NAMES: tuple[Name, ...] = get_args(Name)
WORDS: tuple[Word, ...] = get_args(Word)

ROUNDING = 1e-9  # exp(ln(E / 2)) / E may be a hair under one half
POWER = 0.8
FAR = 20.0
"""A number of sequences beyond this many times the present one is not given: it would be a guess."""


class Part(NamedTuple):
    """One number of a finding. side: where it lies for yes: ``below`` the threshold, ``above``, or ``from`` it on."""

    name: str
    value: float
    interval: Interval
    threshold: float
    side: Literal["below", "above", "from"]

    @property
    def answer(self) -> Answer:
        """yes or no where the whole interval lies on one side."""
        low, high = self.interval.low, self.interval.high
        if low is None or high is None:
            return "open"
        if self.side == "above":
            over, under = low > self.threshold + ROUNDING, high <= self.threshold + ROUNDING
        else:
            over, under = low >= self.threshold - ROUNDING, high < self.threshold - ROUNDING
        return ("no", "yes")[over != (self.side == "below")] if over or under else "open"

    @property
    def leaning(self) -> bool:
        """Whether the value itself is on the side of yes."""
        point = Interval(self.value, self.value)
        return math.isfinite(self.value) and self._replace(interval=point).answer == "yes"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        ends = {"low": self.interval.low, "high": self.interval.high}
        return {"value": self.value if math.isfinite(self.value) else None, **ends, "threshold": self.threshold}


@dataclass(frozen=True)
class Finding:
    """An answer and the numbers that led to it, of which the first decides as a rule.

    reason: why it is open, where more than the width of an interval makes it so. experts: whom it is about, each with
    its domains. sequences: between which numbers of them, in all and in these proportions, an open finding would be
    decided in 4 of 5 cases; None where nothing is open or where that is not known.
    """

    name: Name
    answer: Answer
    parts: tuple[Part, ...]
    reason: str | None = None
    experts: tuple[tuple[int, tuple[str, ...]], ...] = ()
    sequences: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the first number, and all of them under ``parts``."""
        named = [{"expert": expert, "domains": list(domains)} for expert, domains in self.experts]
        first = self.parts[0].to_dict() if self.parts else {}
        every = {part.name: part.to_dict() for part in self.parts}
        extra = {"reason": self.reason, "sequences": list(self.sequences) if self.sequences else None}
        return {
            "answer": self.answer,
            **first,
            "parts": every,
            **({"experts": named} if named else {}),
            **{key: value for key, value in extra.items() if value is not None},
        }


@dataclass(frozen=True)
class Findings:
    """The four findings of a router by name, in the order of gravity, and the word; None without sequences."""

    findings: dict[str, Finding]
    word: Word | None

    def __getitem__(self, name: str) -> Finding:
        return self.findings[name]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"word": self.word, "findings": {name: one.to_dict() for name, one in self.findings.items()}}


def findings(estimates: DomainEstimates, tied: Sequence[float] = (), thresholds: Thresholds | None = None) -> Findings:
    """The findings and the word of one router; tied [D]: share of each domain's tokens with a tie, none by default."""
    t = thresholds or Thresholds()
    makers: dict[Name, Callable[[DomainEstimates, Thresholds], Finding]] = {
        "collapsed": _collapsed,
        "dominated": _dominated,
        "idle": _idle,
        "specialised": _specialised,
    }
    made: dict[str, Finding] = {}
    for name in NAMES:
        made[name] = _with_ties(makers[name](estimates, t), estimates, tied, t)
    known = any(d.sequences for d in estimates.domains)
    return Findings(made, _word(made) if known else None)


def count_words(every: Iterable[Findings]) -> dict[str, int]:
    """Number of routers per word, and ``null`` for those without one."""
    words = [one.word for one in every]
    return {**{word: words.count(word) for word in WORDS}, "null": words.count(None)}


def _collapsed(e: DomainEstimates, t: Thresholds) -> Finding:
    parts = _part("used", e.used, t.used, "below"), _part("specialisation", e.specialisation, t.specialisation, "below")
    return _finding("collapsed", e, parts, _all(parts))


def _dominated(e: DomainEstimates, t: Thresholds) -> Finding:
    even = e.even / (1 - e.even) if e.even < 1 else math.inf
    if not math.isfinite(even):
        return Finding("dominated", "no", (), "every token uses every expert")
    threshold = t.odds * even / (1 + t.odds * even)
    share, interval, expert = dominance(e)
    part = Part("share", share, interval, threshold, "above")
    domains = tuple(name for name, row in zip(e.names, e.shares, strict=True) if row[expert] > threshold)
    named = ((expert, domains),) if part.leaning else ()
    return _finding("dominated", e, (part,), part.answer, named)


def _idle(e: DomainEstimates, t: Thresholds) -> Finding:
    value, interval = idleness(e, t.idle_load)
    part = Part("experts", value, interval, t.idle_experts, "above")
    load = t.idle_load / e.n_experts
    named = tuple((int(i), e.names) for i in np.flatnonzero(e.mixture < load)) if part.leaning else ()
    return _finding("idle", e, (part,), part.answer, named)


def _specialised(e: DomainEstimates, t: Thresholds) -> Finding:
    excess, interval, pairs = contrast(e, t.odds, t.idle_load)
    alike = _part("information", e.information, 0.0, "above")
    parts = (
        _part("specialisation", e.specialisation, t.least_specialisation, "from"),
        Part("excess", excess, interval, 0.0, "above"),
        alike,
    )
    either = [part.answer for part in parts[:2]]
    answer: Answer = "open"
    if "yes" in either and alike.answer == "yes":
        answer = "yes"
    elif either == ["no", "no"]:
        answer = "no"
    experts: dict[int, list[str]] = {}
    for domain, expert in pairs:
        experts.setdefault(expert, []).append(e.names[domain])
    return _finding("specialised", e, parts, answer, tuple((i, tuple(d)) for i, d in sorted(experts.items())))


def _part(name: str, of: Corrected, threshold: float, side: Literal["below", "above", "from"]) -> Part:
    return Part(name, of.value, of.interval, threshold, side)


def _all(parts: Sequence[Part]) -> Answer:
    answers = [part.answer for part in parts]
    return "no" if "no" in answers else "yes" if set(answers) == {"yes"} else "open"


def _finding(
    name: Name,
    e: DomainEstimates,
    parts: tuple[Part, ...],
    answer: Answer,
    experts: tuple[tuple[int, tuple[str, ...]], ...] = (),
) -> Finding:
    if e.reason is not None:
        return Finding(name, "open", parts, e.reason, experts)
    needed = _sequences(parts, sum(d.sequences for d in e.domains), e.level) if answer == "open" else None
    return Finding(name, answer, parts, None, experts, needed)


def _word(made: Mapping[str, Finding]) -> Word:
    for name, finding in made.items():
        if name == "idle" and finding.answer != "no":
            alike = made["collapsed"].parts[1].answer
            if alike == "no":  # domains have experts of their own
                continue
            if alike == "open":
                return "open"
        if finding.answer != "no":
            return "open" if finding.answer == "open" else finding.name
    return "balanced"


def _with_ties(finding: Finding, e: DomainEstimates, tied: Sequence[float], t: Thresholds) -> Finding:
    """Open where the order of tied experts may have decided."""
    most = max(tied, default=0.0)
    if not most > 0:
        return finding
    share = f"{most:.0%}" if most >= 0.01 else "less than 1%"
    why = f"scores tie in {share} of the tokens of {e.names[tied.index(most)]}, where the order of the experts decides"
    if most >= t.most_ties:
        return Finding(finding.name, "open", finding.parts, why)
    stands = {
        "collapsed": _used_stands,
        "dominated": _share_stands,
        "idle": _idle_stands,
        "specialised": _domains_stand,
    }[finding.name]
    if finding.answer != "yes" or stands(finding, e, tied, t):
        return finding
    return Finding(finding.name, "open", finding.parts, why, finding.experts)


def _used_stands(finding: Finding, e: DomainEstimates, tied: Sequence[float], t: Thresholds) -> bool:
    """Whether too few experts stay in use though the tied selections move from the busiest to the least busy ones."""
    load, even = np.sort(e.mixture), 1 / e.n_experts
    moved = min(float(np.mean(tied)), float(np.maximum(load - even, 0.0).sum()))
    low, high = _filled(load, moved), -_filled(-load[::-1], moved)
    used = math.exp(float(entropy(np.clip(load, low, high)))) / e.n_experts
    top = finding.parts[0].interval.high
    return top is not None and top * used / (math.exp(float(entropy(load))) / e.n_experts) < t.used


def _filled(ascending: Floats, amount: float) -> float:
    """The level to which the lowest values rise when ``amount`` is poured over them."""
    n = np.arange(1, len(ascending) + 1)
    levels = (amount + np.cumsum(ascending)) / n
    return float(levels[levels >= ascending][-1])


def _share_stands(finding: Finding, e: DomainEstimates, tied: Sequence[float], t: Thresholds) -> bool:
    part = finding.parts[0]
    return part.interval.low is not None and part.interval.low - max(tied) > part.threshold


def _idle_stands(finding: Finding, e: DomainEstimates, tied: Sequence[float], t: Thresholds) -> bool:
    """Whether enough experts stay idle though every tied selection goes to one of them."""
    part, least = finding.parts[0], t.idle_load / e.n_experts
    missing = np.sort(least - e.mixture[e.mixture < least])
    lifted = int((np.cumsum(missing) <= float(np.mean(tied))).sum())
    return part.interval.low is not None and part.interval.low - lifted / e.n_experts > part.threshold


def _domains_stand(finding: Finding, e: DomainEstimates, tied: Sequence[float], t: Thresholds) -> bool:
    """Whether the domains stay apart whichever experts the tied tokens of each had gone to.

    With d the largest tied share, no share of tokens moves by more than d, and odds times the odds of x + d are those
    of a share that is at most ``beside`` larger (a concave function of x, 0 at 0). No load moves by more than d in
    total variation, nor its entropy by more than d ln E + h(d), h the entropy of d and 1 - d (Fannes 1973, Audenaert
    2007); information is a difference of two such entropies.
    """
    whole, excess = (part.interval.low for part in finding.parts[:2])
    moved = min(max(tied), 1 - 1 / e.n_experts)
    beside = t.odds * moved / (1 + (t.odds - 1) * moved)
    nats = 2 * (moved * math.log(e.n_experts) + float(entropy([moved, 1 - moved])))
    if excess is not None and excess - moved - beside > 0:
        return True
    return whole is not None and whole - nats / math.log(len(e.domains)) >= t.least_specialisation


def _sequences(parts: Sequence[Part], now: int, level: float) -> tuple[int, int] | None:
    """Between which numbers of sequences the open parts would be decided with `POWER`, or None.

    An estimate decides where it is z standard errors from its threshold. The distance is known with one standard error
    itself: the ends are for a distance larger and smaller by that. Beyond `FAR` times the present number none is given.
    """
    leaning = _leaning(parts)
    between = [_decided(part, now, level) for part in parts[:2] if part.leaning == leaning]
    ranges = [ends for ends in between if ends is not None]
    if not ranges:
        return None
    # Yes to collapsed needs every part, as no to specialised does; for the others one is enough.
    every = leaning == (parts[0].side == "below")
    low_end, high_end = (max(x) if every else min(x) for x in zip(*ranges, strict=True))
    return None if high_end > FAR * now else (math.ceil(low_end), math.ceil(high_end))


def _leaning(parts: Sequence[Part]) -> bool:
    """Whether the values themselves say yes."""
    return all(part.leaning for part in parts if part.side == "below") and any(part.leaning for part in parts[:2])


def _decided(part: Part, now: int, level: float) -> tuple[float, float] | None:
    """The same of one part, without a limit; None where it is not open, or has no interval."""
    low, high = part.interval.low, part.interval.high
    if part.answer != "open" or low is None or high is None:
        return None
    z, more = float(ndtri((1 + level) / 2)), float(ndtri(POWER))
    distance = abs(part.value - part.threshold)
    error = ((part.value - low) if part.value > part.threshold else (high - part.value)) / z
    if error <= 0 or distance <= error:
        return math.inf, math.inf
    first, last = (now * ((z + more) * error / (distance + sign * error)) ** 2 for sign in (1, -1))
    return max(first, now + 1.0), max(last, now + 1.0)
