"""Figures that others published, and what a measurement says of each: which quantity it can be, and whether it agrees.

A published figure that does not say of what it is a share is held against every quantity it may be. What the range of
a quantity excludes (with the model's E and K) cannot be meant, whatever is measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_moebench.errors import DataError
from mlx_moebench.options import COLLAPSE_SHARES, Plan
from mlx_moebench.pair.stats import RoutingStats
from mlx_moebench.routing.metrics import get_metric

ENTROPIES = ("mean_entropy", "load_entropy", "marginal_entropy", "topk_entropy")
"""What a published "mean entropy" may be the mean over layers of."""

QUANTITIES = {
    "top_share_token": "of tokens",
    "top_share_selection": "of selections",
    "top_share_top1": "of first choices",
    "mean_entropy": "of p, mean over tokens",
    "load_entropy": "of the load",
    "marginal_entropy": "of p averaged over tokens",
    "topk_entropy": "of the gate weights",
}

ROWS = {"model", "hub_id", "parameters", "n_experts", "top_k", "figures"}


def read_published(path: Path) -> dict[str, Any]:
    """The published rows with source and protocol; raises `DataError` for a file that does not hold them."""
    try:
        published: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no JSON file that can be read ({error}).") from error
    rows = published.get("rows") if isinstance(published, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= ROWS for row in rows):
        raise DataError(f"{path} holds no published rows: each has {', '.join(sorted(ROWS))}.")
    return published


def possible(metric: str, figure: Mapping[str, Any], n_experts: int, top_k: int) -> str | None:
    """Why ``figure`` (value, half its last digit as ``rounding``) cannot be ``metric``; None where it can."""
    of = get_metric(metric)
    low, high = of.low(n_experts, top_k), of.high(n_experts, top_k)
    if figure["value"] - figure["rounding"] > high:
        return f"it is at most {high:.3g} with top-{top_k} of {n_experts}"
    if figure["value"] + figure["rounding"] < low:
        return f"it is at least {low:.3g} with top-{top_k} of {n_experts}"
    return None


def possible_names(metrics: tuple[str, ...], figure: Mapping[str, Any], n_experts: int, top_k: int) -> list[str]:
    """Those of ``metrics`` that ``figure`` can be."""
    return [name for name in metrics if possible(name, figure, n_experts, top_k) is None]


def collapse_impossible(share: str, tau: float, figure: Mapping[str, Any], n_experts: int, top_k: int) -> str | None:
    """Why a published fraction of collapsed routers cannot have been decided on ``share``; None where it can."""
    of = get_metric(share)
    low, high = of.low(n_experts, top_k), of.high(n_experts, top_k)
    if figure["value"] - figure["rounding"] > 0 and high <= tau:
        return f"this share is at most {high:.3g} with top-{top_k} of {n_experts}, so never above {tau:g}"
    if figure["value"] + figure["rounding"] < 1 and low > tau:
        return f"this share is at least {low:.3g} with top-{top_k} of {n_experts}, so always above {tau:g}"
    return None


def held_against(row: Mapping[str, Any], stats: RoutingStats, plan: Plan | None = None) -> list[dict[str, Any]]:
    """Every published figure of a row against what was measured, for each quantity it may be and each kind of router.

    Entries: figure, quantity, router, published, rounding, value, low, high, reason (why there is no interval), verdict
    and why. Verdicts: ``cannot be this`` (by its range, with the published model's E and K), ``another model`` (the
    measured E or K are others), ``reproduced`` (the interval meets the rounded figure), ``differs``, ``no interval``.
    """
    entries: list[dict[str, Any]] = []
    for share in COLLAPSE_SHARES:
        of = RoutingStats.merge([stats])
        of.collapse_on = share
        report = of.report(plan)
        for kind, summary in report["summary_by_router"].items():
            forms = sorted({(s.top_k, s.n_experts) for s in stats.specs if s.router == kind})
            other = (
                None
                if forms == [(row["top_k"], row["n_experts"])]
                else f"measured with top-{forms[0][0]} of {forms[0][1]}"
            )
            entries += _entries(row, share, kind, summary, other, stats.tau)
            if share == COLLAPSE_SHARES[0]:
                entries += _entropies(row, kind, summary, other)
    order = ("collapsed_fraction", "mean_entropy", "peak_share")
    return sorted(entries, key=lambda entry: order.index(entry["figure"]))


def _entries(
    row: Mapping[str, Any], share: str, kind: str, summary: Mapping[str, Any], other: str | None, tau: float
) -> Iterator[dict[str, Any]]:
    """The two figures that are about a share."""
    experts, k, figures = row["n_experts"], row["top_k"], row["figures"]
    if "collapsed_fraction" in figures:
        why = collapse_impossible(share, tau, figures["collapsed_fraction"], experts, k)
        yield _entry(figures, "collapsed_fraction", share, kind, summary["collapsed_fraction"], why, other)
    if "peak_share" in figures:
        why = possible(share, figures["peak_share"], experts, k)
        yield _entry(figures, "peak_share", share, kind, summary[f"peak_{share}"], why, other)


def _entropies(
    row: Mapping[str, Any], kind: str, summary: Mapping[str, Any], other: str | None
) -> Iterator[dict[str, Any]]:
    figures = row["figures"]
    for name in ENTROPIES if "mean_entropy" in figures else ():
        why = possible(name, figures["mean_entropy"], row["n_experts"], row["top_k"])
        yield _entry(figures, "mean_entropy", name, kind, summary[name], why, other)


def _entry(
    figures: Mapping[str, Any],
    figure: str,
    quantity: str,
    kind: str,
    measured: Mapping[str, Any],
    why: str | None,
    other: str | None,
) -> dict[str, Any]:
    published, rounding = figures[figure]["value"], figures[figure]["rounding"]
    value, low, high = (measured[key] for key in ("value", "low", "high"))
    reason = measured.get("reason")
    if why is not None:
        verdict = "cannot be this"
    elif other is not None:
        verdict, why = "another model", other
    elif low is None:
        verdict, why = "no interval", reason
    else:
        meets = low <= published + rounding and high >= published - rounding
        verdict = "reproduced" if meets else "differs"
        why = f"the interval {'meets' if meets else 'misses'} {published:g} +- {rounding:g}"
    return {
        "figure": figure,
        "quantity": quantity,
        "router": kind,
        "published": published,
        "rounding": rounding,
        "value": value,
        "low": low,
        "high": high,
        "reason": reason,
        "verdict": verdict,
        "why": why,
    }


def in_words(entries: Sequence[Mapping[str, Any]]) -> str:
    """One verdict on one published figure, from its entries of `held_against`."""

    def named(verdict: str) -> str:
        several = len({e["router"] for e in entries}) > 1
        chosen = (e for e in entries if e["verdict"] == verdict)
        return "; ".join(QUANTITIES[e["quantity"]] + (f", {e['router']} routers" if several else "") for e in chosen)

    first = next(e["figure"] for e in entries)
    parts = []
    if named("another model"):
        parts.append("not tested: a stand-in was measured")
    elif named("reproduced"):
        parts.append(f"reproduced within the interval as: {named('reproduced')}")
    elif named("differs"):
        parts.append(f"differs, also as what it can be: {named('differs')}")
    if named("no interval"):
        parts.append(f"not decided, no interval: {named('no interval')}")
    if named("cannot be this"):
        what = "cannot have been decided on the share" if first == "collapsed_fraction" else "cannot be"
        ruled_out = dict.fromkeys(QUANTITIES[e["quantity"]] for e in entries if e["verdict"] == "cannot be this")
        parts.append(f"{what} {', '.join(ruled_out)}")
    return ". ".join(part[0].upper() + part[1:] for part in parts)


def weights_gb(parameters: int, bits: int) -> float:
    """GB (10^9 bytes) of so many weights; below 16 bit with a scale and a bias of 16 bit for each group of 64."""
    return parameters * (bits if bits >= 16 else bits + 32 / 64) / 8 / 1e9


def bits_that_fit(parameters: int, memory_gb: float) -> int | None:
    """16 where the weights take no more than `USABLE` of the memory, else 4 where those do, else None."""
    return next((bits for bits in (16, 4) if weights_gb(parameters, bits) <= USABLE * memory_gb), None)


USABLE = 2 / 3
"""Share of a Mac's memory for weights: macOS lets the GPU use about that much of 24 GB, and the rest is needed, too."""
