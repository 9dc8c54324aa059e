"""Experts that could be one: pairs alike in weights or outputs, how often both are chosen, and what merging costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import Dataset, reusable
from ..options import Options, Step, quiet_step
from ..routing.contributions import ContributionSums
from ..types import Json
from .changed import run
from .contributed import contributed
from .expert_texts import CHOOSING, JUDGING, corpus_texts
from .expert_weights import check_merging, merged, nearest_pairs, weight_similarity
from .kept_runs import KeptRuns, within
from .tested import SECTIONS, Tested, check_plan, loaded

SCHEMA_VERSION = "1"
KIND = "merging"

FEWEST = 10
"""Tokens that must have chosen both of two experts for their outputs to be called alike."""


def merge_candidates(
    model: Any,
    dataset: Dataset,
    options: Options,
    *,
    pairs: int = 3,
    measure: bool = True,
    step: Step = quiet_step,
) -> Json:
    """The ``pairs`` pairs of each router that are most alike, in weights and in outputs, and what merging one costs.

    Outputs are compared where a token chose both, `FEWEST` times or more, on every second document of ``dataset``.
    measure: on the others, the loss with the nearest pair of each kind of each router merged, one router at a time:
    both experts become their mean, weighted by use. Returns the report as JSON has it, saved after every run.
    """
    check_plan(options.plan)
    runner, checkpoint = loaded(model, options.loading, step)
    if measure:
        check_merging(checkpoint.model)
    dataset = reusable(dataset)
    to_choose, to_judge = (replace(options, reading=replace(options.reading, shard=s)) for s in (CHOOSING, JUDGING))
    texts = corpus_texts(checkpoint, runner.config(checkpoint.model), dataset, to_choose.reading, "all")
    made = contributed(checkpoint, texts, options.reading.rows, within(step, "comparing outputs", 0, 2))
    step("comparing weights", 0, 0)
    alike = weight_similarity(checkpoint.model)
    tested = Tested.begin(runner, checkpoint, dataset, to_judge, step=within(step, "as it is", 1, 2))
    report = tested.report(KIND, SCHEMA_VERSION, {"pairs": pairs, "measure": measure})
    report["chosen_on"] = texts.facts
    for section, sums, of in zip(report["routers"], made.sums, alike, strict=True):
        section["candidates"] = {
            "weights": {"reason": of} if isinstance(of, str) else _pairs(of, sums, of, pairs),
            "outputs": _pairs(_often(sums), sums, of, pairs),
        }
    kept = KeptRuns(
        report, options.saving, (*SECTIONS, "chosen_on"), lambda one: (one["router"], one["alike"], *one["pair"])
    )
    nearest = [
        (number, name, section["candidates"][name][0])
        for number, section in enumerate(report["routers"])
        for name in ("weights", "outputs")
        if measure and isinstance(section["candidates"][name], list) and section["candidates"][name]
    ]
    for place, (number, name, pair) in enumerate(nearest):
        told = within(step, f"{tested.specs[number].name}, alike in {name}", place + 1, len(nearest))
        both = tuple(pair["pair"])
        use = made.sums[number].total("tokens")[list(both)].tolist()

        def arm(number: int = number, name: str = name, both: Any = both, use: Any = use, told: Step = told) -> Json:
            return {"router": number, "alike": name, "pair": list(both), **_cost(tested, number, both, use, told)}

        kept.run((number, name, *both), arm, False)
    kept.save(True)
    return report


def _often(sums: ContributionSums) -> npt.NDArray[np.float64]:
    """[E, E] similarity of the outputs of pairs that enough tokens chose; NaN for the others."""
    n = int(sums.own.sum())
    return np.where(sums.pairs[0] >= FEWEST, sums.pair_similarity, np.nan)[:n, :n]


def _pairs(
    by: npt.NDArray[np.float64], sums: ContributionSums, weights: npt.NDArray[np.float64] | str, most: int
) -> list[Json]:
    """The pairs most alike by ``by`` [E, E], each with both similarities and how often a token chose both."""
    together, tokens, n = sums.pairs[0], sums.total("tokens"), max(sums.n_tokens, 1)
    outputs = sums.pair_similarity
    made = []
    for i, j in nearest_pairs(by, most):
        chance = tokens[i] * tokens[j] / n
        made.append(
            {
                "pair": [i, j],
                "weights": None if isinstance(weights, str) else float(weights[i, j]),
                "outputs": float(outputs[i, j]) if together[i, j] else None,
                "together": int(together[i, j]),
                "lift": float(together[i, j] / chance) if chance else None,
                "frequency": [float(tokens[e] / n) for e in (i, j)],
            }
        )
    return made


def _cost(tested: Tested, number: int, pair: tuple[int, int], use: list[float], step: Step) -> Json:
    with merged(tested.checkpoint.model, number, pair, use):
        after = run(tested.checkpoint, tested.dataset, tested.options, step=step)
    return tested.paired.effect(after)
