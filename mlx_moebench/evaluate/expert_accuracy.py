"""Accuracy of the questions that an expert was chosen in, and whether it is better than the subjects of those explain.

Experts of a topic are chosen in questions of it, and topics differ in how hard they are. Under the null hypothesis the
right answers of a subject fall on its questions at random, so that of the n_s questions of subject s that chose the
expert a hypergeometric number is right; the sum over subjects has the convolution of those as its distribution, which
is what permuting the right answers inside each subject without end would give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from ..routing.intervals.bootstrap import Interval
from .accuracy import wilson

Flags = npt.NDArray[np.bool_]
Subjects = npt.NDArray[np.intp]


@dataclass(frozen=True)
class ExpertAccuracy:
    """n: questions that chose the expert, of which ``right`` were answered right.

    expected: the accuracy that the subjects of those questions have, weighted as they are; p_better: one-sided mid-p of
    as many right ones or more, P(X > right) + P(X = right) / 2. Both NaN for an expert that nobody chose, and p_better
    where every order of the answers gives the same number, as where it was chosen in all questions.
    """

    n: int
    right: int
    expected: float
    p_better: float
    interval: Interval

    @property
    def accuracy(self) -> float:
        """Share of right answers; NaN for an expert that nobody chose."""
        return self.right / self.n if self.n else float("nan")


def expert_accuracy(chose: Flags, correct: Flags, subject: Subjects, level: float = 0.95) -> ExpertAccuracy:
    """Of one expert: chose, correct [Q] of each question, and subject [Q] from 0.

    The interval is Wilson's, which takes questions as independent; none below 10 questions.
    """
    n, right = int(chose.sum()), int((chose & correct).sum())
    if not n:
        return ExpertAccuracy(0, 0, float("nan"), float("nan"), Interval(reason="no question chose it"))
    size = int(subject.max()) + 1
    all_of, right_of, chose_of = (
        np.bincount(subject, weights=flags, minlength=size).astype(np.int64)
        for flags in (np.ones_like(correct), correct, chose)
    )
    expected = float((chose_of * right_of / np.maximum(all_of, 1)).sum() / n)
    return ExpertAccuracy(n, right, expected, _p_better(all_of, right_of, chose_of, right), wilson(right, n, level))


def _p_better(
    all_of: npt.NDArray[np.int64], right_of: npt.NDArray[np.int64], chose_of: npt.NDArray[np.int64], right: int
) -> float:
    """Mid-p of ``right`` or more right ones, of [S] questions, right ones and chosen ones of each subject."""
    chances, least = np.ones(1), 0
    for whole, good, drawn in zip(all_of.tolist(), right_of.tolist(), chose_of.tolist(), strict=True):
        low, high = max(0, drawn + good - whole), min(drawn, good)
        least += low
        if low < high:
            chances = np.convolve(chances, _hypergeometric(np.arange(low, high + 1), whole, good, drawn))
    if len(chances) == 1:
        return float("nan")
    place = right - least
    return float(min(1.0, max(0.0, chances[place + 1 :].sum() + chances[place] / 2)))


def _hypergeometric(x: npt.NDArray[np.int64], whole: int, good: int, drawn: int) -> npt.NDArray[np.float64]:
    """Chance of x good ones among ``drawn`` of ``whole``, ``good`` of them good; scipy's takes 100 times as long."""
    log_p = _log_choose(good, x) + _log_choose(whole - good, drawn - x) - _log_choose(whole, drawn)
    return np.asarray(np.exp(log_p))


def _log_choose(n: int, k: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.asarray(gammaln(n + 1) - gammaln(np.asarray(k) + 1) - gammaln(n - np.asarray(k) + 1))
