"""Intervals of accuracy, the exact test, and the smallest detectable difference, against simulation and SciPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, t

pytest.importorskip("mlx.core", reason="the package of the module under test imports MLX")

from mlx_moebench.errors import EvaluationError
from mlx_moebench.evaluate.accuracy import (
    accuracy,
    compare_answers,
    mcnemar,
    paired,
    smallest_detectable,
    summarise,
    wilson,
)
from mlx_moebench.routing import Plan

Z2 = (1.959964 + 0.841621) ** 2


def counts(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def answers(right: dict[str, list[int]], shots: int = 5) -> dict[str, Any]:
    """A report of so many answers: {subject: 1 for right, 0 for wrong}."""
    questions = [
        {
            "subject": subject,
            "row": row,
            "shots": shots,
            "truncated": False,
            "correct": bool(value),
            "tied": False,
        }
        for subject, values in right.items()
        for row, value in enumerate(values)
    ]
    return {"complete": True, "data": {"sha256": "f" * 64}, "questions": questions}


def test_wilson_against_scipy() -> None:
    for right, n in ((0, 10), (3, 25), (25, 25), (140, 300)):
        expected = binomtest(right, n).proportion_ci(method="wilson")
        found = wilson(right, n)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    few = wilson(3, 9)
    assert few.low is None
    assert "9 questions are too few" in str(few.reason)


def test_macro_and_micro() -> None:
    found = accuracy(counts(5, 30), counts(10, 40), Plan())
    assert found["macro"][0] == pytest.approx((0.5 + 0.75) / 2)
    assert found["micro"][0] == pytest.approx(35 / 50)
    # Standard errors of stratified means, by the formula.
    within = counts(5, 30) / counts(10, 40) * (1 - counts(5, 30) / counts(10, 40)) / (counts(10, 40) - 1)
    for name, weight in (("macro", np.array([0.5, 0.5])), ("micro", np.array([0.2, 0.8]))):
        ci = found[name][1]
        assert ci.low is not None
        assert ci.high is not None
        half = (ci.high - ci.low) / 2
        parts = weight**2 / counts(10, 40)
        free = parts.sum() ** 2 / (parts**2 / (counts(10, 40) - 1)).sum()
        assert half == pytest.approx(t.ppf(0.975, free) * math.sqrt(float(weight**2 @ within)), rel=0.06)


def test_a_subject_of_few_questions_is_not_hidden_by_a_large_one() -> None:
    """As if it had the degrees of freedom of all questions, a 95% interval of the macro average covered 80%."""
    few = accuracy(counts(2, 3, 300), counts(4, 4, 500), Plan())
    assert few["macro"][1].reason == "it rests on subjects of so few questions that 6.0 degrees of freedom are left"
    assert few["micro"][1].low is not None
    pair = paired(counts(1, 1, 20), counts(1, 0, 30), counts(4, 4, 500), Plan())
    assert pair["macro"][1].low is None
    assert pair["micro"][1].low is not None


def test_the_interval_depends_on_the_seed_only() -> None:
    a, b, c = (accuracy(counts(9, 12, 8), counts(25, 25, 25), Plan(seed=s))["macro"][1] for s in (0, 0, 1))
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("right", "n", "words"),
    [
        ((2, 3), (4, 5), "9 questions are too few"),
        ((0,), (1,), "1 question is too few"),
        ((5, 1), (20, 1), "a subject has 1 question"),
        ((20, 0), (20, 15), "all right or all wrong"),
    ],
)
def test_no_interval_has_a_reason(right: tuple[int, ...], n: tuple[int, ...], words: str) -> None:
    for _, ci in accuracy(counts(*right), counts(*n), Plan()).values():
        assert ci.low is None
        assert words in str(ci.reason)


def covered(sizes: np.ndarray, share: np.ndarray, samples: int, seed: int) -> dict[str, float]:
    """How often the intervals contain the truth."""
    rng = np.random.default_rng(seed)
    truth = {"macro": share.mean(), "micro": float(share @ sizes) / sizes.sum()}
    inside = dict.fromkeys(truth, 0)
    for sample in range(samples):
        found = accuracy(rng.binomial(sizes, share).astype(np.int64), sizes, Plan(resamples=300, seed=sample))
        for name, (_, ci) in found.items():
            assert ci.low is not None
            assert ci.high is not None
            inside[name] += ci.low <= truth[name] <= ci.high
    return {name: n / samples for name, n in inside.items()}


@pytest.mark.parametrize("case", ["12x25", "57 small", "one of 40"])
def test_coverage(case: str) -> None:
    """800 samples: the standard error of a coverage of 95% is 0.8 points."""
    rng = np.random.default_rng(5)
    sizes = {"12x25": np.full(12, 25), "57 small": rng.integers(8, 40, size=57), "one of 40": np.array([40])}[case]
    share = rng.uniform(0.2, 0.7, size=len(sizes))
    for name, coverage in covered(sizes.astype(np.int64), share, 800, 3).items():
        assert 0.92 <= coverage <= 0.975, (name, coverage)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("n", [8, 25])
@pytest.mark.parametrize("subjects", [12, 57])
def test_coverage_in_full(n: int, subjects: int) -> None:
    """4,000 samples: the standard error of a coverage of 95% is 0.35 points."""
    share = np.random.default_rng(subjects).uniform(0.15, 0.9, size=subjects)
    for name, coverage in covered(np.full(subjects, n), share, 4000, n).items():
        assert 0.938 <= coverage <= 0.962, (name, coverage)


def test_mcnemar_against_scipy() -> None:
    for b in range(13):
        for c in range(13):
            expected = binomtest(min(b, c), b + c).pvalue if b + c else 1.0
            assert mcnemar(b, c) == pytest.approx(expected, abs=1e-12)


def test_paired_difference() -> None:
    found = paired(counts(1, 4), counts(6, 5), counts(20, 30), Plan())
    assert found["macro"][0] == pytest.approx((5 / 20 + 1 / 30) / 2)
    assert found["micro"][0] == pytest.approx(6 / 50)
    for value, ci in found.values():
        assert ci.low is not None
        assert ci.high is not None
        assert ci.low < value < ci.high
        assert ci.reason is None


def test_a_pair_that_never_differs_has_width_zero_and_says_so() -> None:
    for _, ci in paired(counts(0, 0), counts(0, 0), counts(20, 30), Plan()).values():
        assert (ci.low, ci.high) == (0.0, 0.0)
        assert "by one model only" in str(ci.reason)
    for value, ci in paired(counts(0, 0), counts(20, 30), counts(20, 30), Plan()).values():
        assert (value, ci.low, ci.high) == (1.0, 1.0, 1.0)
        assert "same on every question" in str(ci.reason)
    few = paired(counts(0), counts(0), counts(5), Plan())["macro"][1]
    assert few.low is None
    assert "too few" in str(few.reason)


def test_paired_coverage() -> None:
    rng = np.random.default_rng(7)
    sizes = np.full(12, 25)
    shares = np.array([[0.06, 0.10, 0.84]] * 6 + [[0.12, 0.04, 0.84]] * 6)
    truth = float((shares[:, 1] - shares[:, 0]).mean())
    inside = 0
    for sample in range(1000):
        drawn = rng.multinomial(sizes, shares)
        ci = paired(drawn[:, 0], drawn[:, 1], sizes, Plan(resamples=1000, seed=sample))["macro"][1]
        assert ci.low is not None
        assert ci.high is not None
        inside += ci.low <= truth <= ci.high
    assert 0.92 <= inside / 1000 <= 0.975


def power(first: float, second: float, n: int, samples: int = 4000) -> float:
    """How often a two-sided 5% z-test of the paired difference sees one of ``second`` minus ``first``."""
    drawn = np.random.default_rng(1).multinomial(n, [first, second, 1 - first - second], size=samples)
    d = (drawn[:, 1] - drawn[:, 0]) / n
    error = np.sqrt(((drawn[:, 0] + drawn[:, 1]) / n - d**2) / n)
    return float(np.mean(np.abs(d) > 1.96 * error))


@pytest.mark.parametrize("discordant", [0.10, 0.30])
def test_the_smallest_detectable_difference_is_detected_in_80_of_100(discordant: float) -> None:
    n = 1200
    each = round(n * discordant / 2)
    found = smallest_detectable(counts(each), counts(each), counts(n))
    d = found["micro"]
    assert d == pytest.approx(math.sqrt(Z2 * 2 * each / n / (n - 1)), rel=1e-4)
    assert power((discordant - d) / 2, (discordant + d) / 2, n) == pytest.approx(0.80, abs=0.03)
    # The questions for one point see one point in as many.
    needed = found["questions_for_one_point"]["micro"]
    assert power((discordant - 0.01) / 2, (discordant + 0.01) / 2, needed) == pytest.approx(0.80, abs=0.03)


def test_without_a_discordant_pair_the_smallest_effect_is_of_one_direction() -> None:
    """With 300 questions 7.65 of them must change, all one way: the exact test needs 6 to fall below 5%."""
    found = smallest_detectable(counts(0), counts(0), counts(300))
    assert found["micro"] == pytest.approx(Z2 / (300 + Z2), rel=1e-5)
    assert found["micro"] > math.sqrt(Z2 * 3 / 300 / 300), "above what the rule of three gives"
    assert mcnemar(0, 5) > 0.05 > mcnemar(0, 6)
    drawn = np.random.default_rng(0).binomial(300, found["micro"], size=20_000)
    assert np.mean(drawn >= 6) == pytest.approx(0.80, abs=0.05)
    # The rule of three allows a rate of 1% here, and an effect of one point needs no less.
    assert found["questions_for_one_point"]["micro"] == math.ceil(Z2 * 3 / 300 / 0.01**2)
    assert smallest_detectable(counts(0), counts(0), counts(3000))["questions_for_one_point"]["micro"] == math.ceil(
        Z2 * 99
    )


def test_few_discordant_pairs_do_not_promise_more_than_none() -> None:
    none, one = (smallest_detectable(counts(b), counts(0), counts(300))["micro"] for b in (0, 1))
    assert one >= none


def test_macro_weighs_subjects_equally() -> None:
    alike = smallest_detectable(counts(2, 2), counts(3, 3), counts(25, 25))
    assert alike["macro"] == pytest.approx(alike["micro"])
    uneven = smallest_detectable(counts(2, 20), counts(3, 30), counts(20, 200))
    assert uneven["macro"] > uneven["micro"], "the small subject counts as much as the large one"
    undefined = smallest_detectable(counts(0, 2), counts(1, 2), counts(1, 20))
    assert undefined["macro"] is undefined["micro"] is None
    assert "1 question" in undefined["reason"]


def test_a_summary() -> None:
    report = answers({"virology": [1] * 6 + [0] * 6, "anatomy": [0] * 8})
    report["questions"][0] |= {"shots": 2, "tied": True, "truncated": True}
    found = summarise(report["questions"])
    assert [entry["subject"] for entry in found["subjects"]] == ["anatomy", "virology"]
    assert [entry["n"] for entry in found["subjects"]] == [8, 12]
    assert found["subjects"][0]["low"] is None
    results = found["results"]
    assert results["macro_accuracy"]["value"] == 0.25
    assert results["micro_accuracy"]["value"] == 0.3
    assert results["chance"] == 0.25
    assert results["reading"].endswith("indistinguishable from guessing.")
    assert (results["ties"], results["truncated"], results["n"]) == (1, 1, 20)
    assert results["shots"] == {"mean": pytest.approx(4.85), "min": 2, "max": 5}


@pytest.mark.parametrize(("right", "words"), [(18, "above 0.25"), (0, "cannot be said"), (1, "below 0.25")])
def test_the_summary_reads_the_interval(right: int, words: str) -> None:
    assert words in summarise(answers({"anatomy": [1] * right + [0] * (30 - right)})["questions"])["results"]["reading"]


def test_comparing_two_runs() -> None:
    first = answers({"anatomy": [1, 1, 0, 0, 1, 0, 1, 1], "virology": [0, 0, 1, 1]})
    second = answers({"anatomy": [1, 0, 1, 1, 1, 0, 1, 1], "virology": [0, 0, 1, 1]})
    found = compare_answers(first, second)
    assert found["n"] == 12
    assert found["mcnemar"] == {
        "first_only": 1,
        "second_only": 2,
        "both": 6,
        "neither": 3,
        "p_value": 1.0,
        "method": "exact binomial on discordant pairs, two-sided",
    }
    assert found["macro_difference"]["value"] == pytest.approx((1 / 8 + 0) / 2)
    assert found["micro_difference"]["value"] == pytest.approx(1 / 12)
    back = compare_answers(second, first)
    assert back["micro_difference"]["value"] == -found["micro_difference"]["value"]
    assert back["smallest_detectable"] == found["smallest_detectable"]


def test_what_cannot_be_compared() -> None:
    first = answers({"anatomy": [1, 0, 1]})
    cases: list[tuple[dict[str, Any], str]] = [
        (answers({"anatomy": [1, 0]}), "other questions"),
        (answers({"virology": [1, 0, 1]}), "other questions"),
        (answers({"anatomy": [1, 0, 1]}, shots=4), "5 shots in one run and 4"),
        (answers({"anatomy": [1, 0, 1]}) | {"complete": False}, "second run is not complete"),
        (answers({"anatomy": [1, 0, 1]}) | {"data": {"sha256": "0" * 64}}, "other data"),
        ({"routers": []}, "not a report of evaluate"),
    ]
    for second, words in cases:
        with pytest.raises(EvaluationError, match=words):
            compare_answers(first, second)
