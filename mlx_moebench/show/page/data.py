"""What the page's scripts draw, as JSON: the series, rounded, and large arrays in base64."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...routing.metrics import METRICS
from ..figures import (
    LAYER_METRICS,
    SCORES,
    CoactivationSeries,
    Curve,
    DifferenceSeries,
    DomainSeries,
    Estimate,
    RouterId,
    TrainingSeries,
    UncertaintySeries,
    coactivation_series,
    dead_series,
    difference_series,
    domain_series,
    layer_series,
    load_series,
    training_series,
    uncertainty_series,
)
from ..figures.base import definition, labels, unit_of_text
from ..figures.training import PER_ROUTER
from ..inputs import Inputs, Run
from ..numbers import count

MAX_PAIRS = 3_000_000
"""Bytes that the co-activation of all routers may take, before base64."""

MAX_STEPS = 1_000
"""Steps of a training that are drawn; of more, every n-th."""

DIGITS = 5
"""Significant digits of what is measured; counts are exact."""

Json = dict[str, Any]


def page_data(inputs: Inputs) -> Json:
    """Everything the page draws: ``runs``, ``domains``, ``differences``, ``uncertainty``, ``trainings``, ``metrics``.

    An interval is [value, low, high]; without one it is [value, null, null, number of its reason in ``reasons``].
    """
    reasons = _Reasons()
    share = MAX_PAIRS // max(1, len(inputs.runs))
    return {
        "runs": [_run(run, reasons, share) for run in inputs.runs],
        "domains": [_domains(domain_series(name, found), reasons) for name, found in inputs.profiles.items()],
        "differences": [_differences(difference_series(found), reasons) for found in inputs.comparisons],
        "uncertainty": [_uncertainty(uncertainty_series(found), reasons) for found in inputs.uncertainties],
        "trainings": [_training(training_series(training)) for training in inputs.trainings],
        "reasons": reasons.known,
        "labels": {name: metric.label for name, metric in METRICS.items()},
    }


class _Reasons:
    """Reasons for missing intervals, each kept once."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self._numbers: dict[str, int] = {}

    def __call__(self, reason: str | None) -> int | None:
        if reason is None:
            return None
        if reason not in self._numbers:
            self._numbers[reason] = len(self.known)
            self.known.append(reason)
        return self._numbers[reason]


