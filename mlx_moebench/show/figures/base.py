"""What all series are made of."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...routing.metrics import get_metric

_LEFT_TO_RIGHT = frozenset(("L", "EN", "ES", "ET", "CS", "NSM", "ON", "WS", "BN", "B", "S", ""))
_CONTROLS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
"""Classes of the Unicode bidirectional algorithm: those that need nothing, and those that turn what follows."""


class Estimate(NamedTuple):
    """A value with its interval; NaN where there is none, and ``reason`` then says why. p, q: of a test, or NaN."""

    value: float
    low: float = math.nan
    high: float = math.nan
    reason: str | None = None
    p: float = math.nan
    q: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether low and high are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class RouterId:
    """Which router: its absolute layer, its ordinal among those with a router, its kind; E and K."""

    layer: int
    moe_layer: int
    router: str
    n_experts: int
    top_k: int

    @property
    def even(self) -> float:
        """K/E: an expert's share of tokens under even routing."""
        return self.top_k / self.n_experts


def router_id(found: Mapping[str, Any]) -> RouterId:
    """The router of an entry of a report; E and K are 0 where the entry does not say them."""
    experts, top_k = found.get("n_experts", 0), found.get("top_k", 0)
    return RouterId(found["layer"], found["moe_layer"], found["router"], experts, top_k)


def labels(routers: Sequence[RouterId]) -> list[str]:
    """``3``, or ``3 attention`` where there are several kinds of router."""
    several = len({r.router for r in routers}) > 1
    return [f"{r.layer} {r.router}" if several else str(r.layer) for r in routers]


def estimate(value: float | None, ci: Mapping[str, Any] | None = None) -> Estimate:
    """From JSON, where null is None: a value and the entry with its low, high, reason, p and q."""
    ci = ci or {}
    reason = ci.get("reason")
    numbers = {name: number(ci.get(name)) for name in ("low", "high", "p", "q")}
    return Estimate(number(value), reason=None if reason is None else str(reason), **numbers)


def isolated(name: str) -> str:
    """A name for the middle of a sentence: one of a right-to-left script stands between isolates, less its own."""
    if all(unicodedata.bidirectional(character) in _LEFT_TO_RIGHT for character in name):
        return name
    return f"\u2068{''.join(c for c in name if unicodedata.bidirectional(c) not in _CONTROLS)}\u2069"


def unit_of_text(model: Mapping[str, Any]) -> str:
    """What was counted: sequences, or the files that imported counts came in."""
    return "count file" if model.get("backend") == "counts" else "sequence"


def number(value: Any) -> float:
    """NaN for None."""
    return math.nan if value is None else float(value)


def definition(metric: str) -> str:
    """What a metric means, and its formula: the first sentence and the formula of its docstring."""
    text = get_metric(metric).function.__doc__ or ""
    first = " ".join(text.partition("\n\n")[0].split())
    formula = text.partition("Formula:")[2].partition("\n    Unit:")[0]
    return f"{first} {' '.join(formula.split())}".strip()
