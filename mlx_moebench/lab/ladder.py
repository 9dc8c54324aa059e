"""What the runs of a testbed say together: every method between the two bounds, with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t

from ..environment import environment
from ..types import Json
from .methods import METHODS
from .testbed import Testbed

LEVEL = 0.95


class Quantity(NamedTuple):
    """What is compared. limits: of its range, which no interval leaves."""

    words: str
    unit: str
    limits: tuple[float, float] = (0.0, 1.0)


QUANTITIES: Mapping[str, Quantity] = {
    "loss": Quantity("Held-out loss, all domains alike", "nats per token", (0.0, math.inf)),
    "specialisation": Quantity("MI(domain; expert) / ln D", "of the most there can be"),
    "spec_score": Quantity("SpecScore", "of the way from random to reference", (-math.inf, math.inf)),
    "nmi": Quantity("NMI(domain; expert)", "of 1"),
    "purity": Quantity("Purity", "share of selections"),
    "precision": Quantity("Reference precision", "share of selections"),
    "eae": Quantity("H(f) / ln E", "of 1"),
    "max_violation": Quantity("MaxVio, held-out", "times the even load, over it", (0.0, math.inf)),
    "max_violation_batch": Quantity("MaxVio, of a batch", "times the even load, over it", (0.0, math.inf)),
    "dead_experts": Quantity("Dead experts", "experts per router", (0.0, math.inf)),
    "top1_flip": Quantity("First choices that flip, last snapshots", "share of tokens"),
}
"""Means over the routers of a run, then over its seeds."""

ANY = (-math.inf, math.inf)

OF_ROUTERS = ("specialisation", "nmi", "purity", "precision", "eae", "max_violation", "dead_experts")

ORDERED = (
    ("specialisation", "global", "micro-batch", 1),
    ("specialisation", "micro-batch", "sequence", 1),
    ("specialisation", "global", "sequence", 1),
    ("specialisation", "floor-global", "floor-micro-batch", 1),
    ("specialisation", "floor-micro-batch", "floor-sequence", 1),
    ("specialisation", "floor-global", "floor-sequence", 1),
    ("loss", "global", "micro-batch", -1),
    ("loss", "micro-batch", "sequence", -1),
    ("loss", "global", "sequence", -1),
    ("loss", "reference", "global", -1),
)
"""(quantity, method, another, sign of the difference that is expected): wider balance specialises more, and costs no
loss. Source: Qiu et al. 2025 (global-batch balance), and the abstract of MoE Routing Testbed (2026)."""


def interval(values: Sequence[float], limits: tuple[float, float] = ANY, level: float = LEVEL) -> Json:
    """Mean of values of several seeds and its Student's t interval inside limits; from one seed the reason for none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return {"value": None, "low": None, "high": None, "seeds": 0, "reason": "not known"}
    mean, n = float(np.mean(known)), len(known)
    if n < 2:
        return {"value": mean, "low": None, "high": None, "seeds": n, "reason": "one seed gives no interval"}
    half = float(t.ppf((1 + level) / 2, n - 1)) * float(np.std(known, ddof=1)) / math.sqrt(n)
    return {"value": mean, "low": max(mean - half, limits[0]), "high": min(mean + half, limits[1]), "seeds": n}


def quantity(run: Json, name: str) -> float:
    """One of `QUANTITIES` of a run, but for the SpecScore; NaN where it is not known."""
    if name in OF_ROUTERS:
        values = [router[name] for router in run["routers"]]
        return math.nan if any(value is None for value in values) else float(np.mean(values))
    if name == "top1_flip":
        return float(run["flips"][-1]["top1_flip"]) if run["flips"] else math.nan
    return float(run[name])


def result(bed: Testbed, runs: Sequence[Json], command: str | None = None) -> Json:
    """The testbed as JSON has it, from its finished runs; the caller seals it."""
    sizes: dict[str, list[Json]] = {}
    for run in runs:
        sizes.setdefault(run["settings"]["preset"], []).append(run)
    domains = list(bed.domains)
    return {
        "schema_version": "1",
        "kind": "testbed",
        "domains": domains,
        "chance": {"purity": 1 / len(domains), "precision": 1 / len(domains), "specialisation": 0.0},
        "level": LEVEL,
        "quantities": {name: {"words": one.words, "unit": one.unit} for name, one in QUANTITIES.items()},
        "sizes": [_size(preset, of) for preset, of in sizes.items()],
        "environment": environment(),
        "command": command,
    }


