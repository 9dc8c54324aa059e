"""What sequences count for: unequal lengths, too few of them, texts that occur twice."""

from __future__ import annotations

import numpy as np
import pytest
from audit_metrics import whole
from populations import sample

from mlx_moebench.routing import METRICS
from mlx_moebench.routing.intervals.bootstrap import resample_weights
from mlx_moebench.routing.intervals.effective import clusters, effective_clusters, pooled, unequal
from mlx_moebench.routing.intervals.halves import random_halves
from mlx_moebench.routing.intervals.routers import RouterMetrics
from mlx_moebench.routing.repeats import units_of


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


def test_copies_are_named_as_the_reason() -> None:
    once, often = [1] * 9 + [31], [3] * 10
    assert pooled([5] * 10, copies=often).reason is None
    assert pooled([150], copies=[30]).reason == "30 sequences hold 1 text: 10 or more are needed"
    assert clusters([9] * 4, ["x"] * 4, [10] * 4)[0].reason == "40 sequences of x hold 4 texts: 10 or more are needed"
    reason = pooled([5] * 9 + [155], copies=once).reason
    assert reason == "10 texts, some of them repeated, count for 1.0: 10 or more are needed"
    assert pooled([0] * 12, copies=[2] * 12).reason == "0 sequences are too few for an interval: 10 or more are needed"
    (of,) = clusters([5] * 11 + [20], ["x"] * 12, [1] * 11 + [4])
    assert of.reason == "12 texts of x, some of them repeated, count for 2.7: 10 or more are needed"


def test_what_counts_for_almost_ten_is_not_rounded_to_it() -> None:
    assert 9.95 < effective_clusters([100] * 9 + [96]) < 10
    assert pooled([100] * 9 + [96]).reason == (
        "10 sequences are so unequal in length that they count for 9.9: 10 or more are needed"
    )
    assert pooled([100] * 10 + [7]).reason is None


def test_every_data_set_takes_a_degree_of_freedom() -> None:
    strata = [name for name in "abcdefgh" for _ in range(2)]
    assert pooled([5] * 16, strata).reason == "16 sequences of 8 data sets count for 16.0: 17 or more are needed"
    assert pooled([5] * 17, [*strata, "h"]).reason is None
    few = pooled([5] * 24 + [14] * 3, ["a", "b", "c"] * 9).reason
    assert few == "27 sequences of 3 data sets count for 10.8: 12 or more are needed"
    for missing in (0, 5):
        small = ["x"] * 12 + ["y"]
        reason = pooled([5] * 12 + [missing], small).reason
        held = "1 sequence" if missing else "0 sequences"
        assert reason == f"y has {held}: 2 or more of each data set are needed"
    assert pooled([5] * 13, small, [1] * 12 + [30]).reason == (
        "30 sequences of y hold 1 text: 2 or more of each data set are needed"
    )
    repeated = pooled([5] * 16, strata, [2] * 16).reason
    assert repeated == "16 texts of 8 data sets, some of them repeated, count for 16.0: 17 or more are needed"


def test_names_that_end_in_a_nul_are_two() -> None:
    names = ["x"] * 12 + ["x\0"] * 15
    assert [(c.name, c.sequences) for c in clusters([5] * 27, names)] == [("x", 12), ("x\0", 15)]
    assert len(random_halves(names, 100, 0).members) == 2
    weights = resample_weights(names, 50, 0)
    assert (weights[:, :12].sum(axis=1) == 12).all()


def test_domains_that_differ_by_more_than_four_are_pointed_out() -> None:
    assert unequal([10] * 14, ["a"] * 4 + ["b"] * 10) == []
    assert unequal([10] * 25, ["a"] * 4 + ["b"] * 21) == ["a has 4 sequences, b 21."]
    assert unequal([10] * 4 + [41] * 4, ["a"] * 4 + ["b"] * 4) == ["a has 10 tokens a sequence, b 41."]
    assert unequal([10] * 1001, ["a"] + ["b"] * 1000) == ["a has 1 sequence, b 1,000."]
    assert unequal([1, 1, 7, 7], ["a", "a", "b", "b"]) == ["a has 1 token a sequence, b 7."]
    assert len(unequal([10] * 4 + [41] * 40 + [1] * 4, ["a"] * 4 + ["b"] * 40 + ["c"] * 4)) == 5


def test_texts_that_occur_ten_times_tell_no_more_than_once() -> None:
    drawn = sample(whole(16, 2, "mild", "all", "equal"), 20, np.random.default_rng(0))
    often = drawn.take(list(range(20)) * 10)
    merged = units_of(list(range(20)) * 10).sums(often)
    once, joined = (RouterMetrics(s, random_halves(np.zeros(20), 200, 0), names=["gini"]) for s in (drawn, merged))
    naive = RouterMetrics(often, random_halves(np.zeros(200), 200, 0), names=["gini"]).metric("gini").interval
    right, same = once.metric("gini").interval, joined.metric("gini").interval
    assert same.low == pytest.approx(right.low)
    assert same.high == pytest.approx(right.high)
    assert naive.high - naive.low < 0.5 * (right.high - right.low)  # type: ignore[operator]
    assert METRICS["gini"].values(merged.total()) == pytest.approx(METRICS["gini"].values(drawn.total()))
