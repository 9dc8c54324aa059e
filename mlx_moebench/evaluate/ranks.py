"""Models ranked over several tasks, with intervals over the seeds of their trainings."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit
from scipy.stats import rankdata

from ..errors import EvaluationError
from ..routing.intervals.bootstrap import Interval
from ..routing.sums import Floats

METHOD = "t over seeds"


def average_ranks(scores: npt.ArrayLike) -> Floats:
    """Mean over tasks of each model's rank among the models, 1 for the best.

    scores: [..., M, T] of M models on T tasks, larger is better. Equal scores share the mean of their ranks.

    Formula: mean_t (1 + #{m': s_m't > s_mt} + (#{m': s_m't = s_mt} - 1) / 2); [..., M].
    Unit: rank.
    Range: [1, M]; (M + 1) / 2 by chance.
    Null: raises EvaluationError for a score that is not a number.
    Source: LibMoE, table 2 (Average Rank), whose printed values of two models are swapped.

    >>> average_ranks([[0.5, 0.2], [0.4, 0.2]])
    array([1.25, 1.75])
    """
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise EvaluationError("A model lacks the score of a task, and cannot be ranked: evaluate all on all tasks.")
    return np.asarray(rankdata(-values, axis=-2).mean(axis=-1))


def over_seeds(
    values: npt.ArrayLike, level: float = 0.95, ends: tuple[float, float] = (-math.inf, math.inf)
) -> Interval:
    """Interval of the mean of S runs that differ in their seed, [S], by Student's t, cut at ``ends``.

    It is about other seeds and the same questions. None from one run; runs that are all alike leave no width.
    """
    runs = np.asarray(values, dtype=np.float64)
    if len(runs) < 2:
        return Interval(reason="one run says nothing about other seeds")
    half = float(stdtrit(len(runs) - 1, (1 + level) / 2)) * float(runs.std(ddof=1)) / math.sqrt(len(runs))
    mean = float(runs.mean())
    return Interval(max(mean - half, ends[0]), min(mean + half, ends[1]), METHOD)


def ranked(scores: npt.ArrayLike, level: float = 0.95) -> list[dict[str, object]]:
    """For each of M models its average rank, a mean over seeds, with the interval over them.

    scores: [M, S, T]. The runs of one number are ranked among each other, so that models which were trained on the same
    order of the same text are compared on it (paired by seed); the mean of their ranks is given.
    """
    values = np.asarray(scores, dtype=np.float64)
    by_seed = average_ranks(np.swapaxes(values, 0, 1))  # [S, M]
    ends = (1.0, float(len(values)))
    return [{"value": float(of.mean()), **over_seeds(of, level, ends).to_dict()} for of in by_seed.T]