def rounded(value: float) -> float | None:
    """To `DIGITS` significant digits; None for NaN."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _rounded(values: Iterable[float]) -> list[float | None]:
    return [rounded(float(value)) for value in values]


def _estimate(found: Estimate, reasons: _Reasons) -> list[float | None]:
    numbers = _rounded(found[:3])
    return numbers if found.has_interval else [*numbers[:1], None, None, reasons(found.reason)]


def _routers(routers: Sequence[RouterId]) -> list[Json]:
    return [
        {"label": label, "layer": r.layer, "kind": r.router, "e": r.n_experts, "k": r.top_k}
        for label, r in zip(labels(routers), routers, strict=True)
    ]


def _run(run: Run, reasons: _Reasons, room: int) -> Json:
    whole = load_series(run)
    chance = {name: _rounded(layer_series(run.report, name).chance) for name in LAYER_METRICS}
    return {
        "name": run.name,
        "phase": whole.phase,
        "texts": unit_of_text(run.report["model"]),
        "tau": whole.tau,
        "level": whole.level,
        "routers": _routers([r.router for r in whole.routers]),
        "views": [_view(run, domain, reasons) for domain in (None, *run.domains)],
        "metrics": {name: _metric(run, name) for name in LAYER_METRICS},
        "chance": chance,
        "load": {"unit": whole.unit, "definition": whole.definition},
        "dead": {"unit": "experts", "definition": dead_series(run).definition},
        "coactivation": _coactivation([coactivation_series(run, n) for n in range(len(whole.routers))], room),
    }


def _metric(run: Run, name: str) -> Json:
    series = layer_series(run.report, name)
    return {"unit": series.unit, "definition": series.definition, "reference": series.reference}


def _view(run: Run, domain: str | None, reasons: _Reasons) -> Json:
    """A run on all its data, or on one domain: counts, half-widths of the bands, metrics."""
    load, dead = load_series(run, domain), dead_series(run, domain)
    report = run.report if domain is None else run.domains[domain]
    return {
        "domain": domain,
        "data": load.data if domain is None else domain,
        "n_sequences": load.n_sequences,
        "n_tokens": load.n_tokens,
        "tokens": [r.n_tokens for r in load.routers],
        "counts": [r.counts.tolist() for r in load.routers],
        "below": _rounded(r.below for r in load.routers),
        "above": _rounded(r.above for r in load.routers),
        "reasons": [reasons(r.reason) for r in load.routers],
        "flags": [r.flagged for r in load.routers],
        "dead_expected": _rounded(dead.expected),
        "metrics": {
            name: [_estimate(value, reasons) for value in layer_series(report, name).values] for name in LAYER_METRICS
        },
    }


def _coactivation(every: Sequence[CoactivationSeries], room: int) -> Json:
    """The upper triangles of the pair counts, exactly, of as many routers as there is room for, evenly spread."""
    sizes = [0 if one.pairs is None else _triangle(one.pairs).nbytes for one in every]
    known = [n for n, size in enumerate(sizes) if size]
    kept = set(known)
    if sum(sizes) > room:
        most = max(1, int(len(known) * room / sum(sizes)))
        kept = {known[round(place)] for place in np.linspace(0, len(known) - 1, most)}
    routers: list[Json] = []
    for number, one in enumerate(every):
        entry: Json = {"chance": rounded(one.chance), "lift": rounded(one.chance_lift)}
        if one.pairs is None:
            entry["reason"] = one.reason
        elif number in kept:
            triangle = _triangle(one.pairs)
            entry |= {"bytes": triangle.itemsize, "pairs": _base64(triangle)}
        else:
            entry["reason"] = "left out, so that the page stays small; the stats pair has it"
        routers.append(entry)
    left = len(known) - len(kept)
    note = f"Left out for size: the pairs of {count(left, 'router')} of {len(known)}." if left else ""
    first = every[0] if every else None
    return {"routers": routers, "left_out": note, "definition": first.definition if first else ""}


def _triangle(pairs: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """The pairs above the diagonal, row by row, in the smallest integers that hold them."""
    upper = pairs[np.triu_indices(len(pairs), 1)]
    most = int(upper.max(initial=0))
    return upper.astype("<u2" if most < 1 << 16 else "<u4")


def _base64(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _domains(found: DomainSeries, reasons: _Reasons) -> Json:
    return {
        "name": found.name,
        "domains": list(found.domains),
        "n_sequences": list(found.n_sequences),
        "n_tokens": list(found.n_tokens),
        "texts": unit_of_text(found.model),
        "tau": found.tau,
        "level": rounded(found.level),
        "highest": rounded(found.highest),
        "permutations": found.permutations,
        "definition": found.definition,
        "shares_definition": found.shares_definition,
        "routers": _routers([r.router for r in found.routers]),
        "between": [
            {
                "mi": _estimate(r.mi, reasons),
                "p": rounded(r.mi.p),
                "q": rounded(r.mi.q),
                "null": _rounded((r.null_mean, r.null_high)),
                "nmi": rounded(r.nmi),
                "relative": rounded(r.relative),
                "word": r.word,
                "word_reason": r.word_reason,
                **{name: _estimate(getattr(r, name), reasons) for name in ("a", "b", "r")},
                "c": rounded(r.c),
                "undecided": list(r.undecided),
                "needed": r.needed,
                "band": rounded(r.band),
                "reason": reasons(r.reason),
                "shares": [_rounded(row) for row in r.shares],
                "divergence": [[*pair, _estimate(value, reasons)] for pair, value in r.divergences.items()],
            }
            for r in found.routers
        ],
    }


def _differences(found: DifferenceSeries, reasons: _Reasons) -> Json:
    def effects(row: Mapping[str, Any]) -> Json:
        return {
            name: [*_rounded((e.a, e.b, e.effect.p, e.effect.q)), *_estimate(e.effect, reasons)]
            for name, e in row.items()
        }

    return {
        "names": list(found.names),
        "paired": found.paired,
        "n_sequences": list(found.n_sequences),
        "n_tokens": list(found.n_tokens),
        "level": rounded(found.level),
        "definition": found.definition,
        "units": dict(found.units),
        "definitions": {name: definition(name) for name in METRICS},
        "routers": _routers(found.routers),
        "effects": [effects(row) for row in found.effects],
        "overall": {kind: effects(row) for kind, row in found.overall.items()},
        "flags": [list(pair) for pair in found.flags],
        "loads": [
            {
                "change": None if load.change is None else _rounded(load.change),
                "below": rounded(load.below),
                "above": rounded(load.above),
                "reason": reasons(load.reason),
                "l1": [rounded(load.l1.value), rounded(load.null_mean), rounded(load.null_high), rounded(load.l1.q)],
            }
            for load in found.loads
        ],
    }


def _uncertainty(found: UncertaintySeries, reasons: _Reasons) -> Json:
    def curve(one: Curve) -> Json:
        return {
            "rho": _estimate(one.rho, reasons),
            "x": _rounded(one.scores),
            "loss": [_estimate(value, reasons) for value in one.loss],
            "tokens": list(one.tokens),
        }

    return {
        "name": found.name,
        "n_sequences": found.n_sequences,
        "n_tokens": found.n_tokens,
        "level": rounded(found.level),
        "mean_loss": _estimate(found.mean_loss, reasons),
        "definition": found.definition,
        "routers": _routers([one.router for one in found.curves["entropy"]]),
        "scores": {
            score: {"words": words, "unit": found.score_units[score], "curves": [curve(c) for c in found.curves[score]]}
            for score, words in SCORES.items()
        },
    }


def _training(found: TrainingSeries) -> Json:
    n = len(found.steps)
    every = max(1, math.ceil(n / MAX_STEPS))
    kept = slice(None, None, every)
    bands = {}
    for name, (words, unit) in PER_ROUTER.items():
        rows = [row[np.isfinite(row)] for row in found.routers[name][kept]]
        ends = [_rounded((row.mean(), row.min(), row.max())) if row.size else [None] * 3 for row in rows]
        bands[name] = {"words": words, "unit": unit, "values": ends}
    return {
        "name": found.name,
        "n_steps": n,
        "every": every,
        "n_tokens": found.tokens,
        "definition": found.definition,
        "steps": list(found.steps[kept]),
        "ce": _rounded(found.ce[kept]),
        "routing_loss": _rounded(found.routing_loss[kept]),
        "routers": bands,
        "validation": [list(found.validation[0]), _rounded(found.validation[1])],
        "floors": [x for x in _rounded(found.floors) if x is not None],
    }
