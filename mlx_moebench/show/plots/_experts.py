"""Layer by expert: how often each is chosen, and what it adds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...types import Facts
from ..names import model_name
from .base import WIDTH, lines, plain, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "frequency": "share of the counted tokens that chose the expert; grey: none",
    "reap": "mean of g |y| over its tokens, over that of the router's experts (REAP); grey: no token",
}
"""What is drawn of each expert, and in which words."""


def draw_experts(report: Facts) -> Figure:
    """A panel for each of `PANELS`, a row for each router, experts in the order of their shares in all of them."""
    from matplotlib.figure import Figure

    routers = report["routers"]
    figure = Figure(figsize=(WIDTH, 1.2 + len(PANELS) * (0.7 + 0.16 * len(routers))), layout="constrained")
    for axis, (name, words) in zip(figure.subplots(len(PANELS), 1, squeeze=False)[:, 0], PANELS.items(), strict=True):
        _panel(figure, axis, _values(routers, name), [_row(router) for router in routers])
        axis.set_title(words, loc="left")
        axis.set_xlabel("expert, most chosen first")
        axis.set_ylabel("layer")
    data = report["data"]
    share = f"{100 * report['summary']['never_activated_share']:.1f}% of the experts are never chosen"
    about = f"{plain(model_name(report['model']))} on {plain(data['name'], 40)}: {data['n_counted']:,} tokens, {share}"
    figure.suptitle(lines(about, "no intervals: they are of routers, not of single experts"))
    return figure


def plot_experts(report: Facts, path: Path) -> None:
    """The picture of one report, as ``experts --plot`` writes it."""
    write_picture(path, lambda: draw_experts(report))


def _values(routers: Any, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[routers, most experts]; NaN where there is no expert, or no number, or an expert that nobody chose."""
    values = np.full((len(routers), max(len(router["experts"]) for router in routers)), np.nan)
    for row, router in zip(values, routers, strict=True):
        every = sorted(router["experts"], key=lambda one: -one["frequency"])
        of = np.array([np.nan if one[name] is None or not one["tokens"] else one[name] for one in every])
        row[: len(of)] = of / (np.nanmean(of) if name == "reap" and np.isfinite(of).any() else 1.0)
    return values


def _panel(figure: Figure, axis: Any, values: np.ndarray[Any, np.dtype[np.float64]], rows: list[str]) -> None:
    import matplotlib as mpl

    colours = mpl.colormaps["viridis"].with_extremes(bad="0.85")
    image = axis.imshow(values, aspect="auto", cmap=colours, interpolation="nearest", vmin=0.0)
    step = -(-len(rows) // 16)
    axis.set_yticks(range(0, len(rows), step), rows[::step])
    figure.colorbar(image, ax=axis, fraction=0.03, pad=0.01)


def _row(router: Facts) -> str:
    return str(router["layer"]) if router["router"] == "mlp" else f"{router['layer']} {router['router']}"
