"""Intervals and p-values of differences: against SciPy, by hand and by brute force, exact zeros, and what is null."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from comparison_simulation import measure, populations, take
from scipy import stats as scipy_stats
from scipy.optimize import linprog
from test_uncertainty import clusters, intervals, mean_only, t_level

from mlx_moebench.errors import MoebenchError
from mlx_moebench.routing import METRICS, Interval, Plan, Sums, get_metric
from mlx_moebench.routing.comparison.differences import benjamini_hochberg, differences
from mlx_moebench.routing.comparison.effects import Effect, Point, point_differences
from mlx_moebench.routing.comparison.lattice import count_difference, crossing_ends
from mlx_moebench.routing.comparison.maxima import Bands, maxima, maxima_range
from mlx_moebench.routing.comparison.resampling import Samples, load_distances
from mlx_moebench.routing.intervals.corrected import Drawn
from mlx_moebench.routing.sums import FIELDS

PLAN = Plan(resamples=400)


def paired(n: int) -> Samples:
    return Samples(["x"] * n, ["x"] * n, paired=True)


def unpaired(n: int, m: int) -> Samples:
    return Samples(["x"] * n, ["x"] * m, paired=False)


# -- means ---------------------------------------------------------------------------------------------------------


def check_against(ours: Interval, result: Any, point: float, level: float) -> None:
    """SciPy's BCa, of which neither side is shorter than that of the normal interval."""
    theirs, half = result.confidence_interval, scipy_stats.norm.ppf((1 + level) / 2) * result.standard_error
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(min(theirs.low, point - half), abs=0.03 * width)
    assert ours.high == pytest.approx(max(theirs.high, point + half), abs=0.03 * width)


@pytest.mark.parametrize("n", [15, 60])
def test_paired_mean_is_scipys_bca_of_the_differences(n: int) -> None:
    rng = np.random.default_rng(n)
    a = 1.5 + 0.3 * rng.standard_normal(n)
    d = np.minimum(rng.exponential(0.2, n), 1)  # skewed, so that bias and acceleration count
    e = differences([mean_only(a)], [mean_only(a + d)], paired(n), Plan(resamples=20_000), ["mean_entropy"])
    ours = e.routers[0]["mean_entropy"].interval
    level = t_level(n, 0.95)
    result = scipy_stats.bootstrap((d,), np.mean, n_resamples=20_000, method="BCa", confidence_level=level, rng=rng)
    check_against(ours, result, d.mean(), level)
    assert e.routers[0]["mean_entropy"].effect == pytest.approx(d.mean())


def test_unpaired_mean_is_scipys_two_sample_bca() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.exponential(0.5, 40), 0.4 + rng.exponential(0.3, 40)
    found = differences([mean_only(a)], [mean_only(b)], unpaired(40, 40), Plan(resamples=20_000), ["mean_entropy"])
    ours = found.routers[0]["mean_entropy"].interval

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(y, axis=axis) - np.mean(x, axis=axis)

    level = t_level(40, 0.95)
    result = scipy_stats.bootstrap(
        (a, b), difference, n_resamples=20_000, method="BCa", confidence_level=level, rng=rng
    )
    check_against(ours, result, b.mean() - a.mean(), level)
    width = result.confidence_interval.high - result.confidence_interval.low
    alone = [intervals([mean_only(y)], np.zeros(40), PLAN, ["mean_entropy"]).routers[0]["mean_entropy"] for y in (a, b)]
    assert width > max(ci.high - ci.low for ci in alone)  # type: ignore[operator]


def test_pairing_cancels_what_the_sides_share() -> None:
    rng = np.random.default_rng(0)
    y = rng.exponential(0.5, 40)
    sides = [mean_only(y)], [mean_only(y + 0.1 + 0.01 * rng.standard_normal(40))]
    for samples, narrow in ((paired(40), True), (unpaired(40, 40), False)):
        e = differences(*sides, samples, PLAN, ["mean_entropy"]).mean["mean_entropy"]
        assert (e.interval.high - e.interval.low < 0.02) is narrow  # type: ignore[operator]
        assert (e.p < 0.01) is narrow  # type: ignore[operator]


def test_percentile_of_a_paired_difference() -> None:
    rng = np.random.default_rng(0)
    a, d = rng.exponential(0.5, 25), rng.exponential(0.1, 25)
    plan = Plan("percentile", 2000, seed=4)
    e = differences([mean_only(a)], [mean_only(a + d)], paired(25), plan, ["mean_entropy"]).mean["mean_entropy"]
    boot = paired(25).draws(plan).a @ d / 25
    assert (e.interval.low, e.interval.high) == pytest.approx(tuple(np.quantile(boot, [0.025, 0.975])))


