"""Whether an expert is better than its subjects explain: against all orders of the answers, and under the null."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import binomtest

from mlx_moebench.evaluate.expert_accuracy import expert_accuracy


def test_the_p_value_is_that_of_all_orders_inside_subjects() -> None:
    subject = np.array([0, 0, 0, 0, 1, 1, 1])
    correct = np.array([1, 1, 0, 0, 1, 0, 0], bool)
    chose = np.array([1, 1, 0, 1, 1, 0, 0], bool)
    one = expert_accuracy(chose, correct, subject)
    orders = [
        int((chose & np.array([*first, *second], bool)).sum())
        for first, second in product(permutations(correct[:4]), permutations(correct[4:]))
    ]
    right = int((chose & correct).sum())
    assert one.right == right == 3
    assert one.accuracy == 0.75
    assert one.expected == pytest.approx((3 * 0.5 + 1 / 3) / 4)
    assert one.p_better == pytest.approx(np.mean([(x > right) + (x == right) / 2 for x in orders]))


def test_where_no_order_could_differ_there_is_no_p() -> None:
    subject, correct = np.array([0, 0, 1]), np.array([True, False, True])
    assert np.isnan(expert_accuracy(np.ones(3, bool), correct, subject).p_better)
    nobody = expert_accuracy(np.zeros(3, bool), correct, subject)
    assert nobody.n == 0
    assert np.isnan([nobody.accuracy, nobody.expected, nobody.p_better]).all()
    assert "no question" in str(nobody.interval.reason)


def test_shuffled_answers_make_five_of_a_hundred_experts_better() -> None:
    """2,000 experts, of 57 subjects as uneven as MMLU's, each with right answers dealt anew inside every subject."""
    rng = np.random.default_rng(7)
    tests, found = 2000, 0
    subject = np.repeat(np.arange(57), rng.integers(8, 60, 57))
    hard = rng.uniform(0.2, 0.8, 57)[subject]
    liked = rng.uniform(0.02, 0.4, 57)[subject]
    correct = rng.random(len(subject)) < hard
    for _ in range(tests):
        order = np.lexsort((rng.random(len(subject)), subject))  # subjects stay in place
        chose = rng.random(len(subject)) < liked
        found += expert_accuracy(chose, correct[order], subject).p_better <= 0.05
    assert binomtest(found, tests, 0.05).pvalue > 0.05, found / tests


def test_an_expert_of_easy_subjects_is_not_better() -> None:
    rng = np.random.default_rng(1)
    subject = np.repeat(np.arange(20), 50)
    easy = subject < 10
    correct = rng.random(1000) < np.where(easy, 0.9, 0.3)
    chose = easy & (rng.random(1000) < 0.5)
    one = expert_accuracy(chose, correct, subject)
    assert one.accuracy > 0.85
    assert one.p_better > 0.05
    assert expert_accuracy(chose & correct, correct, subject).p_better < 1e-6
