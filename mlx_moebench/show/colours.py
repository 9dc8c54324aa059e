"""The colours of every view: pages, plots, the demo and the live view take them from here.

All are hex. Those of a set, and the grey beside them, are told apart by readers with any kind of colour blindness
(`tests/test_colours.py` has the distances), and all but the palest finding stand out 3 to 1 from their ground.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..types import Json

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap

Stops = tuple[tuple[float, str], ...]
"""(place, colour) of a map, places ascending; between two it is mixed."""

DOMAINS = ("#00598f", "#e87210", "#10976a", "#9316f9", "#8a6108", "#0099ff", "#612612", "#c56bb1")
DOMAINS_DARK = ("#4c91ff", "#f1783d", "#15bf7d", "#9063a9", "#f7d84a", "#2ce5ff", "#a6623b", "#f89fbc")
ALL, ALL_DARK = "#72777e", "#7c8690"
"""Of all domains together."""

EXPERTS, EXPERTS_DARK = DOMAINS, DOMAINS_DARK
"""Of the busiest experts, the busiest first. Sixteen colours that all readers tell apart do not exist: what shows
domains and experts at once colours one of the two."""
OTHER, OTHER_DARK = ALL, ALL_DARK
"""Of all other experts."""
CHOSEN, CHOSEN_DARK = "#000000", "#ffffff"
"""Of an expert that a reader asked for and that is none of the busiest."""

FINDINGS = {
    "collapsed": "#7a0c1a",
    "dominated": "#ce5b00",
    "idle": "#e4b31a",
    "specialised": "#6a4fbf",
    "balanced": "#009975",
    "open": "#a7adb5",
}
"""Of the words for a router."""
FINDINGS_DARK = {
    "collapsed": "#cf3a4e",
    "dominated": "#e48a36",
    "idle": "#ffec64",
    "specialised": "#a984ff",
    "balanced": "#4de4bb",
    "open": "#76808a",
}

DIVERGING: Stops = (
    (-1.0, "#084081"),
    (-0.5, "#5c9ecd"),
    (0.0, "#f6f6f6"),
    (0.35, "#fdb863"),
    (0.7, "#d95f02"),
    (1.0, "#732e00"),
)
"""Blue for less, orange for more, the ground's neutral for even routing, chance or no change, at 0."""
DIVERGING_DARK: Stops = (
    (-1.0, "#78beff"),
    (-0.5, "#346ca0"),
    (0.0, "#24282e"),
    (0.35, "#8c4c16"),
    (0.7, "#de8430"),
    (1.0, "#ffd6a0"),
)

_VIRIDIS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
SEQUENTIAL: Stops = tuple((place / 9, f"#{colour}") for place, colour in enumerate(_VIRIDIS))
"""From 0 to 1, matplotlib's viridis; on either ground."""


def domain_colours(names: Iterable[str], dark: bool = False) -> dict[str, str]:
    """The colour of each domain, by the order in which they are named first; of many they begin anew."""
    colours = DOMAINS_DARK if dark else DOMAINS
    return {name: colours[place % len(colours)] for place, name in enumerate(dict.fromkeys(names))}


def expert_colours(counts: Sequence[int] | np.ndarray, dark: bool = False) -> list[str]:
    """The colour of each expert of a router: those with the most of ``counts`` [E] have their own, the others `OTHER`.

    Of equals the first is the busier; one without any count is none of the busiest.
    """
    busiest, other = (EXPERTS_DARK, OTHER_DARK) if dark else (EXPERTS, OTHER)
    of = np.asarray(counts)
    colours = [other] * len(of)
    for expert, colour in zip(np.argsort(-of, kind="stable"), busiest, strict=False):
        if of[expert] > 0:
            colours[int(expert)] = colour
    return colours


def mixed(stops: Stops, place: float) -> str:
    """The colour of a map at a place, the ends beyond them."""
    places = [at for at, _ in stops]
    after = min(max(bisect_right(places, place), 1), len(stops) - 1)
    (low, a), (high, b) = stops[after - 1], stops[after]
    share = min(max((place - low) / (high - low), 0.0), 1.0)
    return "#" + "".join(f"{round(x + share * (y - x)):02x}" for x, y in zip(_rgb(a), _rgb(b), strict=True))


def _rgb(colour: str) -> list[int]:
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]


def diverging_map(dark: bool = False) -> LinearSegmentedColormap:
    """`DIVERGING` for matplotlib, which puts -1 at 0 and even at a half."""
    stops = DIVERGING_DARK if dark else DIVERGING
    return _matplotlib("diverging", [((place + 1) / 2, colour) for place, colour in stops])


def sequential_map() -> LinearSegmentedColormap:
    """`SEQUENTIAL` for matplotlib."""
    return _matplotlib("sequential", list(SEQUENTIAL))


def _matplotlib(name: str, stops: list[tuple[float, str]]) -> LinearSegmentedColormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, stops, N=1024)


def as_json(domains: Iterable[str] = ()) -> Json:
    """All of them for scripts, by ground; ``names`` are the domains in the order that gives them their colours."""
    return {
        "names": list(dict.fromkeys(domains)),
        "light": _ground(DOMAINS, ALL, EXPERTS, OTHER, CHOSEN, FINDINGS, DIVERGING),
        "dark": _ground(DOMAINS_DARK, ALL_DARK, EXPERTS_DARK, OTHER_DARK, CHOSEN_DARK, FINDINGS_DARK, DIVERGING_DARK),
        "sequential": [list(stop) for stop in SEQUENTIAL],
    }


def _ground(
    domains: Sequence[str],
    every: str,
    experts: Sequence[str],
    other: str,
    chosen: str,
    findings: dict[str, str],
    diverging: Stops,
) -> Json:
    return {
        "domains": list(domains),
        "all": every,
        "experts": list(experts),
        "other": other,
        "chosen": chosen,
        "findings": dict(findings),
        "diverging": [list(stop) for stop in diverging],
    }
