"""Differences of counts: whole ends that hold the effect, and a p that never disagrees with them."""

from __future__ import annotations

import numpy as np
import pytest
from audit_cells import PARTS
from audit_metrics import whole
from populations import sample

from mlx_moebench.routing import Plan, Sums, get_metric
from mlx_moebench.routing.comparison.lattice import count_difference, p_value
from mlx_moebench.routing.intervals.bootstrap import Interval
from mlx_moebench.routing.intervals.corrected import Drawn
from mlx_moebench.routing.intervals.halves import halved, quartered, random_halves
from mlx_moebench.routing.intervals.routers import crossing

PLAN = Plan(resamples=400)


def compare(a: Sums, b: Sums, paired: bool = False) -> tuple[float, Interval, float]:
    n = len(a.n_tokens)
    halves = [random_halves(np.zeros(n), 400, 0 if paired else side) for side in (0, 1)]
    sides = [
        [crossing(x.load) for x in (s.total(), halved(s, h), quartered(s, h))]
        for s, h in zip((a, b), halves, strict=True)
    ]
    apart = [second - first for first, second in zip(*sides, strict=True)]
    effect = float(get_metric("n90").values(b.total()) - get_metric("n90").values(a.total()))
    return effect, *count_difference(effect, Drawn(float(apart[0]), apart[1], apart[2]), n - 1.0, PLAN)


def test_equal_sides_have_no_width() -> None:
    drawn = sample(whole(64, 2, "steep", "all", "equal"), 20, np.random.default_rng(0))
    effect, interval, p = compare(drawn, drawn, paired=True)
    assert (effect, interval.low, interval.high, p) == (0, 0, 0, 1.0)


@pytest.mark.parametrize("other", ["steep", "mild", "leader"])
def test_p_and_whole_ends_agree(other: str) -> None:
    for seed in range(15):
        rng = np.random.default_rng(seed)
        a, b = (sample(whole(64, 2, kind, "all", "equal"), 20, rng) for kind in ("steep", other))
        effect, interval, p = compare(a, b)
        assert interval.low is not None
        assert interval.high is not None
        assert float(interval.low).is_integer()
        assert float(interval.high).is_integer()
        assert interval.low <= effect <= interval.high
        assert (p <= 0.05) == (interval.low > 0 or interval.high < 0)


def test_a_large_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    effect, interval, p = compare(*(sample(whole(64, 2, kind, "all", "equal"), 40, rng) for kind in ("steep", "even")))
    assert effect > 5
    assert interval.low is not None
    assert interval.low > 0
    assert p <= 0.01


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_p_is_on_the_side_of_the_level_that_the_interval_is_on(level: float) -> None:
    """Few resamples tell p only to within 1 / B, and it was above 5% where the interval left out 0."""
    plan = Plan(resamples=200, level=level)
    for reach in np.linspace(level - 0.004, level + 0.004, 41):
        p = p_value(lambda at, reach=reach: (1.0 if at < reach else -1.0, 2.0), plan)  # type: ignore[misc]
        assert (p <= round(1 - level, 12)) == (level < reach)
        assert abs(p - (1 - reach)) <= 1 / 200


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["E 64, K 1, steep, texts differ, S 20", "E 128, K 8, steep, all, S 40"])
def test_counts_that_do_not_differ_are_rarely_called_different(name: str) -> None:
    measured = dict(PARTS["counts"]())[name](500, 1)
    assert measured["rejected"] == measured["left_out"] <= 0.06
