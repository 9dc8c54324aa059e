"""What was found, in words that name model, experts, domains, layers and sizes: one function of any report.

The same sentence stands on the page, in the terminal, in Markdown and on a model card.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ...types import Facts
from ..findings import open_because
from ..names import flag_of, isolated, model_name, unit_of_text
from ..numbers import count, even_share, number, share, with_interval

MOST_DOMAINS = 6
MOST_LAYERS = 6
"""Names and numbers that a sentence lists; of more it says how many."""

SHARES = {"top_share_token": "tokens", "top_share_selection": "selections", "top_share_top1": "first choices"}
"""What the share that a flag is decided on is a share of."""

ONE_DOMAIN = "One domain cannot tell collapse from specialisation"


@dataclass(frozen=True)
class Judged:
    """A router with the word of its findings. leaning: the word that the values alone would give, None without them.

    own: (expert, domain, its share there, its mean share elsewhere) of the expert that is most a domain's own, or
    None where no expert is; the shares are NaN where they are not known. interval: [low, high] of the share there.
    """

    entry: Facts
    word: str | None
    leaning: str | None
    own: tuple[int, str, float, float] | None
    interval: tuple[float, float] | None

    @property
    def shown(self) -> str | None:
        """The word, or where there is none the one that the values lean to."""
        return self.word or self.leaning

    @property
    def even(self) -> float:
        """K/E."""
        return float(self.entry["top_k"] / self.entry["n_experts"])


def judged(router: Facts) -> Judged:
    """The findings of a router, of a profile or of a report."""
    found = router["findings"]
    experts = found["findings"]["specialised"].get("experts") or ()
    own = [_own(router, int(e["expert"]), str(d)) for e in experts for d in e["domains"]]
    best = max(own, key=lambda one: (one[2] - one[3] if one[2] == one[2] else -1.0, -one[0]), default=None)
    ends = router.get("domain_specialisation", {})
    interval = None
    if best is not None and ends.get("low") is not None:
        low, high = (ends[end][best[1]][best[0]] for end in ("low", "high"))
        interval = (low, high)
    return Judged(router, found["word"], _leaning(found["findings"]), best, interval)


def _own(router: Facts, expert: int, domain: str) -> tuple[int, str, float, float]:
    shares = router.get("domain_specialisation", {}).get("shares")
    if not shares or domain not in shares:
        return expert, domain, math.nan, math.nan
    others = [_or_nan(row[expert]) for name, row in shares.items() if name != domain]
    return expert, domain, _or_nan(shares[domain][expert]), sum(others) / len(others)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _leaning(findings: Facts) -> str | None:
    """The gravest word for which the values alone, without their intervals, are on the side of yes."""
    numbers = {
        (name, key): (_or_nan(part["value"]), part["threshold"])
        for name, one in findings.items()
        for key, part in one["parts"].items()
    }

    def over(name: str, part: str) -> bool:
        value, threshold = numbers.get((name, part), (math.nan, 0.0))
        return bool(value > threshold)

    def under(name: str, part: str) -> bool:
        value, threshold = numbers.get((name, part), (math.nan, 0.0))
        return bool(value < threshold)

    if all(value != value for value, _ in numbers.values()):
        return None
    apart = not under("collapsed", "specialisation")
    if under("collapsed", "used") and not apart:
        return "collapsed"
    if over("dominated", "share"):
        return "dominated"
    if over("idle", "experts") and not apart:
        return "idle"
    told = over("specialised", "specialisation") or over("specialised", "excess")
    return "specialised" if told and over("specialised", "information") else "balanced"


# -- over several domains --------------------------------------------------------------------------------------------


def findings_sentence(name: str, measured: Facts, domains: Sequence[str]) -> str:
    """What the findings over ``domains`` say. measured: a report or an entry of a profile, with routers and data."""
    every = [judged(router) for router in measured["routers"] if "findings" in router]
    undecided = [one for one in every if one.word in (None, "open")]
    parts = list(_said(every))
    if len(undecided) == len(every):
        parts = [_undecided(every)]
    strongest = _strongest(every)
    sized = _sized(measured, domains)
    return f"{isolated(name)}: {'; '.join(parts)}.{f' {strongest}.' if strongest else ''} {sized}"


def _undecided(every: Sequence[Judged]) -> str:
    """Where no router has a word: what the values lean to, and why no interval confirms it."""
    reason = next(filter(None, (open_because(one.entry) for one in every)), "too few texts")
    known = any(one.word == "open" for one in every)
    why = f"{'these texts do not decide' if known else 'there are no intervals'} ({reason})"
    leaning = [clause.removesuffix(")").rpartition(" (")[0] for clause in _said(every, leaning=True)]
    return f"{'; '.join(leaning)}, by the values alone: {why}" if leaning else f"nothing is decided: {why}"


def _said(every: Sequence[Judged], leaning: bool = False) -> Iterator[str]:
    """A clause for each word that a router of a kind has, the gravest first."""
    for kind, noun in _kinds([one.entry for one in every]):
        of_kind = [one for one in every if one.entry["router"] == kind]
        for word, phrase in _PHRASES.items():
            some = [one for one in of_kind if (one.leaning if leaning else one.word) == word]
            for those, what in phrase(some) if some else ():
                yield f"in {_of([one.entry for one in those], [one.entry for one in of_kind], noun)} {what}"


def _kinds(routers: Sequence[Facts]) -> list[tuple[str, str]]:
    """(kind, noun) of the routers: layers where there is one kind."""
    kinds = list(dict.fromkeys(str(r["router"]) for r in routers))
    return [(kind, "layer" if len(kinds) == 1 else f"{kind} router") for kind in kinds]


def _of(some: Sequence[Facts], of: Sequence[Facts], noun: str) -> str:
    """``2 of 6 layers (1, 4)``; the numbers where they are some and few."""
    if len(of) == 1:
        return f"the only {noun}"
    few = len(some) <= MOST_LAYERS and len(some) < len(of)
    which = f" ({', '.join(str(router['layer']) for router in some)})" if few else ""
    return f"{len(some):,} of {count(len(of), noun)}{which}"


_Clauses = list[tuple[Sequence[Judged], str]]


def _collapsed(some: Sequence[Judged]) -> _Clauses:
    worst = min(some, key=lambda one: _part(one, "collapsed", "used"))
    used = _part(worst, "collapsed", "used") * worst.entry["n_experts"]
    r = _with_ends(worst, "collapsed", "used", number)
    size = f"{used:.1f} of {count(worst.entry['n_experts'], 'expert')}, a share of {r}"
    return [(some, f"most experts are used on no domain, the fewest in layer {_layer(worst)}: {size} (collapsed)")]


def _dominated(some: Sequence[Judged]) -> _Clauses:
    worst = max(some, key=lambda one: _part(one, "dominated", "share"))
    experts = worst.entry["findings"]["findings"]["dominated"].get("experts") or ()
    who = f"expert {experts[0]['expert']}" if experts else "one expert"
    size = _with_ends(worst, "dominated", "share", share)
    return [
        (
            some,
            f"one expert leads on most domains, the most in layer {_layer(worst)}, where {who} takes {size} of "
            f"their tokens or more, {even_share(worst.even)} would be even (dominated)",
        )
    ]


def _idle(some: Sequence[Judged]) -> _Clauses:
    worst = max(some, key=lambda one: _part(one, "idle", "experts"))
    n = worst.entry["n_experts"]
    size = f"{round(_part(worst, 'idle', 'experts') * n)} of {n}, {_with_ends(worst, 'idle', 'experts', share)}"
    return [(some, f"many experts are idle on every domain, the most in layer {_layer(worst)}: {size} (idle)")]


def _specialised(some: Sequence[Judged]) -> _Clauses:
    own = [one for one in some if one.own is not None]
    rest = [one for one in some if one.own is None]
    clauses: _Clauses = []
    if own:
        clauses.append((own, "an expert is busy mainly on one domain (specialised)"))
    if rest:
        clauses.append((rest, "domains are sent to different experts, none a domain's own (specialised)"))
    return clauses


def _balanced(some: Sequence[Judged]) -> _Clauses:
    return [(some, "no expert and no domain stands out (balanced)")]


def _open(some: Sequence[Judged]) -> _Clauses:
    reasons = dict.fromkeys(filter(None, (open_because(one.entry) for one in some)))
    why = f": {next(iter(reasons))}" if len(reasons) == 1 else ""
    return [(some, f"these texts do not decide (open{why})")]


_PHRASES: dict[str | None, Callable[[Sequence[Judged]], _Clauses]] = {
    "collapsed": _collapsed,
    "dominated": _dominated,
    "idle": _idle,
    "specialised": _specialised,
    "balanced": _balanced,
    "open": _open,
}
"""What is said of routers with each word: (those that it is said of, the words)."""


def _part(one: Judged, finding: str, part: str) -> float:
    return _or_nan(one.entry["findings"]["findings"][finding]["parts"].get(part, {}).get("value"))


def _with_ends(one: Judged, finding: str, part: str, write: Callable[[float | None, int], str]) -> str:
    entry = one.entry["findings"]["findings"][finding]["parts"].get(part, {})
    return with_interval(entry.get("value"), entry, 0 if write is share else 2, write)


def _layer(one: Judged) -> str:
    return str(one.entry["layer"])


def _strongest(every: Sequence[Judged]) -> str:
    """The expert that is most a domain's own, of any router; empty where there is none."""
    some = [one for one in every if one.own is not None and one.shown == "specialised"]
    some = some or [one for one in every if one.own is not None]
    if not some:
        return ""
    several = len({one.entry["router"] for one in every}) > 1

    def contrast(one: Judged) -> float:
        assert one.own is not None
        return one.own[2] - one.own[3] if one.own[2] == one.own[2] else -1.0

    best = max(some, key=contrast)
    assert best.own is not None
    expert, domain, here, elsewhere = best.own
    kind = f"the {best.entry['router']} router of " if several else ""
    who = f"expert {expert} of {kind}layer {_layer(best)}"
    if here != here:
        return f"Such is {who}, on {isolated(domain)}"
    ends = {"low": best.interval[0], "high": best.interval[1]} if best.interval else None
    return (
        f"Strongest: {who} takes {with_interval(here, ends, 0, share)} of the tokens of {isolated(domain)} and "
        f"{share(elsewhere)} of the others', {even_share(best.even)} would be even"
    )