# -- zero is zero --------------------------------------------------------------------------------------------------


def test_equal_sides_differ_by_exactly_nothing() -> None:
    routers = [clusters(30, seed, experts=8, length=40) for seed in range(3)]
    copies = [take(s, np.arange(30)) for s in routers]
    found = differences(routers, copies, paired(30), PLAN)
    for row in (*found.routers, found.mean, found.peak):
        for name, e in row.items():
            assert e.effect == 0, name
            if METRICS[name].interval == "none":
                assert (e.interval.low, e.p) == (None, None)
                assert e.interval.reason
            else:
                assert (e.interval.low, e.interval.high, e.p) == (0, 0, 1), name
    for load in found.loads:
        assert load.band == (0, 0)
        assert load.change is not None
        assert not load.change.any()
        assert {(d.value, d.p, d.q) for d in load.distances.values()} == {(0, 1, 1)}


def test_swapping_the_sides_turns_every_sign() -> None:
    a, b = clusters(30, 1, length=40), clusters(30, 2, length=40)
    names = ["mean_entropy", "load_entropy", "gini", "top_share_token", "adjacent_overlap"]
    there, back = (differences([x], [y], paired(30), PLAN, names) for x, y in ((a, b), (b, a)))
    for name in names:
        e, f = there.routers[0][name], back.routers[0][name]
        assert e.effect == pytest.approx(-f.effect)
        assert (e.interval.low, e.interval.high) == pytest.approx((-f.interval.high, -f.interval.low), abs=2e-3), name


# -- p and q -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mean_entropy", "load_entropy", "gini", "top_share_token", "n_eff"])
@pytest.mark.parametrize("together", [True, False])
def test_p_is_the_level_at_which_the_interval_reaches_zero(name: str, together: bool) -> None:
    a, b = clusters(40, 1, length=30), clusters(40, 7, length=30)
    samples = paired(40) if together else unpaired(40, 40)

    def at(level: float) -> Effect:
        return differences([a], [b], samples, Plan(resamples=1000, level=level), [name]).routers[0][name]

    p = at(0.95).p
    assert p is not None
    if p < 1:
        inside, outside = at(1 - p * 0.9).interval, at(1 - min(p * 1.1, 0.999)).interval
        if name != "top_share_token":  # its candidates depend on the level too
            assert inside.low < 0 < inside.high  # type: ignore[operator]
            assert outside.low > 0 or outside.high < 0  # type: ignore[operator]


def test_p_is_no_smaller_than_resamples_can_tell() -> None:
    y = np.random.default_rng(0).exponential(0.5, 30)
    e = differences([mean_only(y)], [mean_only(y + 1)], paired(30), PLAN, ["mean_entropy"]).mean["mean_entropy"]
    assert e.p == 2 / 401
    near = differences([mean_only(y)], [mean_only(y + 1e-8)], paired(30), PLAN, ["mean_entropy"]).mean["mean_entropy"]
    assert 0 < near.effect < 1e-7
    assert near.p == 1  # rounding is no finding, however sure


def test_q_values() -> None:
    # By hand: 0.01 x 4/1, 0.02 x 4/2, 0.03 x 4/3, 0.5; each at most that of the next larger p.
    assert benjamini_hochberg([0.03, 0.5, None, 0.01, 0.02]) == pytest.approx([0.04, 0.5, None, 0.04, 0.04])
    assert benjamini_hochberg([None]) == [None]
    assert benjamini_hochberg([]) == []
    assert benjamini_hochberg([0.2, math.nan])[0] == 0.2
    p = np.random.default_rng(0).uniform(size=30).tolist()
    assert benjamini_hochberg(p) == pytest.approx(scipy_stats.false_discovery_control(p).tolist())
    routers = [clusters(20, seed) for seed in range(4)], [clusters(20, seed + 9) for seed in range(4)]
    found = differences(*routers, paired(20), PLAN, ["mean_entropy"])
    p = [row["mean_entropy"].p for row in found.routers]
    assert [row["mean_entropy"].q for row in found.routers] == pytest.approx(benjamini_hochberg(p))
    assert found.mean["mean_entropy"].q is None


# -- maxima --------------------------------------------------------------------------------------------------------


