"""A series of made-up checkpoints whose routers move from one choice to another, without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from routing_reference import ENVIRONMENT, MODEL, probabilities

from mlx_moebench import RoutingStats
from mlx_moebench.analysis.checkpoints import Stage
from mlx_moebench.analysis.course import Chosen, Course
from mlx_moebench.options import Options, Plan
from mlx_moebench.pair.seal import sealed_text
from mlx_moebench.routing import RouterSpec, Routing, tally
from mlx_moebench.routing.tokens import ranked

SPECS = tuple(RouterSpec(layer, layer, "mlp", 8, 2) for layer in range(3))
PLAN = Plan(resamples=100)


def chosen(part: float, specs: Sequence[RouterSpec] = SPECS, rows: int = 12, length: int = 9) -> Chosen:
    """Of the way from one random choice of every token to another the ``part``, in [0, 1]."""
    source = {"name": "made up", "max_length": 64, "padding": "right, masked", "bos": None}
    stats = RoutingStats(specs, sources={"a" * 64: source}, model=MODEL, environment=ENVIRONMENT)
    every: list[list[Any]] = [[] for _ in specs]
    for row in range(rows):
        stats.texts["a" * 64, row] = row
        for number, spec in enumerate(specs):
            rng = np.random.default_rng((row, number))
            first, last = 2 * rng.standard_normal((2, 1, length, spec.n_experts))
            z = ((1 - part) * first + part * last).astype(np.float32)
            p = probabilities(z, "softmax")
            indices = np.argsort(-p, axis=-1)[..., : spec.top_k].astype(np.int32)
            weights = np.take_along_axis(p, indices, -1).astype(np.float32)
            record = Routing(z, indices, weights, np.ones((1, length), bool), "softmax")
            stats.add(number, [("a" * 64, row)], tally(record))
            every[number].append(ranked(indices[0], weights[0])[0])
    experts = tuple(np.concatenate(rows) for rows in every)
    lengths = np.full(rows, length)
    return Chosen(stats, experts, np.arange(rows), lengths, np.linspace(0, 1, len(specs)) * part)


def report(parts: Sequence[float] = (0, 0.4, 0.8, 1), specs: Sequence[RouterSpec] = SPECS, plan: Plan = PLAN) -> Any:
    """The report of checkpoints so far along."""
    every = [chosen(part, specs) for part in parts]
    series = [Stage(f"step-{100 * number}", f"runs/step-{100 * number}", 100 * number) for number in range(len(parts))]
    course = Course(series, every[-1], plan)
    for number, one in enumerate(every):
        course.add(number, one, every[number - 1] if number else None)
    return course.report(Options(plan=plan))


def write(path: Path, **changes: Any) -> Path:
    """`report` as a file."""
    path.write_text(sealed_text(report(**changes)), encoding="utf-8")
    return path


def plain(content: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(content))
