"""Accuracy from answers: intervals that keep subjects apart, chance, and two models on the same questions.

Subjects are fixed and questions are the sample, so questions are resampled inside each subject. An answer is right or
wrong: resampling the n questions of a subject with replacement draws a binomial number of right ones, and for two
models a multinomial number of each kind of pair. Resampling n questions varies by (n - 1) / n of what n questions do,
which matters for subjects of 8 questions; deviations inside a subject are therefore multiplied by sqrt(n / (n - 1))
(Rao and Wu 1988), and percentiles are taken at Student's t levels (Hesterberg 2015). An average over subjects with
weights w has (sum w^2/n)^2 / sum (w^2/n)^2/(n - 1) degrees of freedom (Satterthwaite 1946): N - S for S alike ones of N
questions, and about 4 where a subject of 5 has the weight of one of 1,000. Below 9 there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import binomtest

from ..errors import EvaluationError
from ..options import Plan
from ..routing.intervals.bootstrap import MIN_CLUSTERS, Interval
from ..types import Facts, Json

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CHANCE = 0.25
"""Accuracy of guessing among four choices."""

POWER = 0.80
ONE_POINT = 0.01
METHOD = "percentile bootstrap over questions inside each subject"


def wilson(right: int, n: int, level: float = 0.95) -> Interval:
    """Interval of a share of ``n`` independent answers (Wilson 1927); none for fewer than 10."""
    if n < MIN_CLUSTERS:
        return Interval(reason=_too_few(n))
    z = float(ndtri((1 + level) / 2))
    centre = (right + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(right * (n - right) / n + z**2 / 4)
    return Interval(max(centre - half, 0.0), min(centre + half, 1.0), "Wilson")


def accuracy(right: Counts, n: Counts, plan: Plan) -> dict[str, tuple[float, Interval]]:
    """{"macro": mean of the subjects' accuracies, "micro": share of all questions}, each with its interval.

    right, n: [S] right answers and questions of each subject, n >= 1.
    """
    share = right / n
    drawn = np.random.default_rng(plan.seed).binomial(n, share, size=(plan.resamples, len(n))) / n
    reason = _no_interval(n)
    if reason is None and np.all((right == 0) | (right == n)):
        reason = "each subject is answered all right or all wrong, so resampling its questions says nothing"
    return _averaged(share, drawn, n, plan, (0.0, 1.0), reason)


def paired(first_only: Counts, second_only: Counts, n: Counts, plan: Plan) -> dict[str, tuple[float, Interval]]:
    """Accuracy of the second model minus that of the first, {"macro": ..., "micro": ...} with intervals.

    first_only, second_only: [S] questions of each subject that only one of the two got right; n: [S] questions.
    """
    shares = np.stack([first_only, second_only, n - first_only - second_only], axis=-1) / n[:, None]
    counts = np.random.default_rng(plan.seed).multinomial(n, shares, size=(plan.resamples, len(n)))
    differences = _averaged(
        (second_only - first_only) / n, (counts[..., 1] - counts[..., 0]) / n, n, plan, (-1.0, 1.0), _no_interval(n)
    )
    if not np.any(first_only + second_only):
        why = "no question was answered right by one model only, so resampling cannot leave 0"
    elif not np.any(_pair_variance(first_only, second_only, n)):
        why = "the difference is the same on every question of a subject, so resampling cannot vary"
    else:
        return differences
    return {
        name: (value, ci if ci.low is None else Interval(ci.low, ci.high, ci.method, reason=why))
        for name, (value, ci) in differences.items()
    }


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided exact p of equal accuracy: discordant pairs fall either way with probability 1/2. 1 without any."""
    discordant = first_only + second_only
    return float(binomtest(first_only, discordant).pvalue) if discordant else 1.0


def smallest_detectable(first_only: Counts, second_only: Counts, n: Counts, level: float = 0.95) -> Json:
    """Difference in accuracy that such questions show with 80% power, and the questions that show one point.

    (z_level + z_power) x the standard error of the paired difference, from the variance inside each subject. Without a
    discordant pair the rate of them is taken as 3 / N, its upper 95% bound (rule of three). An effect d needs
    discordant pairs on at least a share d of the questions, so their variance is at least d (1 - d) and d is at least
    k / (1 + k), k = (z_level + z_power)^2 / N: the smallest effect if the two models differ in one direction only.
    For the macro difference N is the number of equally weighted questions of the same variance, 1 / sum w^2.
    """
    z2 = float(ndtri((1 + level) / 2) + ndtri(POWER)) ** 2
    total, subjects = int(n.sum()), len(n)
    variance = _pair_variance(first_only, second_only, n)
    detectable: Json = {"power": POWER, "level": round(1 - level, 6), "questions_for_one_point": {}}
    for name, weight in (("macro", np.full(subjects, 1 / subjects)), ("micro", n / total)):
        effective = 1 / float(np.sum(weight**2 / n))
        if not np.any(first_only + second_only):
            error2 = 3 / total / effective
        else:
            error2 = float(np.sum(weight**2 * variance / n))
        least = z2 / effective / (1 + z2 / effective)
        detectable[name] = min(1.0, max(math.sqrt(z2 * error2), least)) if math.isfinite(error2) else None
        for_point = max(z2 * error2 / ONE_POINT**2, z2 * (1 - ONE_POINT) / ONE_POINT / effective)
        detectable["questions_for_one_point"][name] = math.ceil(total * for_point) if math.isfinite(error2) else None
    if detectable["macro"] is None:
        detectable["reason"] = "a subject has 1 question, from which nothing is known of its variance"
    return detectable


def summarise(questions: Sequence[Facts], plan: Plan | None = None) -> Json:
    """``subjects``, one entry each, and ``results`` over all: accuracies with intervals, chance, ties, shots used.

    questions: as a report lists them; at least one.
    """
    plan = plan or Plan()
    names, right, n = _by_subject([(str(q["subject"]), bool(q["correct"])) for q in questions])
    accuracies = accuracy(right, n, plan)
    shots = [q["shots"] for q in questions]
    results: Json = {
        f"{name}_accuracy": {"value": value, "level": plan.level, **ci.to_dict()}
        for name, (value, ci) in accuracies.items()
    }
    results |= {
        "chance": CHANCE,
        "reading": _against_chance(accuracies["macro"][1]),
        "n": len(questions),
        "ties": sum(bool(q["tied"]) for q in questions),
        "shots": {"mean": float(np.mean(shots)), "min": min(shots), "max": max(shots)},
        "truncated": sum(bool(q["truncated"]) for q in questions),
    }
    subjects = [
        {"subject": name, "n": int(m), "correct": int(k), "accuracy": float(k / m)}
        | wilson(int(k), int(m), plan.level).to_dict()
        for name, k, m in zip(names, right, n, strict=True)
    ]
    return {"subjects": subjects, "results": results}


def compare_answers(first: Facts, second: Facts, plan: Plan | None = None) -> Json:
    """The second model against the first on the same questions: difference, exact test, what could have been seen.

    first, second: reports of `evaluate_mmlu`, or what `read_evaluation` gives. Positive differences mean that the
    second is better. Raises EvaluationError for runs that are not complete, and for other data, questions or shots.
    """
    plan = plan or Plan()
    _check_pair(first, second)
    pairs = [(q["subject"], bool(q["correct"]), bool(r["correct"])) for q, r in _pairs(first, second)]
    names, first_only, n = _by_subject([(subject, x and not y) for subject, x, y in pairs])
    _, second_only, _ = _by_subject([(subject, y and not x) for subject, x, y in pairs])
    both = sum(x and y for _, x, y in pairs)
    b, c, total = int(first_only.sum()), int(second_only.sum()), int(n.sum())
    differences = paired(first_only, second_only, n, plan)
    return {
        "n": total,
        "n_subjects": len(names),
        **{
            f"{name}_difference": {"value": value, "level": plan.level, **ci.to_dict()}
            for name, (value, ci) in differences.items()
        },
        "mcnemar": {
            "first_only": b,
            "second_only": c,
            "both": both,
            "neither": total - both - b - c,
            "p_value": mcnemar(b, c),
            "method": "exact binomial on discordant pairs, two-sided",
        },
        "smallest_detectable": smallest_detectable(first_only, second_only, n, plan.level),
    }


def _averaged(
    share: Floats, drawn: Floats, n: Counts, plan: Plan, ends: tuple[float, float], reason: str | None
) -> dict[str, tuple[float, Interval]]:
    """Macro and micro average of ``share`` [S], with the percentiles of the resampled shares ``drawn`` [B, S]."""
    averaged = {}
    for name, weight in (("macro", np.full(len(n), 1 / len(n))), ("micro", n / n.sum())):
        value = float(share @ weight)
        ci = Interval(reason=reason)
        if reason is None and (free := degrees_of_freedom(weight, n)) < MIN_CLUSTERS - 1 - 1e-9:
            ci = Interval(
                reason=f"it rests on subjects of so few questions that {free:.1f} degrees of freedom are left"
            )
        elif reason is None:
            averages = value + (np.sqrt(n / (n - 1)) * (drawn - share)) @ weight
            tail = ndtr(stdtrit(free, (1 - plan.level) / 2))
            low, high = np.clip(np.quantile(averages, [tail, 1 - tail]), *ends)
            ci = Interval(float(low), float(high), METHOD)
        averaged[name] = value, ci
    return averaged


def degrees_of_freedom(weight: Floats, n: Counts) -> float:
    """Of the variance of an average of subjects with n > 1 questions each, if answers vary alike in all."""
    parts = weight**2 / n
    return float(parts.sum() ** 2 / np.sum(parts**2 / (n - 1)))


def _pair_variance(first_only: Counts, second_only: Counts, n: Counts) -> Floats:
    """[S] sample variance of the paired differences, -1, 0 or 1; NaN for a subject of 1 question."""
    difference = (second_only - first_only) / n
    squares = first_only + second_only - n * difference**2
    variance: Floats = np.divide(squares, n - 1, out=np.full(len(n), np.nan), where=n > 1)
    return variance


def _by_subject(answers: Sequence[tuple[str, bool]]) -> tuple[list[str], Counts, Counts]:
    """(names in order of appearance, how many are true, how many there are) of each subject."""
    names, numbers = np.unique([name for name, _ in answers], return_inverse=True)
    true = np.bincount(numbers, weights=[value for _, value in answers], minlength=len(names)).astype(np.int64)
    return [str(name) for name in names], true, np.bincount(numbers, minlength=len(names)).astype(np.int64)


def _no_interval(n: Counts) -> str | None:
    if n.sum() < MIN_CLUSTERS:
        return _too_few(int(n.sum()))
    if np.any(n < 2):
        return "a subject has 1 question, and resampling inside it cannot vary"
    return None


def _too_few(n: int) -> str:
    are = "question is" if n == 1 else "questions are"
    return f"{n} {are} too few for an interval: {MIN_CLUSTERS} or more are needed"


def _against_chance(ci: Interval) -> str:
    if ci.low is None or ci.high is None:
        return f"Whether this is more than guessing cannot be said: {ci.reason}."
    if ci.low > CHANCE:
        return f"Macro accuracy is above {CHANCE}, what guessing gives."
    if ci.high < CHANCE:
        return f"Macro accuracy is below {CHANCE}, what guessing gives."
    return f"The interval of macro accuracy contains {CHANCE}: indistinguishable from guessing."


def _check_pair(first: Facts, second: Facts) -> None:
    for which, report in (("first", first), ("second", second)):
        if "questions" not in report or "data" not in report:
            raise EvaluationError(f"The {which} is not a report of evaluate --task mmlu; give two of them.")
        if not report.get("complete"):
            raise EvaluationError(f"The {which} run is not complete; finish it with --resume, then compare.")
    x, y = first["data"]["sha256"], second["data"]["sha256"]
    if x != y:
        raise EvaluationError(f"The two runs read other data (sha256 {x[:12]} and {y[:12]}); evaluate both on one.")
    if [_place(q) for q in first["questions"]] != [_place(q) for q in second["questions"]]:
        raise EvaluationError("The two runs answered other questions; give both the same subjects and limit.")
    for q, r in _pairs(first, second):
        if (q["shots"], q["truncated"]) != (r["shots"], r["truncated"]):
            raise EvaluationError(
                f"Row {q['row']} of {q['subject']} had {q['shots']} shots in one run and {r['shots']} in the other, or "
                "was cut in one of them; give both the same --shots and --max-length."
            )


def _place(question: Facts) -> tuple[str, int]:
    return question["subject"], question["row"]


def _pairs(first: Facts, second: Facts) -> list[tuple[Any, Any]]:
    return list(zip(first["questions"], second["questions"], strict=True))
