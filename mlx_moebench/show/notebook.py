"""`RoutingStats` in a notebook: their table with the heatmap of the load, and every kind of picture."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import Plan
from ..pair.stats import RoutingStats
from ..printable import one_line
from ..types import Facts
from .domains import DomainReports
from .inputs import Inputs, Run, View, between
from .names import HEADS, flag_of, model_name, sizes
from .numbers import number, with_interval
from .plots import check_plot, get_plot, write_picture
from .plots.base import picture
from .plots.load import draw_load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (("mean_entropy", 3), ("top_share_token", 2), ("top_load_ratio", 2), ("n_eff", 1))
"""Metrics of the table, and their digits."""


class Picture:
    """A picture that a notebook shows, drawn when it is looked at or saved."""

    def __init__(self, draw: Callable[[], Figure]) -> None:
        self._draw = draw

    @cached_property
    def png(self) -> bytes:
        """The bytes of the PNG file."""
        return picture(".png", self._draw)

    def save(self, path: str | Path) -> Path:
        """Write it as the suffix says: .png, .svg or .pdf; raises `StatsError` for another."""
        check_plot(Path(path))
        write_picture(Path(path), self._draw)
        return Path(path)

    def _repr_png_(self) -> bytes:
        return self.png


def plot(stats: RoutingStats, kind: str, path: str | Path | None, plan: Plan, layers: Sequence[int] | None) -> Picture:
    """The picture of a kind, written to ``path`` if there is one."""
    chosen = get_plot(kind)
    inputs = inputs_of(stats, plan)
    arguments = (inputs,) if layers is None or "layers" not in chosen.options else (inputs, tuple(layers))
    made = Picture(lambda: chosen.draw(*arguments))
    if path is not None:
        made.save(path)
    else:
        _ = made.png  # what cannot be drawn is an error now, and not where it is shown
    return made


def inputs_of(stats: RoutingStats, plan: Plan) -> Inputs:
    """One run, with the reports of its domains where it has several."""
    report = stats.report(plan)
    parts = stats.by_domain() if stats.several_domains else {}
    domains = DomainReports(parts, {}, plan)
    run = Run(model_name(report["model"]), report, stats, domains, parts)
    profiles = {run.name: between(stats, domains, plan)} if domains else {}
    return Inputs((run,), profiles, plan=plan)


def html(stats: RoutingStats) -> str:
    """A table of the routers with their intervals, and the load of every expert below it."""
    if not stats.clusters:
        return f"<p>{escape(one_line(repr(stats)))}</p>"
    report = stats.report()
    name, data = model_name(report["model"]), report["data"]["name"]
    image = base64.b64encode(picture(".png", lambda: draw_load([View(name, report)]))).decode()
    rows = "".join(f"<tr>{''.join(f'<td>{escape(one_line(cell))}</td>' for cell in row)}</tr>" for row in _rows(report))
    heads = "".join(f"<th>{escape(head)}</th>" for head in _heads(report))
    return (
        f"<div><p><b>{escape(one_line(name))}</b> on {escape(one_line(data))}: {escape(sizes(report))}</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f'<img alt="Layer by expert load" style="max-width: 100%" src="data:image/png;base64,{image}"></div>'
    )


def _heads(report: Facts) -> list[str]:
    named = [HEADS[metric] for metric, _ in COLUMNS]
    return ["layer", "router", *named, HEADS["dead_experts"], "word" if "words_by_router" in report else "above tau"]


def _rows(report: Facts) -> Iterator[list[str]]:
    for r in report["routers"]:
        shown = [with_interval(r[metric], r["ci"].get(metric), digits) for metric, digits in COLUMNS]
        last = r["findings"]["word"] if "findings" in r else flag_of(r, report["settings"])
        yield [str(r["layer"]), r["router"], *shown, number(r["dead_experts"], 0), str(last)]
