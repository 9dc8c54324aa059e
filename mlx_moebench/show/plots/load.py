"""Layer by expert load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...types import Json
from ..figures import LoadSeries, kinds_of, load_heat, load_series
from ..inputs import Inputs, View
from ..names import model_name
from ._heat import FADED_WORDS, Panel, any_faded, draw_even
from .base import Plot, Span, headed, heading, intervals_of, views, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pages(inputs: Inputs, span: Span | None = None) -> list[Figure]:
    """One panel per run or domain and kind of router."""
    return draw_load(views(inputs, "loads", span))


def draw(inputs: Inputs, span: Span | None = None) -> Figure:
    """The first of `pages`."""
    return pages(inputs, span)[0]


def draw_load(every: Sequence[View]) -> list[Figure]:
    """Loads as multiples of the even share; beside each router its busiest expert's share of tokens with its band."""
    one = len(every) == 1
    series = [load_series(view) for view in every]
    most = max(loads.most for loads in series)
    panels = [p for view, loads in zip(every, series, strict=True) for p in _panels(view, loads, most, alone=one)]
    beside = "right of a row: share of tokens of its busiest expert"
    marks = "".join(dict.fromkeys(loads.marks for loads in series))
    beside += marks.replace("; *", "; filled, *").replace("; ?", "; hollow, ?")
    how = intervals_of(every, ["top_share_token"], "brackets" if one else "bands of plot shares")
    how += f"; {FADED_WORDS}" if any_faded(panels) else ""
    return headed(draw_even(panels), heading(every, beside, how))


def _panels(view: View, loads: LoadSeries, most: float, *, alone: bool) -> Iterator[Panel]:
    """One for each kind of router; a view that stands alone needs no name."""
    kinds = kinds_of(tuple(r.router for r in loads.routers))
    name, size = ("", "") if alone else (view.name, view.size)
    for kind in kinds:
        rest = f"{size}\n{kind} routers".lstrip("\n") if len(kinds) > 1 else size
        yield Panel(name, rest, load_heat(loads, most, kind, brief=not alone))


def plot_load(report: Json, path: Path) -> list[Path]:
    """The picture of one routing report, as ``analyze --plot`` writes it; returns its files, one a page."""
    return write_picture(path, lambda: draw_load([View(model_name(report["model"]), report)]))


PLOT = Plot(
    "load", "Layer x expert load, as multiples of the even share.", "stats pairs or profiles", draw, ("span",), pages
)
