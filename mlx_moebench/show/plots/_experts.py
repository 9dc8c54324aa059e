"""Layer by expert: how often each is chosen, and what it adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...types import Facts
from ..colours import sequential_map
from ..names import model_name
from .base import WIDTH, headed, paged, plain, tick, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "frequency": "share of the counted tokens that chose the expert; grey: none",
    "reap": "mean of g |y| over its tokens, over that of the router's experts (REAP); grey: no token",
}
"""What is drawn of each expert, and in which words."""


ROUTERS = 20
"""Of one page."""


def draw_experts(report: Facts) -> list[Figure]:
    """A panel for each of `PANELS`, a row for each router, experts in the order of their shares in all of them."""
    data = report["data"]
    share = f"{100 * report['summary']['never_activated_share']:.1f}% of the experts are never chosen"
    about = f"{plain(model_name(report['model']))} on {plain(data['name'], 40)}: {data['n_counted']:,} tokens, {share}"
    highest = {name: float(np.nanmax(_values(report["routers"], name), initial=0.0)) for name in PANELS}
    pages = [_page(routers, highest) for routers in paged(report["routers"], ROUTERS)]
    return headed(pages, about, "no intervals: they are of routers, not of single experts")


def _page(routers: Sequence[Facts], highest: Mapping[str, float]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.2 + len(PANELS) * (0.7 + 0.16 * len(routers))), layout="constrained")
    for axis, (name, words) in zip(figure.subplots(len(PANELS), 1, squeeze=False)[:, 0], PANELS.items(), strict=True):
        _panel(figure, axis, _values(routers, name), [_row(router) for router in routers], highest[name])
        axis.set_title(words, loc="left")
        axis.set_xlabel("expert, most chosen first")
        axis.set_ylabel("layer")
    return figure


def plot_experts(report: Facts, path: Path) -> list[Path]:
    """The picture of one report, as ``experts --plot`` writes it; returns its files, one a page."""
    return write_picture(path, lambda: draw_experts(report))


def _values(routers: Any, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[routers, most experts]; NaN where there is no expert, or no number, or an expert that nobody chose."""
    values = np.full((len(routers), max(len(router["experts"]) for router in routers)), np.nan)
    for row, router in zip(values, routers, strict=True):
        every = sorted(router["experts"], key=lambda one: -one["frequency"])
        of = np.array([np.nan if one[name] is None or not one["tokens"] else one[name] for one in every])
        row[: len(of)] = of / (np.nanmean(of) if name == "reap" and np.isfinite(of).any() else 1.0)
    return values


def _panel(
    figure: Figure, axis: Any, values: np.ndarray[Any, np.dtype[np.float64]], rows: list[str], highest: float
) -> None:
    colours = sequential_map().with_extremes(bad="0.85")
    image = axis.imshow(values, aspect="auto", cmap=colours, interpolation="nearest", vmin=0.0, vmax=highest)
    axis.set_yticks(range(len(rows)), rows)
    tick(axis.xaxis, whole=True)
    figure.colorbar(image, ax=axis, fraction=0.03, pad=0.01)


def _row(router: Facts) -> str:
    return str(router["layer"]) if router["router"] == "mlp" else f"{router['layer']} {router['router']}"
