"""The pictures with scripts of their own: the river, the cards of the experts, the map of tokens by layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...analysis.favourites import TraceFavourites, trace_favourites
from ...routing.favourites import NULL
from ...types import Facts, HostArray, Json
from ..figures import domain_series, load_series
from ..figures.base import labels, n_of
from ..figures.cards import LISTED, NEAREST, ORDER, CardSeries, Neighbour, card_series
from ..figures.river import DEFINITION, POOLED, RiverSeries, river_series
from ..inputs import Inputs, Run
from ..names import isolated, model_name, unit_of_text
from .parts import Figure, Part, Section, Sketch, Widget

NOBODY = 0xFFFF
"""In place of an expert, where there is no further partner or next one."""


def river(runs: Sequence[Run]) -> Section:
    """Where tokens go from layer to layer, a figure for each run."""
    several = len(runs) > 1
    parts = tuple(_river(run, river_series(run), place, several) for place, run in enumerate(runs))
    return Section("river", "River: where tokens go from layer to layer", parts)


def _river(run: Run, series: RiverSeries, place: int, several: bool) -> Part:
    of = f" of {isolated(run.name)}" if several else ""
    if series.reason is not None:
        return f"There are no moves{of} to draw: {series.reason}."
    n = n_of(series.n_sequences, series.n_tokens, unit_of_text(run.report["model"]))
    merged = " Of large routers the busiest experts are shown; the others together, drawn smaller than they are."
    caption = (
        f"{DEFINITION} The faintest ribbons are at chance or below.{merged if _merges(series) else ''} "
        f"Unit: {series.unit}. {n}."
    )
    title = f"Moves between layers{of}"
    return Figure({"": Sketch("river", title, f"River of the moves between layers{of}", caption, _data(series, place))})


def _merges(series: RiverSeries) -> bool:
    return any(column.others for column in series.columns)


def _data(series: RiverSeries, place: int) -> Json:
    """As `MB.river` draws it. run: its number on the page."""
    names = labels([column.router for column in series.columns])
    columns = [
        {
            "name": name,
            "number": number,
            "layer": column.router.layer,
            "router": column.router.router,
            "n_experts": column.router.n_experts,
            "top_k": column.router.top_k,
            "tokens": column.n_tokens,
            "experts": column.experts,
            "loads": column.loads.tolist(),
            "others": column.others,
        }
        for number, (name, column) in enumerate(zip(names, series.columns, strict=True))
    ]
    moves = [moves.ravel().tolist() for moves in series.moves]
    return {"run": place, "columns": columns, "moves": moves, "pooled": POOLED}


def token_map(tokens: Facts) -> Section:
    """A sentence down, layers across; what it shows is the data of the token view."""
    n = f"n = {len(tokens['sequences']):,} sequences, {sum(s['n_tokens'] for s in tokens['sequences']):,} tokens"
    caption = (
        "Each cell is the expert of largest probability of one token at one router. The 8 experts of a router that "
        "most tokens shown choose first have a colour, all others are grey with their number; the colours of two "
        "layers have nothing to do with each other. Opacity: its gate weight, full at the largest shown. Outlined: the "
        f"same token, another first expert. No intervals: these are single tokens. Unit: gate weight. {n}, "
        f"{tokens['phase']}."
    )
    title = f"Tokens by layers: {isolated(str(tokens['data']))}"
    sketch = Sketch("map", title, "Map of the first expert of every token at every layer", caption, {})
    return Section("map", "Token x layer map", (Figure({"": sketch}),))


def cards(inputs: Inputs, tokens: Facts | None) -> Section:
    """A card for every expert, made when it is opened, and an index of them. tokens: the data of a token view."""
    parts: list[Part] = [ORDER]
    traced = _traced(inputs, tokens)
    several = len(inputs.runs) > 1
    for place, run in enumerate(inputs.runs):
        profile = inputs.profiles.get(run.name) if run.domains else None
        of_trace = traced if traced and _is_traced(run, tokens) else None
        domains = None if profile is None else domain_series(run.name, profile)
        series = card_series(run, load_series(run), domains, of_trace)
        where = None if profile is None else list(inputs.profiles).index(run.name)
        parts.append(Widget("cards", _cards(series, run, place, where, several)))
    return Section("cards", "Expert cards", tuple(parts))


def _traced(inputs: Inputs, tokens: Facts | None) -> TraceFavourites | None:
    """The favourites of the trace whose tokens are shown."""
    if tokens is None or not inputs.traces:
        return None
    return trace_favourites(inputs.traces[0], tokens["phase"])


def _is_traced(run: Run, tokens: Facts | None) -> bool:
    """Whether the routers and the model of a run are those of the tokens."""
    if tokens is None:
        return False
    keys = ("layer", "router", "n_experts", "top_k")
    ours, theirs = ([[r[key] for key in keys] for r in of["routers"]] for of in (run.report, tokens))
    return ours == theirs and model_name(run.report["model"]) == tokens["model"]


def _cards(series: CardSeries, run: Run, place: int, profile: int | None, several: bool) -> Json:
    """As `MB.widgets.cards` reads it. run: its number on the page; profile: that of its domains."""
    favourites = {
        f"{router} {expert}": [[f.text, f.chosen, f.n_tokens, round(f.expected, 1), float(f"{f.q:.1e}")] for f in those]
        for (router, expert), those in (series.favourites.experts.items() if series.favourites else ())
    }
    return {
        "run": place,
        "title": isolated(series.run) if several else "",
        "domains": f"domains{profile or ''}" if profile is not None else None,
        "routers": [
            {"name": name, "experts": r.n_experts, "top_k": r.top_k, "layer": r.layer, "router": r.router}
            for name, r in zip(series.names, series.routers, strict=True)
        ],
        "findings": [[f.router, f.expert, float(f"{f.times:.3g}"), f.words] for f in series.findings[:LISTED]],
        "found": len(series.findings),
        "near": NEAREST,
        **_near("partners", series, series.partners),
        **_near("following", series, series.following),
        "favourites": favourites if series.favourites else None,
        "null": f"Null: {NULL}; {series.favourites.tests:,} looked at." if series.favourites else "",
        "n": n_of(run.report["data"]["n_sequences"], run.report["data"]["n_tokens"], unit_of_text(run.report["model"])),
    }


def _near(name: str, series: CardSeries, every: Sequence[Sequence[Sequence[Neighbour]]]) -> dict[str, HostArray | bool]:
    """Numbers, tokens and hundredths of the lift of `NEAREST` neighbours of every expert, router by router."""
    rows = []
    for router, of_router in zip(series.routers, [*every, *[()] * (len(series.routers) - len(every))], strict=True):
        for expert in range(router.n_experts):
            near = list(of_router[expert]) if of_router else []
            rows += [(n.expert, n.count, min(0xFFFF, round(100 * n.lift))) for n in near]
            rows += [(NOBODY, 0, 0)] * (NEAREST - len(near))
    columns = np.array(rows, dtype=np.int64).T
    known = any(map(len, every))
    return {name: columns[0], f"{name}_counts": columns[1], f"{name}_lifts": columns[2], f"{name}_known": known}
