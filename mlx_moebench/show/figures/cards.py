"""What is known of every single expert: its load, its domains, its tokens, whom it is chosen with, what comes next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from ...analysis.favourites import Favourite, TraceFavourites
from ...routing.sums import Floats
from ..inputs import Run
from ..names import isolated
from ..numbers import percent, with_interval
from .base import RouterId, Value, labels, router_id
from .domains import DomainSeries
from .load import LoadSeries
from .river import Counts, lift_of

NEAREST = 3
"""Partners and next experts that are kept of each expert."""

FEWEST = 5
"""Tokens, or moves, below which two experts are no partners."""

LISTED = 60
"""Experts in the index of cards."""

ORDER = (
    "The strongest first: by how many times an expert's share lies beyond what it is held against, counted from the "
    "end of its interval that is nearest to that. A domain's share is held against the share on any other domain, a "
    "load against the even one, a token against the experts of its text."
)


@dataclass(frozen=True)
class Neighbour:
    """Another expert, with the tokens or moves that both have, and their lift: 1 is chance."""

    expert: int
    count: int
    lift: float


@dataclass(frozen=True)
class Finding:
    """What stands out of one expert. router: its number; times: how far beyond what it is held against; at least 1."""

    router: int
    expert: int
    times: float
    words: str


@dataclass(frozen=True)
class CardSeries:
    """All experts of a run. partners, following: by router and expert; empty where they are not known.

    findings: of every expert of which anything stands out, the strongest of each, strongest first.
    """

    run: str
    routers: tuple[RouterId, ...]
    names: tuple[str, ...]
    loads: LoadSeries
    domains: DomainSeries | None
    favourites: TraceFavourites | None
    partners: tuple[tuple[tuple[Neighbour, ...], ...], ...]
    following: tuple[tuple[tuple[Neighbour, ...], ...], ...]
    findings: tuple[Finding, ...]

    def favourites_of(self, router: int, expert: int) -> list[Favourite]:
        """Its tokens in the trace; none without one."""
        return [] if self.favourites is None else self.favourites.experts.get((router, expert), [])


def card_series(
    run: Run, loads: LoadSeries, domains: DomainSeries | None = None, favourites: TraceFavourites | None = None
) -> CardSeries:
    """From a run with its loads, what lies between its domains, and the favourite tokens of its trace, where known."""
    routers = tuple(router_id(r) for r in run.report["routers"])
    findings = [*_by_load(loads), *_by_domain(domains), *_by_token(favourites)]
    return CardSeries(
        run.name,
        routers,
        tuple(labels(routers)),
        loads,
        domains,
        favourites,
        tuple(_partners(run, number) for number in range(len(routers))),
        tuple(_following(run, number) for number in range(len(routers) - 1)),
        tuple(_strongest(findings)),
    )


def _partners(run: Run, number: int) -> tuple[tuple[Neighbour, ...], ...]:
    """Experts chosen together beyond chance, of each expert of a router."""
    stats, router = run.stats, router_id(run.report["routers"][number])
    if stats is None or router.top_k < 2 or router.n_experts < 2 or not stats.pairs_known(number):
        return ()
    pairs = stats.pairs(number).copy()
    own, n_tokens = np.diagonal(pairs).copy(), int(run.report["routers"][number]["n_tokens"])
    np.fill_diagonal(pairs, 0)
    chance = (router.top_k - 1) * router.n_experts / (router.n_experts - 1) / router.top_k
    return _nearest(pairs, lift_of(pairs, own, own, n_tokens) / chance)


def _following(run: Run, number: int) -> tuple[tuple[Neighbour, ...], ...]:
    """Experts of the next router beyond chance, of each expert of a router."""
    stats = run.stats
    if stats is None or not stats.transitions_known(number):
        return ()
    moves = stats.transition_counts(number)
    here, there = (np.array(r["selection_counts"]) for r in run.report["routers"][number : number + 2])
    return _nearest(moves, lift_of(moves, here, there, int(run.report["routers"][number]["n_tokens"])))


def _nearest(counts: Counts, lift: Floats) -> tuple[tuple[Neighbour, ...], ...]:
    """Of each row the columns that exceed chance most, in units of chance's own spread, root of what is expected."""
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(lift > 0, counts / lift, np.inf)
        excess = np.where((counts >= FEWEST) & (lift > 1), (counts - expected) / np.sqrt(expected), -np.inf)
    rows = []
    for row, of in enumerate(excess):
        best = [int(column) for column in np.argsort(-of, kind="stable")[:NEAREST] if np.isfinite(of[column])]
        rows.append(tuple(Neighbour(c, int(counts[row, c]), float(lift[row, c])) for c in best))
    return tuple(rows)


