"""Cells of the audit: accuracy by subjects, two models on the same questions, and trainings with several seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from audit_metrics import RESAMPLES, Measure, Tally
from scipy.special import ndtr

from mlx_moebench.evaluate.accuracy import accuracy, mcnemar, paired
from mlx_moebench.evaluate.seeds import over_seeds
from mlx_moebench.options import Plan

SUBJECTS = {
    "12 of 25": [25] * 12,
    "57 of 8": [8] * 57,
    "12 of 2": [2] * 12,
    "4, 4 and 500": [4, 4, 500],
    "10, 20, 40, 80": [10, 20, 40, 80],
}


def answers() -> Iterator[tuple[str, Measure]]:
    """Accuracy, and the difference of two models, where each differs from subject to subject."""
    for name in SUBJECTS:
        for mean in (0.3, 0.6, 0.9):
            yield f"{name}, {mean:g}", _answers(SUBJECTS[name], mean)


def _answers(sizes: list[int], mean: float) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        n = np.array(sizes)
        share = np.clip(mean + 0.1 * np.linspace(-1, 1, len(n)), 0.02, 0.98)
        only = 0.15 * share, 0.15 * (1 - share)
        weights = {"macro": np.full(len(n), 1 / len(n)), "micro": n / n.sum()}
        tallies = {f"{what} {name}": Tally() for what in ("accuracy", "difference") for name in weights}
        rng, rejected = np.random.default_rng([seed, len(n)]), 0
        even = np.stack([np.full(len(n), 0.1), np.full(len(n), 0.1), np.full(len(n), 0.8)], axis=-1)
        for number in range(sets):
            plan = Plan(resamples=RESAMPLES, seed=number)
            pairs = rng.multinomial(n, np.stack([*only, 1 - only[0] - only[1]], axis=-1))
            equal = rng.multinomial(n, even)
            rejected += mcnemar(int(equal[:, 0].sum()), int(equal[:, 1].sum())) <= 0.05
            for what, results, truth in (
                ("accuracy", accuracy(rng.binomial(n, share), n, plan), share),
                ("difference", paired(pairs[:, 0], pairs[:, 1], n, plan), only[1] - only[0]),
            ):
                for name, (value, interval) in results.items():
                    if interval.low is not None:
                        tallies[f"{what} {name}"].add(value, interval, float(truth @ weights[name]))
        given = {name: len(tally.values) / sets for name, tally in tallies.items()}
        inside = {name: t.inside / len(t.values) if len(t.values) >= 30 else None for name, t in tallies.items()}
        return {"given": given, "inside": inside, "mcnemar": rejected / sets}

    return measure


def seeds() -> Iterator[tuple[str, Measure]]:
    """The mean difference of two trainings over seeds, on 12 subjects of 25 questions that all seeds answer."""
    for of_seeds, of_questions, of_both in ((0, 0.5, 1), (0.1, 0.5, 1), (0.3, 0.5, 1), (0.1, 1, 0.3), (0, 0, 1)):
        for n in (2, 3, 5):
            yield f"{of_seeds:g}, {of_questions:g}, {of_both:g}, S {n}", _seeds(of_seeds, of_questions, of_both, n)


def _seeds(of_seeds: float, of_questions: float, of_both: float, n: int) -> Measure:
    def measure(sets: int, seed: int) -> dict[str, Any]:
        subjects = [str(number // 25) for number in range(300)]
        spread, rng = float(np.hypot(np.hypot(of_seeds, of_questions), of_both)), np.random.default_rng([seed, n])
        truth = float(ndtr((0.2 - 1.2) / spread) - ndtr((-1.2 - 0.2) / spread))
        inside = rejected = alone = 0
        for _ in range(sets):
            z = of_questions * rng.standard_normal(300) + of_both * rng.standard_normal((n, 300))
            z += of_seeds * rng.standard_normal((n, 1))
            apart = (z + 0.2 > 1.2) * 1.0 - (z + 0.2 < -1.2)
            entry = over_seeds(apart, subjects)["macro"]
            inside += entry["low"] <= truth <= entry["high"]
            rejected += over_seeds((z > 1.2) * 1.0 - (z < -1.2), subjects)["macro"].get("p_value", 1) <= 0.05
            means = apart.mean(axis=1)
            alone += abs(means.mean() - truth) <= T_975[n] * means.std(ddof=1) / n**0.5
        return {"inside": inside / sets, "rejected": rejected / sets, "seeds_alone": alone / sets}

    return measure


T_975 = {2: 12.706, 3: 4.303, 5: 2.776}
"""Quantiles of Student's t of n - 1 degrees of freedom."""