def largest_by_linear_programs(a: np.ndarray, b: np.ndarray, margins: np.ndarray) -> float:
    """The largest of B_j - t over A, B, t with A <= t in the three bands, for every expert j, B's busiest."""
    r, (u_a, v_a, u_b, v_b, u_d, v_d) = len(a), margins
    bounds = [(x - u_a, x + v_a) for x in a] + [(x - u_b, x + v_b) for x in b] + [(None, None)]
    eye, nothing, ones = np.eye(r), np.zeros((r, r)), np.ones((r, 1))
    below = np.block([[-eye, eye, 0 * ones], [eye, -eye, 0 * ones], [eye, nothing, -ones]])
    limits = np.concatenate([b - a + v_d, a - b + u_d, np.zeros(r)])
    results = []
    for j in range(r):
        objective = np.zeros(2 * r + 1)
        objective[r + j], objective[-1] = -1, 1
        results.append(-linprog(objective, A_ub=below, b_ub=limits, bounds=bounds).fun)
    return max(results)


def test_range_of_maxima_by_linear_programs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(25):
        a, b = rng.dirichlet(np.ones(4), 2)
        margins = rng.uniform(0.01, 0.3, 6)
        low, high = maxima_range(a, b, margins)
        assert high == pytest.approx(largest_by_linear_programs(a, b, margins))
        assert low == pytest.approx(-largest_by_linear_programs(b, a, margins[[2, 3, 0, 1, 5, 4]]))


def test_range_of_maxima_at_its_limits() -> None:
    a, b = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.4, 0.4])
    assert maxima_range(a, b, np.zeros(6)) == pytest.approx((-0.1, -0.1))
    assert maxima_range(a, a, [0.2] * 4 + [0, 0]) == (0, 0)
    low, high = maxima_range(a, b, [0.1, 0.2, 0.3, 0.05, 9, 9])  # then A and B are free of each other
    assert (low, high) == pytest.approx((-0.1 - 0.3 - 0.2, -0.1 + 0.05 + 0.1))
    only = np.array([True, False, False])
    assert maxima_range(a, a + 0.1, [0.3] * 4 + [0.02, 0.02], only, only) == pytest.approx((0.08, 0.12))


def test_one_clear_peak_has_the_interval_of_its_share() -> None:
    rng = np.random.default_rng(0)
    a, b = np.array([0.6, 0.2, 0.2]), np.array([0.2, 0.7, 0.1])
    drawn_a, drawn_b = (x + 0.01 * rng.standard_normal((2000, 3)) for x in (a, b))
    for paired_ in (True, False):
        found = maxima(a, b, drawn_a, drawn_b, paired=paired_, widen=1.1, level=0.99)
        assert not found.together
        error = (drawn_b[:, 1] - drawn_a[:, 0]) - 0.1
        u, v = (1.1 * np.quantile(sign * error, 0.975) for sign in (1, -1))
        assert found.ends(1.1, 0.95) == pytest.approx((0.1 - u, 0.1 + v))


def test_bands_hold_together() -> None:
    rng = np.random.default_rng(0)
    deviations = rng.standard_normal((5, 4000)) * np.array([[1], [2], [3], [1], [5]])
    margins = Bands(deviations).margins(0.9)
    held = deviations <= margins[:, None]
    assert held.all(0).mean() == pytest.approx(0.9, abs=0.002)
    assert (~held).mean(1) == pytest.approx(np.full(5, (~held).mean()), abs=0.002)  # each fails as often


# -- loads ---------------------------------------------------------------------------------------------------------


def test_load_distances_by_hand() -> None:
    f, g = np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.0, 0.0, 0.5, 0.5])
    assert {k: float(v) for k, v in load_distances(f, g).items()} == pytest.approx(
        {"load_l1": 2, "load_jsd": math.log(2)}
    )
    assert {k: float(v) for k, v in load_distances(f, f).items()} == {"load_l1": 0, "load_jsd": 0}


def test_the_band_of_changes_by_hand() -> None:
    a, b = clusters(40, 1), clusters(40, 2)
    a, b = (replace(s, n_tokens=np.full(40, 12.0), counts=s.counts * 12 / s.n_tokens[:, None]) for s in (a, b))
    (load,) = differences([a], [b], paired(40), PLAN, ["gini"]).loads
    share = get_metric("top_share_token").function
    weights = paired(40).draws(PLAN).a
    moved = share(b.weighted(weights)) - share(a.weighted(weights))
    change = share(b.total()) - share(a.total())
    widen = scipy_stats.t.ppf(0.975, 39) / scipy_stats.norm.ppf(0.975) * math.sqrt(40 / 39)
    band = tuple(widen * np.quantile((sign * (moved - change)).max(1), 0.975) for sign in (1, -1))
    assert load.change == pytest.approx(change)
    assert load.band == pytest.approx(band)


