"""The pictures with scripts of their own: the river, the cards of the experts, the map of tokens by layers."""

from __future__ import annotations

from collections.abc import Sequence

from ...types import Facts, Json
from ..figures.base import labels, n_of
from ..figures.river import DEFINITION, RiverSeries, river_series
from ..inputs import Run
from ..names import isolated, unit_of_text
from .parts import Figure, Part, Section, Sketch


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
    return {"run": place, "columns": columns, "moves": [moves.ravel().tolist() for moves in series.moves]}


def token_map(tokens: Facts) -> Section:
    """A sentence down, layers across; what it shows is the data of the token view."""
    n = f"n = {len(tokens['sequences']):,} sequences, {sum(s['n_tokens'] for s in tokens['sequences']):,} tokens"
    caption = (
        "Each cell is the expert of largest probability of one token at one router. The 8 experts of a router that "
        "most tokens of the trace choose first have a colour, all others are grey with their number; the colours of two "
        "layers have nothing to do with each other. Opacity: its gate weight, full at the largest shown. Outlined: the "
        f"same token, another first expert. No intervals: these are single tokens. Unit: gate weight. {n}, "
        f"{tokens['phase']}."
    )
    title = f"Tokens by layers: {isolated(str(tokens['data']))}"
    sketch = Sketch("map", title, "Map of the first expert of every token at every layer", caption, {})
    return Section("map", "Token x layer map", (Figure({"": sketch}),))