def _size(preset: str, runs: Sequence[Json]) -> Json:
    by_method: dict[str, dict[int, Json]] = {}
    for run in runs:
        by_method.setdefault(run["method"], {})[run["seed"]] = run
    scores = _scores(by_method)
    first, settings = runs[0], runs[0]["settings"]
    keys = ("steps", "batch_size", "micro_batch_size", "seq_length", "learning_rate", "held_out")
    return {
        "preset": preset,
        "settings": {key: settings[key] for key in keys}
        | {"n_experts": first["routers"][0]["n_experts"], "top_k": first["routers"][0]["top_k"]},
        "routers": len(first["routers"]),
        "parameters": first["parameters"],
        "tokens_trained": first["tokens_trained"],
        "methods": [_method(name, by_method[name], scores.get(name, {})) for name in METHODS if name in by_method],
        "orders": [_order(by_method, *order) for order in ORDERED if order[1] in by_method and order[2] in by_method],
    }


def _scores(runs: Mapping[str, Mapping[int, Json]]) -> dict[str, dict[int, float]]:
    """SpecScore of every run: (MI - MI of random) / (MI of reference - MI of random), the bounds' means over seeds."""
    bounds = {name: [quantity(run, "specialisation") for run in runs.get(name, {}).values()] for name in _BOUNDS}
    if not all(bounds.values()):
        return {}
    low, high = (float(np.mean(bounds[name])) for name in _BOUNDS)
    return {
        name: {seed: (quantity(run, "specialisation") - low) / (high - low) for seed, run in of.items()}
        for name, of in runs.items()
    }


_BOUNDS = ("random", "reference")


def _method(name: str, runs: Mapping[int, Json], scores: Mapping[int, float]) -> Json:
    method, seeds = METHODS[name], sorted(runs)
    values = {
        key: interval([quantity(runs[seed], key) for seed in seeds], one.limits)
        for key, one in QUANTITIES.items()
        if key != "spec_score"
    }
    no_score = {"value": None, "low": None, "high": None, "seeds": 0, "reason": "a bound was not run"}
    values["spec_score"] = interval([scores[seed] for seed in seeds]) if scores else no_score
    first = runs[seeds[0]]
    return {
        "name": name,
        "title": method.title,
        "scope": method.scope,
        "bound": method.bound,
        "seeds": seeds,
        "values": {key: values[key] for key in QUANTITIES},
        "losses": {domain: interval([runs[s]["losses"][domain] for s in seeds]) for domain in first["losses"]},
        "words": _words([router["word"] for seed in seeds for router in runs[seed]["routers"]]),
        "independent": [_inside_null(runs[seed]) for seed in seeds],
        "flips": _course([runs[seed]["flips"] for seed in seeds]),
        "routers": [
            {key: router[key] for key in ("layer", "information", "owner", "shares", "word", "findings")}
            for router in first["routers"]
        ],
    }


def _inside_null(run: Json) -> Json:
    """Of how many routers the test of independence does not reject at 5%, of those that it was made of, for one run."""
    known = [p for router in run["routers"] if (p := router["information"]["p_value"]) is not None]
    return {"seed": run["seed"], "inside": sum(1 for p in known if p > 1 - LEVEL), "of": len(known)}


def _words(words: Sequence[str | None]) -> dict[str, int]:
    return {str(word or "no word"): words.count(word) for word in dict.fromkeys(words)}


def _course(every: Sequence[Sequence[Json]]) -> list[Json]:
    """Flips at every snapshot, over the seeds that have it."""
    steps = sorted({point["step"] for course in every for point in course})

    def of(step: int, key: str) -> list[float]:
        return [point[key] for course in every for point in course if point["step"] == step]

    return [
        {"step": s, **{key: interval(of(s, key), (0.0, 1.0)) for key in ("top1_flip", "change_rate")}} for s in steps
    ]


def _order(runs: Mapping[str, Mapping[int, Json]], name: str, method: str, other: str, sign: int) -> Json:
    """``method`` less ``other``, paired by seed, and whether that is as expected: yes, no or open."""
    a, b = runs[method], runs[other]
    seeds = sorted(a.keys() & b.keys())
    found: dict[str, Any] = interval([quantity(a[seed], name) - quantity(b[seed], name) for seed in seeds])
    low, high = found["low"], found["high"]
    known = low is not None and not low <= 0 <= high
    answer = ("yes" if (low > 0) == (sign > 0) else "no") if known else "open"
    return {"quantity": name, "method": method, "other": other, "expected": sign, **found, "answer": answer}