# -- nulls ---------------------------------------------------------------------------------------------------------


def test_few_sequences_give_values_only() -> None:
    a, b = clusters(9, 1), clusters(12, 2)
    found = differences([a], [b], unpaired(9, 12), PLAN)
    e = found.routers[0]["mean_entropy"]
    assert e.effect == pytest.approx(float(get_metric("mean_entropy").values(b.total())) - e.a)
    assert e.interval.reason == "A: 9 sequences are too few for an interval: 10 or more are needed"
    assert e.detectable is None
    assert (e.p, e.q, found.loads[0].band) == (None, None, None)
    assert found.loads[0].distances["load_l1"].value > 0
    assert found.peak["top_share_token"].effect == found.routers[0]["top_share_token"].effect
    assert differences([a], [a], paired(9), PLAN).mean["gini"].interval.reason == (
        "9 sequences are too few for an interval: 10 or more are needed"
    )


def test_unequal_sequences_give_values_only() -> None:
    a, b = clusters(40, 1), clusters(40, 2)
    longest = np.where(np.arange(40) == 0, 1000.0, 1.0)
    b = replace(b, **{f: (getattr(b, f).T * longest).T for f in FIELDS})
    found = differences([a], [b], unpaired(40, 40), PLAN)
    assert str(found.mean["gini"].interval.reason).startswith(
        "B: 40 sequences are so unequal in length that they count"
    )
    assert found.loads[0].distances["load_l1"].interval.reason == found.mean["gini"].interval.reason
    swapped = differences([b], [a], paired(40), PLAN)
    assert str(swapped.mean["gini"].interval.reason).startswith("40 sequences are so unequal")


def test_a_metric_that_one_side_lacks() -> None:
    a, b = clusters(12), clusters(12, rule="sigmoid_normalised")
    found = differences([a, a], [b, a], paired(12), PLAN, ["router_z", "mean_entropy"])
    e = found.routers[0]["router_z"]
    assert math.isnan(e.effect)
    assert (e.interval.reason, e.p, e.q) == ("the metric is not defined on one side", None, None)
    assert e.to_dict()["effect"] is None
    assert found.mean["router_z"].effect == 0  # over the router that has it
    assert differences([b], [b], paired(12), PLAN, ["router_z"]).mean == {}


def test_other_numbers_of_experts() -> None:
    a, b = clusters(20, experts=4, length=40), clusters(20, experts=8, length=40)
    found = differences([a], [b], paired(20), PLAN, ["top_share_token", "load_entropy"])
    e, load = found.routers[0]["top_share_token"], found.loads[0]
    assert e.interval.low < e.effect < e.interval.high  # type: ignore[operator]
    assert load.change is None
    assert load.distances["load_l1"].interval.reason == "the sides have other numbers of experts"
    assert found.routers[0]["load_entropy"].interval.high <= math.log(8) - math.log(2)  # type: ignore[operator]
    other_k = differences([clusters(20, top_k=1)], [clusters(20, top_k=2)], paired(20), PLAN, ["gini"]).loads[0]
    distance = other_k.distances["load_l1"]
    assert distance.interval.low <= distance.value <= distance.interval.high  # type: ignore[operator]
    assert (distance.p <= 0.05) == (distance.interval.low > 0)  # type: ignore[operator]


def test_points_without_sums() -> None:
    load = np.array([0.5, 0.3, 0.2])
    a, b = Point({"gini": 0.2, "top_share_token": 0.5}, load, 1), Point({"gini": 0.3}, load[::-1], 1)
    found = point_differences([a], [b], reason="why")
    assert found.routers[0].keys() == {"gini"}
    assert found.mean["gini"].effect == pytest.approx(0.1)
    assert (found.mean["gini"].interval.reason, found.peak) == ("why", {})
    assert found.loads[0].change == pytest.approx([-0.3, 0, 0.3])


def test_an_unknown_metric() -> None:
    with pytest.raises(MoebenchError, match=r"Did you mean 'gini'\?"):
        differences([clusters(12)], [clusters(12)], paired(12), PLAN, ["ginni"])


