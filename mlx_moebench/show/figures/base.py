"""What all series are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...routing.metrics import get_metric
from ...types import Facts
from ..numbers import count, percent, with_interval


class Value(NamedTuple):
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


def router_id(entry: Facts) -> RouterId:
    """The router of an entry of a report; E and K are 0 where the entry does not say them."""
    experts, top_k = entry.get("n_experts", 0), entry.get("top_k", 0)
    return RouterId(entry["layer"], entry["moe_layer"], entry["router"], experts, top_k)


def labels(routers: Sequence[RouterId]) -> list[str]:
    """``3``, or ``3 attention`` where there are several kinds of router."""
    several = len({r.router for r in routers}) > 1
    return [f"{r.layer} {r.router}" if several else str(r.layer) for r in routers]


def in_words(value: Value) -> str:
    """``0.912 [0.905, 0.919]``."""
    return with_interval(value.value, value, 3)


def largest(values: Sequence[Value]) -> int:
    """Number of the largest value; an undefined one is the last choice."""
    return max(range(len(values)), key=lambda n: (values[n].value == values[n].value, values[n].value))


def value_of(value: float | None, entry: Facts | None = None) -> Value:
    """From JSON, where null is None: a value and the entry with its low, high, reason, p and q."""
    entry = entry or {}
    reason = entry.get("reason")
    numbers = {name: or_nan(entry.get(name)) for name in ("low", "high", "p", "q")}
    return Value(or_nan(value), reason=None if reason is None else str(reason), **numbers)


def or_nan(value: Any) -> float:
    """NaN for None."""
    return math.nan if value is None else float(value)


def definition(metric: str) -> str:
    """What a metric means, and its formula: the first sentence and the formula of its docstring."""
    text = get_metric(metric).function.__doc__ or ""
    first = " ".join(text.partition("\n\n")[0].split())
    formula = text.partition("Formula:")[2].partition("\n    Unit:")[0]
    return f"{first} {' '.join(formula.split())}".strip()


def n_of(n_sequences: int, n_tokens: int, noun: str = "sequence") -> str:
    """``n = 104 sequences, 12,300 tokens``."""
    return f"n = {count(n_sequences, noun)}, {count(n_tokens, 'token')}"


def intervals_of(values: Iterable[Value], level: float, shown_as: str = "Bars") -> str:
    """``Bars: 95% intervals over sequences``, or why there are none."""
    known = list(values)
    if any(value.has_interval for value in known):
        return f"{shown_as}: {percent(level)} intervals over sequences"
    return f"No intervals: {next((v.reason for v in known if v.reason), 'none can be given')}"