# -- on one domain ---------------------------------------------------------------------------------------------------


def load_sentence(name: str, report: Facts) -> str:
    """The busiest expert of any layer, and how many layers are flagged for theirs, on one domain."""
    routers, settings = report["routers"], report["settings"]
    known = [r for r in routers if r.get("top_share_token") is not None]
    parts = []
    if known:
        parts.append(
            _busiest(max(known, key=lambda r: float(r["top_share_token"])), len({r["router"] for r in routers}))
        )
    if any("collapsed" in r for r in routers):
        parts += [_flagged(routers, settings), ONE_DOMAIN]
    said = ". ".join(f"{part[0].upper()}{part[1:]}" for part in parts) or "No token was measured"
    data = isolated(str(report["data"]["name"]))
    return f"{isolated(name)} on {data}: {said[0].lower()}{said[1:]}. {_sized(report, ())}"


def _busiest(router: Facts, kinds: int) -> str:
    counts = router["selection_counts"]
    kind = f"the {router['router']} router of " if kinds > 1 else ""
    who = f"expert {max(range(len(counts)), key=counts.__getitem__)} of {kind}layer {router['layer']}"
    size = with_interval(router["top_share_token"], router["ci"].get("top_share_token"), 0, share)
    even = even_share(router["top_k"] / router["n_experts"])
    return f"the busiest is {who}, with {size} of the tokens, {even} would be even"


