"""One expert: its domains, its tokens, its partners, and who comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...analysis.favourites import trace_favourites
from ...errors import StatsError
from ..colours import ALL, EXPERTS, domain_colours
from ..figures import domain_series, load_series
from ..figures.cards import CardSeries, card_series
from ..inputs import Inputs, Run
from ..names import sizes
from ..numbers import percent
from .base import WIDTH, Plot, lines, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs, card: str | None = None) -> Figure:
    """The card of one expert of a run, by default of the one that stands out most."""
    from matplotlib.figure import Figure

    if len(inputs.runs) != 1:
        raise StatsError(f"A card is of one run, and here are {len(inputs.runs)}: give the stats pairs of one model.")
    run = inputs.runs[0]
    series = _series(inputs, run)
    router, expert = _chosen(series, card)
    panels = [_shares, _tokens, _partners, _following]
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    for axis, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
        panel(axis, series, router, expert)
    words = next((f.words for f in series.findings if (f.router, f.expert) == (router, expert)), "nothing stands out")
    figure.suptitle(
        lines(
            f"{plain(run.name, 40)} on {plain(run.report['data']['name'], 40)}: {sizes(run.report)}",
            f"layer {series.names[router]}, expert {expert}: {plain(words, 90)}",
            _intervals(series, router),
        )
    )
    return figure


def _series(inputs: Inputs, run: Run) -> CardSeries:
    profile = inputs.profiles.get(run.name) if run.domains else None
    favourites = trace_favourites(inputs.traces[0]) if inputs.traces else None
    if favourites and max((router for router, _ in favourites.experts), default=0) >= len(run.report["routers"]):
        raise StatsError(f"The trace is of another model than {run.name}: it has more routers.")
    domains = None if profile is None else domain_series(run.name, profile)
    return card_series(run, load_series(run), domains, favourites)


def _chosen(series: CardSeries, card: str | None) -> tuple[int, int]:
    """Router and expert that a card's name means; raises `StatsError` for none of them."""
    if card is None:
        return (series.findings[0].router, series.findings[0].expert) if series.findings else (0, 0)
    layer, _, expert = card.rpartition("-")
    names = [name.replace(" ", "-") for name in series.names]
    if layer not in names or not expert.isdecimal() or int(expert) >= series.routers[names.index(layer)].n_experts:
        some = f"{names[0]}-0 to {names[-1]}-{series.routers[-1].n_experts - 1}"
        raise StatsError(f"{series.run} has no card {card!r}: they are called LAYER-EXPERT, {some}.")
    return names.index(layer), int(expert)


def _intervals(series: CardSeries, router: int) -> str:
    if series.domains is not None:
        one = series.domains.routers[router]
        known, level, reason = bool(np.isfinite(one.low).any()), series.domains.level, one.reason
    else:
        band = series.loads.routers[router].band
        known, level = band is not None and bool(np.isfinite(band.low).any()), series.loads.level
        reason = None if band is None else band.reason
    how = f"bars: {percent(level)} simultaneous intervals" if known else f"no intervals: {reason or 'not computed'}"
    return f"{how}; dotted: even or chance; pairs and moves have no intervals"


def _shares(axis: Any, series: CardSeries, router: int, expert: int) -> None:
    """Share of each domain's tokens with its band; of one domain the share of all tokens."""
    if series.domains is not None:
        one = series.domains.routers[router]
        names, values = list(series.domains.domains), one.shares[:, expert]
        low, high = one.low[:, expert], one.high[:, expert]
        colours = list(domain_colours(names).values())
    else:
        of = series.loads.routers[router]
        names, values, colours = [series.loads.data], of.shares[[expert]], [ALL]
        ends = (values, values) if of.band is None else (of.band.low[[expert]], of.band.high[[expert]])
        low, high = ends
    axis.barh(range(len(names)), values, color=colours)
    known = np.isfinite(low) & np.isfinite(high)
    errors = np.abs(np.stack([values - low, high - values]))[:, known]
    axis.errorbar(values[known], np.flatnonzero(known), xerr=errors, fmt="none", ecolor="black", capsize=2, lw=1)
    axis.axvline(series.routers[router].even, color="0.4", linestyle=":")
    axis.set_yticks(range(len(names)), [plain(name, 22) for name in names])
    axis.set_ylabel("domain")
    axis.set_xlabel("share of tokens")
    axis.set_title("Share of each domain's tokens", loc="left")
    axis.invert_yaxis()


def _tokens(axis: Any, series: CardSeries, router: int, expert: int) -> None:
    """Of its favourite tokens the share that chose it, and what its texts explain."""
    those = series.favourites_of(router, expert)
    why = "none beyond chance" if series.favourites else "no trace was given"
    if not _ready(axis, "Favourite tokens (q < 0.05)", bool(those), why):
        return
    names = [f"{plain(f.text.replace(' ', chr(0x2423)), 14)}  {f.chosen} of {f.n_tokens}" for f in those]
    axis.barh(range(len(those)), [f.chosen / f.n_tokens for f in those], color=EXPERTS[0])
    for place, f in enumerate(those):
        axis.plot([f.expected / f.n_tokens] * 2, [place - 0.4, place + 0.4], color="black", linestyle=":")
    axis.set_yticks(range(len(those)), names)
    axis.set_xlabel("share of the token's occurrences")
    axis.invert_yaxis()


def _partners(axis: Any, series: CardSeries, router: int, expert: int) -> None:
    of = series.partners[router]
    why = "K = 1: a token has one expert" if series.routers[router].top_k < 2 else "not recorded, or none beyond chance"
    if _ready(axis, "Partners: chosen by the same tokens", bool(of and of[expert]), why):
        _lifts(axis, [(f"expert {n.expert}, {n.count:,} tokens", n.lift) for n in of[expert]])


def _following(axis: Any, series: CardSeries, router: int, expert: int) -> None:
    of = series.following[router] if router < len(series.following) else ()
    last = router + 1 == len(series.routers)
    why = "the last router" if last else "not recorded, or none beyond chance"
    title = "Typical next experts" + ("" if last else f", layer {series.names[router + 1]}")
    if _ready(axis, title, bool(of and of[expert]), why):
        _lifts(axis, [(f"expert {n.expert}, {n.count:,} moves", n.lift) for n in of[expert]])


def _lifts(axis: Any, named: list[tuple[str, float]]) -> None:
    axis.barh(range(len(named)), [lift for _, lift in named], color=ALL)
    axis.axvline(1.0, color="0.4", linestyle=":")
    axis.set_yticks(range(len(named)), [name for name, _ in named])
    axis.set_xlabel("lift, times chance")
    axis.invert_yaxis()


def _ready(axis: Any, title: str, known: bool, why: str) -> bool:
    """Whether there is something to draw; else the reason stands in its place."""
    axis.set_title(title, loc="left")
    if not known:
        axis.set_axis_off()
        axis.text(0.0, 0.5, why, transform=axis.transAxes, color="0.35")
    return known


PLOT = Plot(
    "card",
    "One expert: shares by domain, favourite tokens, partners, typical next experts.",
    "stats pairs of one model, and the folder of a trace of it for its tokens",
    draw,
    options=("card",),
)