@pytest.mark.slow
def test_simulated_differences_are_covered() -> None:
    """A quick look at what tests/test_coverage.py measures with more samples."""
    sides = populations("even, dominant", clusters=1500)
    for design in (True, False):
        found, _ = measure(sides, ["mean_entropy", "gini", "top_share_token"], design, n=30, samples=40, seed=0)
        for key, coverage in found.items():
            assert coverage.inside >= 0.85, (key, coverage)


def test_domains_are_resampled_apart() -> None:
    rng = np.random.default_rng(0)
    domain = np.repeat([0, 1], 20)
    y = 1.0 + 2.0 * domain + 0.1 * rng.standard_normal(40)
    strata = [str(d) for d in domain]

    def width(labels: list[str]) -> float:
        samples = Samples(labels, labels, paired=False)
        ci = differences([mean_only(y)], [mean_only(y + 0.01)], samples, PLAN, ["mean_entropy"]).mean["mean_entropy"]
        return ci.interval.high - ci.interval.low  # type: ignore[operator]

    assert width(strata) < 0.2 * width(["x"] * 40)


def test_counts_alone_can_be_compared() -> None:
    a, b = (Sums.from_counts(clusters(15, s).counts, clusters(15, s).n_tokens, 2) for s in (1, 2))
    found = differences([a], [b], paired(15), PLAN)
    assert found.routers[0]["load_entropy"].interval.low is not None
    assert found.routers[0]["mean_entropy"].interval.reason == "the metric is not defined on both sides"
    assert found.routers[0]["top_share_top1"].interval.reason == "the metric is not defined on both sides"
    assert "mean_entropy" not in found.mean


# -- counts, and what could have been found ------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
def test_p_and_interval_of_counts_never_disagree(together: bool) -> None:
    rejected = 0
    for seed in range(20):
        a, b = ([clusters(24, 7 * seed + side + n, experts=12, length=20) for n in range(3)] for side in (0, 3))
        if seed % 2:  # some that differ
            b = [replace(s, counts=np.sort(s.counts, axis=1)) for s in b]
        found = differences(a, b, paired(24) if together else unpaired(24, 24), PLAN, ["n90"])
        for e in (*(row["n90"] for row in found.routers), found.mean["n90"]):
            assert e.interval.low <= e.effect <= e.interval.high  # type: ignore[operator]
            leaves_out = e.interval.low > 0 or e.interval.high < 0  # type: ignore[operator]
            assert (e.p <= 0.05) == leaves_out  # type: ignore[operator]
            rejected += leaves_out
        for row in found.routers:
            assert float(row["n90"].interval.low).is_integer()  # type: ignore[arg-type]
    assert rejected > 20


def test_the_mean_of_counts_holds_what_rounding_added() -> None:
    """Crossings that differ by 0.2, of counts that differ by 1 in one router of four."""
    rng = np.random.default_rng(0)
    apart = Drawn(0.2, 0.2 + 0.05 * rng.standard_normal(400), 0.2 + 0.07 * rng.standard_normal(100))
    interval, p = count_difference(0.25, apart, 30.0, PLAN, routers=100)
    low, high = crossing_ends(apart, 30.0, 0.95)
    assert (interval.low, interval.high) == pytest.approx((low, high + 0.05), abs=0.01)
    assert float(100 * interval.low) == pytest.approx(round(100 * interval.low))  # type: ignore[operator, arg-type]
    assert interval.low <= low < high + 0.05 <= interval.high  # type: ignore[operator]
    assert p <= 0.05
    none, never = count_difference(-0.25, apart, 30.0, PLAN, routers=4)
    assert (none.low, none.high) == (math.floor(4 * (low - 0.45)) / 4, math.ceil(4 * high) / 4)
    assert never > 0.05


def test_a_mean_that_is_detectable_is_detected_in_four_of_five() -> None:
    rng = np.random.default_rng(0)

    def compared(by: float) -> Effect:
        a, b = (x + 0.3 * rng.standard_normal(30) for x in (2.0, 2.0 + by))
        return differences(
            [mean_only(a)], [mean_only(b)], unpaired(30, 30), Plan(resamples=200), ["mean_entropy"]
        ).mean["mean_entropy"]

    found = float(np.median([float(compared(0.0).detectable or 0) for _ in range(40)]))
    # By hand: (t of 29 degrees + z of 0.8) x the standard error of the difference, about.
    assert found == pytest.approx((2.05 + 0.84) * 0.3 * math.sqrt(2 / 30), rel=0.1)
    assert 0.65 <= np.mean([compared(found).p <= 0.05 for _ in range(150)]) <= 0.95  # type: ignore[operator]