def _flagged(routers: Sequence[Facts], settings: Facts) -> str:
    """In which layers the busiest expert's share is above tau, undecided, or cannot be flagged."""
    tau = f"tau = {share(settings['tau'])} of the {SHARES.get(settings['collapse_on'], 'tokens')}"
    parts = []
    for kind, noun in _kinds(routers):
        of_kind = [(r, flag_of(r, settings)) for r in routers if r["router"] == kind]
        judged_ones = [r for r, flag in of_kind if flag != "null"]
        if not judged_ones:
            reason = next((r["collapsed_reason"] for r, _ in of_kind if r.get("collapsed_reason")), "no tokens")
            parts.append(f"no {noun} can be flagged: {reason}")
            continue
        over, unsure = ([r for r, flag in of_kind if flag == wanted] for wanted in ("yes", "open"))
        of = _of(over, judged_ones, noun) if over else ""
        if over:
            parts.append(f"in {of} one expert takes more than {tau} (flagged)")
        elif len(judged_ones) == 1:
            parts.append(f"the only {noun} is not flagged: it has no expert with more than {tau}")
        else:
            parts.append(f"no {noun} is flagged: none has an expert with more than {tau}")
        if unsure:
            parts.append(f"in {_of(unsure, judged_ones, noun)} other texts may say otherwise (open)")
    return "; ".join(parts)


# -- sizes -----------------------------------------------------------------------------------------------------------


def _sized(measured: Facts, domains: Sequence[str]) -> str:
    """``Measured on code, math: 80 sequences, 9,000 tokens; 6 layers of 16 experts, 2 a token.``"""
    data, routers = measured["data"], measured["routers"]
    forms = []
    for kind, noun in _kinds(routers):
        of_kind = [(r["n_experts"], r["top_k"]) for r in routers if r["router"] == kind]
        for form in dict.fromkeys(of_kind):
            size = f"{count(form[0], 'expert')}, {form[1]} a token"
            forms.append(f"{count(of_kind.count(form), noun)} of {size}")
    texts = f"{count(data['n_sequences'], unit_of_text(measured['model']))}, {count(data['n_tokens'], 'token')}"
    phase = "" if data.get("phase", "prefill") == "prefill" else f" ({data['phase']})"
    on = f" on {_listed(domains)}" if domains else ""
    return f"Measured{on}: {texts}{phase}; {' and '.join(forms)}."


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(isolated(name) for name in names[:MOST_DOMAINS])
    return shown + (f" and {len(names) - MOST_DOMAINS} more" if len(names) > MOST_DOMAINS else "")


def report_sentence(report: Facts, name: str | None = None, domains: Sequence[str] = ()) -> str:
    """The sentence of a report of one domain or of several, by default under the name of its model."""
    name = name or model_name(report["model"])
    if any("findings" in r for r in report["routers"]):
        known = domains or sorted({str(source["name"]) for source in report["data"].get("sources", ())})
        return findings_sentence(name, report, known)
    return load_sentence(name, report)
