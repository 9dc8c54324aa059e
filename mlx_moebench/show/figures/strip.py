"""The layers of a model in a row, each with what was found of it: a letter, a number and its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...types import Facts
from ..inputs import Inputs
from ..names import flag_of, isolated
from ..numbers import share, with_interval
from .base import Value, labels, router_id, value_of
from .differences import DifferenceSeries, difference_series
from .drawing import CLEAR
from .sentences import Judged, judged

MOST = 3
"""Strips that a page shows."""

STATES = {
    "collapsed": ("C", "collapsed: most experts are used on no domain"),
    "dominated": ("D", "dominated: one expert leads on most domains"),
    "idle": ("I", "idle: many experts have hardly any load"),
    "specialised": ("S", "specialised: the domains use different experts"),
    "balanced": ("B", "balanced: nothing stands out"),
    "open": ("?", "open: these texts do not decide"),
    "flagged": ("!", "flagged: one expert takes more than tau"),
    "clear": ("-", "not flagged"),
    "unknown": ("x", "cannot be flagged"),
    "moved": ("M", "moved: the load differs by more than chance"),
    "still": ("=", "no difference beyond chance"),
}
"""Letter and words of everything that is said of a layer; those of findings and flags are not the same words."""


@dataclass(frozen=True)
class Place:
    """One router in a strip. number, ends: as they are written, ends empty without an interval.

    leans: whether the state is what the values lean to and no interval confirms. words: all of it in a sentence.
    """

    label: str
    layer: int
    kind: str
    state: str
    number: str
    ends: str
    words: str
    leans: bool = False

    @property
    def letter(self) -> str:
        """What tells the state to those who see no colours."""
        return STATES[self.state][0]


NUMBERS = {
    "collapsed": "the share of the experts in effective use",
    "dominated": "that expert's share of the tokens of most domains",
    "idle": "the share of such experts",
    "own": "an expert's share of the tokens of its own domain",
    "specialised": "how much the domain tells of the expert, s",
    "balanced": "how much the domain tells of the expert, s",
    "open": "how much the domain tells of the expert, s",
}
"""What the number of a layer is, by its word; ``own`` of a specialised one that has an expert of its own."""


@dataclass(frozen=True)
class Strip:
    """title: of what. section: the id of the section with the figures of its layers. numbers: what the number of each
    state is, ``""`` for all.
    """

    title: str
    section: str
    places: tuple[Place, ...]
    numbers: Mapping[str, str]

    @property
    def legend(self) -> tuple[tuple[str, str, str], ...]:
        """(state, letter, words) of each state that occurs."""
        states = {place.state for place in self.places}
        words = [
            (state, letter, f"{text}{f' (number: {self.numbers[state]})' if state in self.numbers else ''}")
            for state, (letter, text) in STATES.items()
            if state in states
        ]
        lean = [("lean", "", "dashed: what the values lean to, without an interval")]
        return (*words, *(lean if any(place.leans for place in self.places) else []))

    @property
    def note(self) -> str:
        """What the numbers of all are, and what stands below them."""
        parts = [self.numbers.get("", "")]
        parts += ["small: the interval" if any(place.ends for place in self.places) else ""]
        said = "; ".join(filter(None, parts))
        return f"{said[:1].upper()}{said[1:]}"


def strips(inputs: Inputs) -> tuple[Strip, ...]:
    """Of each comparison, then of what lies between domains, then of each run on one domain; `MOST` of them."""
    every = [
        *(_of_comparison(difference_series(one), place) for place, one in enumerate(inputs.comparisons)),
        *(_of_profile(name, profile, place) for place, (name, profile) in enumerate(inputs.profiles.items())),
        *(_of_report(run.name, run.report) for run in inputs.runs if run.name not in inputs.profiles),
    ]
    return tuple(every[:MOST])


def _section(name: str, place: int) -> str:
    return f"{name}{place or ''}"


# -- findings --------------------------------------------------------------------------------------------------------


def _of_profile(name: str, profile: Facts, place: int) -> Strip:
    return _of_findings(name, profile["routers"], _section("domains", place))


def _of_findings(name: str, routers: Sequence[Facts], section: str) -> Strip:
    title = f"What the domains show of each layer of {isolated(name)}"
    every = [judged(router) for router in routers]
    numbers = {word: NUMBERS[word] for word in {one.shown or "open" for one in every}}
    owning = [one for one in every if one.shown == "specialised" and _has_own(one)]
    if owning:
        alone = all(_has_own(one) for one in every if one.shown == "specialised")
        numbers["specialised"] = NUMBERS["own"] + (
            "" if alone else f", without such an expert {NUMBERS['specialised']}"
        )
    return Strip(title, section, tuple(_judged(routers)), numbers)


def _has_own(one: Judged) -> bool:
    return one.shown == "specialised" and one.own is not None and one.own[2] == one.own[2]


def _judged(routers: Sequence[Facts]) -> Iterator[Place]:
    for label, router in zip(labels([router_id(r) for r in routers]), routers, strict=True):
        one = judged(router)
        leans = one.word is None and one.leaning is not None
        state = one.word or one.leaning or "open"
        value, what = _number(one)
        number, ends = _written(value)
        whole = with_interval(value.value, value, 0, share)
        lean = ", by its values alone" if leans else ""
        words = f"Layer {label}: {state}{lean}; {what.format(whole)}"
        yield Place(label, router["layer"], router["router"], state, number, ends, words, leans)


def _number(one: Judged) -> tuple[Value, str]:
    """The number that decides the word of a router, and a sentence for it with {} in its place."""
    word = one.shown
    if _has_own(one) and one.own is not None:
        expert, domain, here, _ = one.own
        ends = {"low": one.interval[0], "high": one.interval[1]} if one.interval else None
        # A name may hold braces.
        of = isolated(domain).replace("{", "{{").replace("}", "}}")
        return value_of(here, ends), f"expert {expert} takes {{}} of the tokens of {of}"
    finding, part, what = {
        "collapsed": ("collapsed", "used", "{} of the experts are in effective use"),
        "dominated": ("dominated", "share", "one expert takes {} of the tokens of most domains, or more"),
        "idle": ("idle", "experts", "{} of the experts have hardly any load"),
    }.get(word or "", ("specialised", "specialisation", "the domain tells {} of what it could of the expert"))
    entry = one.entry["findings"]["findings"][finding]["parts"].get(part, {})
    return value_of(entry.get("value"), entry), what


def _of_report(name: str, report: Facts) -> Strip:
    routers = report["routers"]
    if any("findings" in r for r in routers):
        return _of_findings(name, routers, "load")
    places = tuple(_flagged(label, r, report["settings"]) for label, r in _labelled(routers))
    title = f"The busiest expert of each layer of {isolated(name)}"
    return Strip(title, "load", places, {"": "Number: its share of the tokens"})


def _labelled(routers: Sequence[Facts]) -> Iterator[tuple[str, Facts]]:
    yield from zip(labels([router_id(r) for r in routers]), routers, strict=True)


def _flagged(label: str, router: Facts, settings: Facts) -> Place:
    state = {"yes": "flagged", "open": "open", "no": "clear", "null": "unknown"}[flag_of(router, settings)]
    value = value_of(router.get("top_share_token"), router["ci"].get("top_share_token"))
    number, ends = _written(value)
    whole = with_interval(value.value, value, 0, share)
    why = f" ({router['collapsed_reason']})" if router.get("collapsed_reason") else ""
    words = f"Layer {label}: {STATES[state][1]}{why}; the busiest expert takes {whole} of the tokens"
    return Place(label, router["layer"], router["router"], state, number, ends, words)


# -- comparisons -----------------------------------------------------------------------------------------------------


def _of_comparison(series: DifferenceSeries, place: int) -> Strip:
    places = []
    for label, load in zip(labels(series.routers), series.loads, strict=True):
        q = load.l1.q
        state = "open" if q != q else "moved" if q < CLEAR else "still"
        number, ends = _written(load.l1, of_shares=False)
        words = f"Layer {label}: {STATES[state][1]}; distance of the loads {with_interval(load.l1.value, load.l1)} of 2"
        places.append(Place(label, load.router.layer, load.router.router, state, number, ends, words))
    first, second = map(isolated, (series.names[0], series.names[1]))
    title = f"How far the load of {second} lies from that of {first}"
    return Strip(title, _section("differences", place), tuple(places), {"": "Number: distance of the loads, 0 to 2"})


def _written(value: Value, of_shares: bool = True) -> tuple[str, str]:
    """The number, and its ends, in as few characters as a small cell has room for."""
    if of_shares:
        ends = f"{share(value.low)[:-1]} to {share(value.high)}" if value.has_interval else ""
        return share(value.value), ends
    ends = f"{value.low:.2f} to {value.high:.2f}" if value.has_interval else ""
    return (f"{value.value:.2f}" if value.value == value.value else "not defined"), ends
