"""Each domain's share of every expert."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...types import Facts
from ..figures import DomainSeries, domain_heat, domain_series, kinds_of
from ..inputs import Inputs
from ..numbers import percent
from ._heat import FADED_WORDS, Panel, any_faded, draw_even
from .base import Plot, Span, headed, write_picture
from .domains import over, profiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BESIDE = 24
"""Routers of a panel up to which those of several domains stand side by side, the words beside the last alone."""


def pages(inputs: Inputs, span: Span | None = None) -> list[Figure]:
    """A panel per profile, domain and kind of router, with the words at the right of the last."""
    return draw_specialisation(profiles(inputs, "specialisation", span))


def draw(inputs: Inputs, span: Span | None = None) -> Figure:
    """The first of `pages`."""
    return pages(inputs, span)[0]


def draw_specialisation(every: Sequence[DomainSeries]) -> list[Figure]:
    """Shares of each domain's tokens as multiples of the even share K/E."""
    panels, most = [], max(one.most for one in every)
    for one in every:
        for kind in (kinds := kinds_of(one.ids)):
            for place, domain in enumerate(one.domains):
                name = f"{one.name}: {domain}" if len(every) > 1 else domain
                rest = f"\n{kind} routers" if len(kinds) > 1 else ""
                words = place + 1 == len(one.domains) or len(one.routers) > BESIDE
                panels.append(Panel(name, rest, domain_heat(one, place, kind, most, words=words)))
    how = f"right of a row: its word; {_bands(every)}" + (f"; {FADED_WORDS}" if any_faded(panels) else "")
    return headed(draw_even(panels), *(over(one) for one in every), how)


def _bands(every: Sequence[DomainSeries]) -> str:
    """How far the shares may be off, at most, or why nobody knows."""
    routers = [r for one in every for r in one.routers]
    if any(np.isfinite(r.low).any() for r in routers):
        widest = max(float(np.nanmax(r.high - r.low)) for r in routers if np.isfinite(r.low).any())
        return f"{percent(every[0].level)} simultaneous intervals: at most {widest:.3f} of the tokens wide"
    return f"no intervals: {next((r.reason for r in routers if r.reason), 'not computed')}"


def plot_specialisation(profile: Facts, path: Path) -> list[Path]:
    """The picture of one model of a profile with ``settings``, of ``profile --plot``; returns its files, one a page."""
    return write_picture(path, lambda: draw_specialisation([domain_series(str(profile["name"]), profile)]))


PLOT = Plot(
    "specialisation",
    "Layer x expert shares of every domain, with the words.",
    "a profile, or stats pairs of one model on two or more domains",
    draw,
    ("span",),
    pages,
)
