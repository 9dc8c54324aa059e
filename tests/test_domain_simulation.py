"""Verdicts are right as often as they should be, and the null rejects what it says. See also benchmarks/domains.py."""

from __future__ import annotations

import pytest
from domain_simulation import CASES, coverage, rejections, words
from scipy.stats import binom

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("multiple", "least"), [(1.25, 60), (2.0, 95)])
def test_verdicts(case: str, multiple: float, least: int) -> None:
    given = words(case, multiple)
    assert given[CASES[case]] >= least, given
    assert CASES[case] == "collapsed" or not given["collapsed"], given
    assert set(given) <= {CASES[case], "undetermined"}, given


def test_the_null_rejects_at_its_level() -> None:
    low, high = binom.interval(0.99, 2000, 0.05)
    assert low <= rejections("same lengths", 2000, seed=2) <= high


def test_the_null_is_careful_where_lengths_differ() -> None:
    """Sequences of other lengths are not exchangeable; the test then rejects less, not more."""
    assert rejections("lengths 24, 48, 96", 600, seed=3) <= binom.ppf(0.995, 600, 0.05)


@pytest.mark.parametrize("case", ["specialised", "balanced"])
def test_intervals_cover(case: str) -> None:
    for name, share in coverage(case, 0.12, 30, 500).items():
        assert share >= 0.92, (name, share)
        assert name != "r" or share <= 0.98, "the others are bands, or near 0, where they cover more than they need to"
