"""Each domain's share of every expert."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..figures import DomainSeries, domain_series
from ..inputs import Inputs
from ..numbers import percent
from ._heat import Heat, draw_even, padded
from .base import Plot, lines, write_picture
from .domains import over, profiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs) -> Figure:
    """A panel per profile, domain and kind of router, with the verdicts at the right of the last."""
    return draw_specialisation(profiles(inputs, "specialisation"))


def draw_specialisation(found: Sequence[DomainSeries]) -> Figure:
    """Shares of each domain's tokens as multiples of the even share K/E."""
    panels = []
    for one in found:
        for kind in (kinds := dict.fromkeys(r.router.router for r in one.routers)):
            routers = [r for r in one.routers if r.router.router == kind]
            for place, domain in enumerate(one.domains):
                name = f"{one.name}: {domain}" if len(found) > 1 else domain
                rest = f"\n{kind} routers" if len(kinds) > 1 else ""
                words = [r.word or "no verdict" for r in routers] if place + 1 == len(one.domains) else []
                layers = [str(r.router.layer) for r in routers]
                panels.append(Heat(name, rest, padded([r.ratios[place] for r in routers]), layers, words))
    figure = draw_even(panels, "share of the domain's tokens, multiple of the even share (1 = even)")
    said = "right of a row: its verdict; " + _bands(found)
    figure.suptitle(lines(*(over(one) for one in found), said))
    return figure


def _bands(found: Sequence[DomainSeries]) -> str:
    """How far the shares may be off, at most, or why nobody knows."""
    routers = [r for one in found for r in one.routers]
    widest = max((r.band for r in routers if math.isfinite(r.band)), default=math.nan)
    if math.isfinite(widest):
        return f"{percent(found[0].level)} simultaneous intervals: within +- {widest:.3f} of the tokens"
    return f"no intervals: {next((r.reason for r in routers if r.reason), 'not computed')}"


def plot_specialisation(profile: Mapping[str, Any], path: Path) -> None:
    """The picture of one model of a profile with its ``settings``, as ``profile --plot`` writes it."""
    write_picture(path, lambda: draw_specialisation([domain_series(str(profile["name"]), profile)]))


PLOT = Plot(
    "specialisation",
    "Layer x expert shares of every domain, with the verdicts.",
    "a profile, or stats pairs of one model on two or more domains",
    draw,
)
