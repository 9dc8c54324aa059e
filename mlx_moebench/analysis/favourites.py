"""The favourite tokens of every expert of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.trace import Trace
from ..routing.favourites import Favourites, favourite_ids
from ..routing.record import Phase
from .vocabulary import tokens_of

MOST = 5
"""Favourites of an expert that are kept."""


@dataclass(frozen=True)
class Favourite:
    """One token of an expert: its text, how many of its ``n_tokens`` chose the expert, how many would by chance, q."""

    text: str
    chosen: int
    n_tokens: int
    expected: float
    q: float


@dataclass(frozen=True)
class TraceFavourites:
    """By the number of the router and the expert, those of q < ``level``, the largest excess of tokens first.

    n_tokens: that counted, those that repeat an earlier text left out. tests: experts and tokens that were looked at.
    """

    experts: dict[tuple[int, int], list[Favourite]]
    n_tokens: int
    tests: int
    level: float


def trace_favourites(path: str | Path, phase: Phase = "prefill", *, level: float = 0.05) -> TraceFavourites:
    """The favourites of all experts of a trace, tested together.

    Tokens that follow the same text as others do, from its beginning, count once. Reads the ids and experts of the
    whole trace into memory. Raises `TraceError` for a bad trace.
    """
    trace = Trace(path)
    ids, sequence, experts = tokens_of(trace, trace.specs, phase)
    texts = trace.texts()
    found: list[tuple[float, int, int, int, Favourites]] = []
    tests = 0
    for number, spec in enumerate(trace.specs):
        one = favourite_ids(ids, experts[spec.name], sequence, spec.n_experts)
        tests += one.p.size
        found += [(float(one.p[x, e]), number, int(e), int(x), one) for x, e in np.argwhere(one.p < level)]
    kept: dict[tuple[int, int], list[Favourite]] = {}
    found.sort(key=lambda entry: entry[0])
    for q, (_, number, expert, x, one) in zip(_q_values([p for p, *_ in found], tests), found, strict=True):
        if q < level:
            text = texts.get(int(one.ids[x]), "")
            numbers = int(one.chosen[x, expert]), int(one.n_tokens[x]), float(one.expected[x, expert])
            kept.setdefault((number, expert), []).append(Favourite(text, *numbers, q))
    for place, those in kept.items():
        kept[place] = sorted(those, key=lambda f: f.expected - f.chosen)[:MOST]
    return TraceFavourites(kept, int((ids >= 0).sum()), tests, level)


def _q_values(p: list[float], tests: int) -> list[float]:
    """Benjamini and Hochberg's of the smallest of so many tests, ascending; those left out are larger."""
    raw = np.array(p) * tests / np.arange(1, len(p) + 1)
    return [float(q) for q in np.minimum(1.0, np.minimum.accumulate(raw[::-1])[::-1])]
