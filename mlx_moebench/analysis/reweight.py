"""Gate weights scaled towards experts whose questions were answered right: chosen on some questions, judged on others.

What Chernov 2025 (arXiv 2502.17187) suggests and does not measure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import Dataset
from ..errors import MoebenchError
from ..instrument.changes import Reweighted
from ..instrument.interventions import check_changes
from ..options import Options, Step, quiet_step
from ..types import Json
from .answers import Questions, halves
from .contributed import Contributed, contributed
from .expert_texts import Positions, Texts, question_texts
from .experts import flags_of
from .kept_runs import KeptRuns, within
from .rankings import shrunk_accuracy
from .tested import SECTIONS, Tested, check_plan, loaded

SCHEMA_VERSION = "1"
KIND = "reweighting"


def reweight(
    model: Any,
    dataset: Dataset,
    options: Options,
    *,
    questions: Questions | None = None,
    positions: Positions = "last",
    strength: float = 1.0,
    shuffled: int = 5,
    step: Step = quiet_step,
) -> Json:
    """Scale every gate weight by (accuracy of the expert's questions / accuracy of all) ^ strength, and judge it.

    Accuracies are shrunk (`rankings.PRIOR`), and the weights of a token go on to sum to what they did. Every second
    question of each subject chooses the factors, the others judge the accuracy, and ``dataset`` the loss. shuffled: how
    often the factors of each router are dealt to its experts at random, for comparison. Returns the report as JSON has
    it, saved after every run. Raises `MoebenchError` for a strength of 0 or less, and where no answer is right.
    """
    check_plan(options.plan)
    if not 0 < strength < float("inf"):
        raise MoebenchError(f"A strength is above 0, got {strength:g}.")
    questions = questions or Questions()
    choosing, judging = halves(questions.read())
    runner, checkpoint = loaded(model, options.loading, step)
    check_changes(checkpoint.model)
    texts = question_texts(checkpoint, runner.config(checkpoint.model), choosing, positions, questions.shots)
    made = contributed(checkpoint, texts, options.reading.rows, within(step, "choosing", 0, shuffled + 2))
    factors = factors_of(made, texts, strength)
    tested = Tested.begin(runner, checkpoint, dataset, options, judging, within(step, "as it is", 1, shuffled + 2))
    report = tested.report(
        KIND,
        SCHEMA_VERSION,
        {"towards": "accuracy", "strength": strength, "shuffled": shuffled, "positions": positions},
    )
    for section, factor in zip(report["routers"], factors.values(), strict=True):
        section["factors"] = factor.tolist()
    report["chosen_on"] = texts.facts
    kept = KeptRuns(report, options.saving, (*SECTIONS, "chosen_on"), lambda one: (one["towards"], one["seed"]))
    arms: list[tuple[str, int | None]] = [("accuracy", None)]
    arms += [("shuffled", options.plan.seed + n) for n in range(shuffled)]
    for place, (name, seed) in enumerate(arms):
        change = Reweighted(factors if seed is None else _dealt(factors, seed))
        told = within(step, name if seed is None else f"shuffled, seed {seed}", place + 2, shuffled + 2)

        def arm(change: Reweighted = change, name: str = name, seed: int | None = seed, told: Step = told) -> Json:
            _, effect = tested.run(lambda: change, step=told)
            return {"towards": name, "seed": seed, **effect}

        kept.run((name, seed), arm, place + 1 == len(arms))
    return report


def factors_of(made: Contributed, texts: Texts, strength: float) -> dict[int, npt.NDArray[np.float64]]:
    """Of each router [R]; 1 for an expert that no question chose."""
    correct, _ = flags_of(made.answers)
    assert correct is not None
    if not correct.any():
        raise MoebenchError("No answer of the questions that choose is right, so that no expert is: ask for more.")
    factors = {}
    for number, sums in enumerate(made.sums):
        values, whole = shrunk_accuracy(sums.chosen[texts.units.labels], correct)
        factors[number] = (values / whole) ** strength
    return factors


def _dealt(factors: dict[int, npt.NDArray[np.float64]], seed: int) -> dict[int, npt.NDArray[np.float64]]:
    return {number: np.random.default_rng((seed, number)).permutation(one) for number, one in factors.items()}
