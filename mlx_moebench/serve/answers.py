"""What ``GET /routing`` says."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

from .. import __version__
from ..routing.metrics import METRICS
from ..routing.record import Phase, RouterSpec
from ..routing.sums import Sums
from ..types import Json
from .models import Served, ServedModels
from .window import Totals

PHASES: tuple[Phase, ...] = get_args(Phase)
VERSION = "1"
"""Of what `routing` returns."""


def routing(models: ServedModels, phases: Sequence[str] = PHASES, over: Sequence[str] = ("all", "window")) -> Json:
    """Everything about the current model, and which there were before; of these phases, over these times."""
    served = models.current
    return {
        "version": VERSION,
        "mlx_moebench": __version__,
        "now": _time(time.time()),
        "since": _time(models.began),
        "window_seconds": models.settings.window,
        "model": None if served is None else _model(served),
        "phases": {} if served is None else _phases(served, phases, over),
        "other_models": [_brief(one) for one in list(models.every.values()) if one is not served],
    }


def last_tokens(models: ServedModels) -> Json:
    """What the routers chose for the last tokens of the latest request, see `LastTokens`; most: 0 where none are."""
    served = models.current
    stats = None if served is None else served.stats
    if stats is None or stats.last is None:
        return {"most": models.settings.last_tokens, "latest": None}
    with stats.holding():  # adds what has run
        return stats.last.answer(stats.specs)


def values(spec: RouterSpec, sums: Sums) -> Json:
    """The numbers of one router: tokens, entropy in nats, its busiest expert, that one's share of the tokens, experts
    without a selection, and the load, shares of all selections that add up to 1."""
    counts = sums.counts
    tokens = int(sums.n_tokens)
    named = {name: _number(METRICS[metric].values(sums)) for name, metric in MEASURED.items()}
    return {
        "tokens": tokens,
        **named,
        "dead_experts": int(METRICS["dead_experts"].values(sums)) if tokens else None,
        "busiest_expert": int(counts.argmax()) if tokens else None,
        "load": [_number(share) for share in sums.load] if tokens else [None] * spec.n_experts,
    }


MEASURED = {"entropy": "mean_entropy", "top_share": "top_share_token"}
"""Our metrics by the names that they have in answers."""


def _phases(served: Served, phases: Sequence[str], over: Sequence[str]) -> Json:
    totals = served.look()
    seconds, recent = served.window.of(totals)
    found: Json = {}
    for phase in PHASES:
        if phase not in phases or phase not in totals:
            continue
        parts: Mapping[str, Totals] = {"all": totals, "window": recent}
        found[phase] = {name: _routers(served, parts[name][phase]) for name in ("all", "window") if name in over}
        if "window" in over:
            found[phase]["window"]["seconds"] = round(seconds, 3)
    return found


def _routers(served: Served, sums: Sequence[Sums]) -> Json:
    assert served.stats is not None
    routers = [
        {"layer": s.layer, "router": s.router, "n_experts": s.n_experts, "top_k": s.top_k, **values(s, one)}
        for s, one in zip(served.stats.specs, sums, strict=True)
    ]
    return {"tokens": routers[0]["tokens"], "routers": routers}


def _model(served: Served) -> Json:
    stats = served.stats
    dropped = {} if stats is None else dict(stats.dropped)
    return {
        **_brief(served),
        "recorded": stats is not None,
        "reason": served.why,
        "facts": {} if stats is None else stats.model,
        "not_recorded": [
            {"reason": why, "forwards": lost.forwards, "positions": lost.positions} for why, lost in dropped.items()
        ],
    }


def _brief(served: Served) -> Json:
    return {
        "name": served.name,
        "tokens": {phase: int(sums[0].n_tokens) for phase, sums in served.totals().items()},
        "saved": None if served.saved_at is None else _time(served.saved_at),
        "files": served.files,
    }


def _number(value: Any) -> float | None:
    return None if not math.isfinite(value) else float(f"{float(value):.6g}")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