def _by_load(loads: LoadSeries) -> Iterator[Finding]:
    for number, one in enumerate(loads.routers):
        even, shares = one.router.even, one.shares
        low, high = (shares, shares) if one.band is None else (one.band.low, one.band.high)
        for expert, share in enumerate(shares):
            ends = (low[expert], high[expert]) if np.isfinite(low[expert]) else (share, share)
            words = f"{_share(share, *ends)} of all tokens; even is {percent(even)}"
            if ends[0] > even > 0:
                yield Finding(number, expert, float(ends[0] / even), words)
            elif ends[1] < even and one.n_tokens:
                yield Finding(number, expert, float(even / max(ends[1], 1 / one.n_tokens)), words)


def _by_domain(domains: DomainSeries | None) -> Iterator[Finding]:
    """An expert whose share on one domain lies beyond that on any other, the bands of both apart."""
    if domains is None or len(domains.domains) < 2:
        return
    least = 1 / max(1, *domains.n_tokens)
    for number, one in enumerate(domains.routers):
        low, high = (np.where(np.isfinite(end), end, one.shares) for end in (one.low, one.high))
        for expert in range(one.shares.shape[1]):
            if not np.isfinite(one.shares[:, expert]).all():
                continue
            first = int(np.argmax(low[:, expert]))
            others = np.delete(np.arange(len(low)), first)
            second = int(others[np.argmax(high[others, expert])])
            times = low[first, expert] / max(high[second, expert], least)
            if times > 1:
                share = _share(one.shares[first, expert], low[first, expert], high[first, expert])
                other = _share(one.shares[second, expert], low[second, expert], high[second, expert])
                names = [isolated(domains.domains[place]) for place in (first, second)]
                words = f"{share} of the tokens of {names[0]}; {other} on {names[1]}"
                yield Finding(number, expert, float(times), words + (", the next" if len(low) > 2 else ""))


def _by_token(favourites: TraceFavourites | None) -> Iterator[Finding]:
    """The favourite token whose share at the expert is surest beyond chance: the lower end of Clopper and Pearson."""
    for (router, expert), those in ({} if favourites is None else favourites.experts).items():
        sure = [(_low(f.chosen, f.n_tokens) * f.n_tokens / f.expected, f) for f in those if f.expected > 0]
        if sure:
            times, one = max(sure, key=lambda pair: pair[0])
            text = isolated(repr(one.text))
            words = f"{one.chosen} of the {one.n_tokens} tokens {text}; {one.expected:.1f} by chance"
            yield Finding(router, expert, float(times), words)


def _low(chosen: int, n_tokens: int) -> float:
    """Lower end of the 95% interval of a share."""
    return float(betaincinv(chosen, n_tokens - chosen + 1, 0.025)) if chosen else 0.0


def _share(value: float, low: float, high: float) -> str:
    known = Value(100 * value, 100 * low, 100 * high) if low < high else Value(100 * value)
    return f"{with_interval(known.value, known, 1)}%"


def _strongest(findings: Iterable[Finding]) -> list[Finding]:
    """The strongest of each expert."""
    best: dict[tuple[int, int], Finding] = {}
    for one in findings:
        place = one.router, one.expert
        if one.times > 1 and (place not in best or one.times > best[place].times):
            best[place] = one
    return sorted(best.values(), key=lambda one: (-one.times, one.router, one.expert))
