"""What sequences count for: unequal lengths, too few of them, texts that occur twice."""

from __future__ import annotations

import numpy as np
import pytest
from audit_metrics import whole
from populations import sample

from mlx_moebench.routing import METRICS
from mlx_moebench.routing.intervals.effective import clusters, effective_clusters, merge_repeats, pooled, unequal
from mlx_moebench.routing.intervals.halves import random_halves
from mlx_moebench.routing.intervals.routers import RouterMetrics
from mlx_moebench.routing.sums import FIELDS


def test_effective_numbers() -> None:
    assert effective_clusters([7] * 12) == pytest.approx(12)
    assert effective_clusters([1000] + [10] * 100) < 1.1
    assert effective_clusters([3, 4]) == pytest.approx(25**2 / (81 + 256))
    assert effective_clusters([]) == effective_clusters([0, 0]) == 0
    assert effective_clusters([5, 5, 0]) == pytest.approx(2)


def test_fewer_than_ten_have_a_reason() -> None:
    assert pooled([5] * 10).reason is None
    assert pooled([5]).reason == "1 sequence is too few for an interval: 10 or more are needed"
    nine, unequal_ones = clusters([5] * 9 + [5, 5, 5, 300] * 5, ["a"] * 9 + ["b"] * 20)
    assert nine.reason == "9 sequences of a are too few for an interval: 10 or more are needed"
    assert unequal_ones.reason is not None
    assert unequal_ones.reason.startswith("20 sequences of b are so unequal in length that they count for 5.0")
    assert (unequal_ones.sequences, unequal_ones.tokens) == (20, 1575)


def test_domains_that_differ_by_more_than_four_are_pointed_out() -> None:
    assert unequal([10] * 14, ["a"] * 4 + ["b"] * 10) == []
    assert unequal([10] * 25, ["a"] * 4 + ["b"] * 21) == ["a has 4 sequences, b 21."]
    assert unequal([10] * 4 + [41] * 4, ["a"] * 4 + ["b"] * 4) == ["a has 10 tokens a sequence, b 41."]
    assert len(unequal([10] * 4 + [41] * 40 + [1] * 4, ["a"] * 4 + ["b"] * 40 + ["c"] * 4)) == 5


def test_repeats_are_joined_in_order() -> None:
    drawn = sample(whole(16, 2, "mild", "all", "equal"), 6, np.random.default_rng(0))
    strata = np.array(["x", "x", "x", "y", "y", "y"])
    merged = merge_repeats([drawn], strata, ["p", "q", "p", "p", "r", "r"])
    assert (merged.repeats, merged.shared) == (2, 1)
    assert merged.strata.tolist() == ["x", "x", "y", "y"]
    for name in FIELDS:
        values, of = getattr(drawn, name), getattr(merged.sums[0], name)
        np.testing.assert_allclose(of[0], values[0] + values[2])
        np.testing.assert_allclose(of[1], values[1])
        np.testing.assert_allclose(of[3], values[4] + values[5])
    alone = merge_repeats([drawn], strata, range(6))
    assert (alone.sums[0], alone.repeats, alone.shared) == (drawn, 0, 0)


def test_texts_that_occur_ten_times_tell_no_more_than_once() -> None:
    drawn = sample(whole(16, 2, "mild", "all", "equal"), 20, np.random.default_rng(0))
    often = drawn.take(list(range(20)) * 10)
    merged = merge_repeats([often], np.zeros(200), list(range(20)) * 10).sums[0]
    once, joined = (RouterMetrics(s, random_halves(np.zeros(20), 200, 0), names=["gini"]) for s in (drawn, merged))
    naive = RouterMetrics(often, random_halves(np.zeros(200), 200, 0), names=["gini"]).metric("gini").interval
    right, same = once.metric("gini").interval, joined.metric("gini").interval
    assert same.low == pytest.approx(right.low)
    assert same.high == pytest.approx(right.high)
    assert naive.high - naive.low < 0.5 * (right.high - right.low)  # type: ignore[operator]
    assert METRICS["gini"].values(merged.total()) == pytest.approx(METRICS["gini"].values(drawn.total()))
