"""Layer by expert load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import StatsError
from ...types import Json
from ..figures import (
    ORDERS,
    Favourites,
    LoadSeries,
    arranged,
    favourite_domains,
    grouped,
    kinds_of,
    load_heat,
    load_series,
)
from ..inputs import Inputs, Run, View
from ..names import model_name
from ._heat import FADED_WORDS, Panel, any_faded, draw_even
from .base import Plot, Span, headed, heading, intervals_of, plain, views, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pages(inputs: Inputs, span: Span | None = None, order: str = "number", flagged: bool = False) -> list[Figure]:
    """One panel per run or domain and kind of router; order, flagged: as for `arranged`."""
    every = views(inputs, "loads", span)
    if order == "domain" and not all(run.domains for run in inputs.runs):
        raise StatsError("Experts have a favourite among several domains: give a profile, or stats pairs of several.")
    return draw_load(every, order, flagged, _favourites(inputs.runs, span))


def draw(inputs: Inputs, span: Span | None = None, order: str = "number", flagged: bool = False) -> Figure:
    """The first of `pages`."""
    return pages(inputs, span, order, flagged)[0]


def draw_load(
    every: Sequence[View],
    order: str = "number",
    flagged: bool = False,
    favourites: Sequence[Favourites | None] | None = None,
) -> list[Figure]:
    """Loads as multiples of the even share; beside each router its busiest expert's share of tokens with its band.

    favourites: of the experts of each view. Raises `StatsError` where no layer is ``flagged``.
    """
    one = len(every) == 1
    series = [load_series(view) for view in every]
    most = max(loads.most for loads in series)
    panels = [
        Panel(name, rest, grouped(load_heat(loads, most, kind, brief=not one), _of(liked, view, kind)))
        for view, loads, liked in zip(every, series, favourites or [None] * len(every), strict=True)
        for name, rest, kind in _named(view, loads, alone=one)
    ]
    panels = [replace(panel, heat=arranged(panel.heat, order, flagged)) for panel in panels]
    panels = [panel for panel in panels if panel.heat.rows]
    if not panels:
        raise StatsError("No layer is flagged here.")
    beside = "right of a row: share of tokens of its busiest expert"
    marks = "".join(dict.fromkeys(loads.marks for loads in series))
    beside += marks.replace("; *", "; filled, *").replace("; ?", "; hollow, ?")
    how = intervals_of(every, ["top_share_token"], "brackets" if one else "bands of plot shares")
    how += f"; {FADED_WORDS}" if any_faded(panels) else ""
    return headed(draw_even(panels), heading(every, beside, how, *_arrangement(panels, order, flagged)))


def _arrangement(panels: Sequence[Panel], order: str, flagged: bool) -> list[str]:
    words = ["flagged layers only"] if flagged else []
    if order != "number":
        heats = [panel.heat for panel in panels if order == "domain"]
        used = {(int(group), heat.group_names[group]) for heat in heats for row in heat.groups for group in row}
        which = f" ({', '.join(plain(name, 20) for _, name in sorted(used))})" if used else ""
        words.append(f"experts in the order of {ORDERS[order].replace('domain', f'domain{which}', 1)}")
    return ["; ".join(words)] if words else []


def _favourites(runs: Sequence[Run], span: Span | None) -> list[Favourites | None]:
    """Of each of `views`, with the routers of the layers of ``span``."""
    every = []
    for run in runs:
        found = favourite_domains(run)
        if found is not None and span is not None:
            inside = (span[0] <= router["layer"] <= span[1] for router in run.report["routers"])
            found = Favourites(found.domains, tuple(compress(found.experts, inside)))
        every += [found] * max(1, len(run.domains))
    return every


def _of(favourites: Favourites | None, view: View, kind: str) -> Favourites | None:
    """Those of the routers of one kind."""
    if favourites is None:
        return None
    inside = (router["router"] == kind for router in view.report["routers"])
    return Favourites(favourites.domains, tuple(compress(favourites.experts, inside)))


def _named(view: View, loads: LoadSeries, *, alone: bool) -> Iterator[tuple[str, str, str]]:
    """Name, the rest of the title, and kind of router of each panel; a view that stands alone needs no name."""
    kinds = kinds_of(tuple(r.router for r in loads.routers))
    name, size = ("", "") if alone else (view.name, view.size)
    for kind in kinds:
        yield name, f"{size}\n{kind} routers".lstrip("\n") if len(kinds) > 1 else size, kind


def plot_load(report: Json, path: Path) -> list[Path]:
    """The picture of one routing report, as ``analyze --plot`` writes it; returns its files, one a page."""
    return write_picture(path, lambda: draw_load([View(model_name(report["model"]), report)]))


PLOT = Plot(
    "load",
    "Layer x expert load, as multiples of the even share.",
    "stats pairs or profiles",
    draw,
    ("span", "order", "flagged"),
    pages,
)
